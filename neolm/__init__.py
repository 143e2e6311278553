"""NeoLM: the whole life of a language model, from raw text to a model that speaks.

The Python interface is four verbs and a runner; each is loaded when first used, so that `import neolm` stays light:

    model = neolm.load_model("runs/quickstart/model")
    tokenizer = neolm.load_tokenizer("runs/quickstart/model")
    neolm.generate(model, tokenizer, ["def main("], max_new_tokens=64)
    neolm.run("quickstart", ["output=runs/mine"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "load_tokenizer", "run"]

if TYPE_CHECKING:
    from neolm.generation.generate import generate
    from neolm.models.hf import load_model
    from neolm.pipeline import run
    from neolm.tokenizer.tokenizer import load_tokenizer

_HOMES = {
    "generate": "neolm.generation.generate",
    "load_model": "neolm.models.hf",
    "load_tokenizer": "neolm.tokenizer.tokenizer",
    "run": "neolm.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'neolm' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
