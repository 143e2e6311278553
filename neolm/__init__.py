"""NeoLM: language models from raw text to a served model.

The functions below are imported when they are first used, so that `import neolm` stays fast:

    model = neolm.load_model("runs/quickstart")
    tokenizer = neolm.load_tokenizer("runs/quickstart")
    neolm.generate(model, tokenizer, "def main(", max_new_tokens=64)
    neolm.run("quickstart", {"output": "runs/mine"})

docs/python.md describes them.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch's OpenMP threads spin while they wait, by default so long that training next to another program is several times
# slower. libgomp reads this when torch is imported. Measured in docs/log.md; the user's own settings are kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from neolm.core.metrics import read_metrics
    from neolm.embedding.embedder import load_embedder
    from neolm.evaluation.evaluate import evaluate_model as evaluate
    from neolm.generation.generate import generate, stream
    from neolm.models.hf import load_model, save_model
    from neolm.pipeline import run
    from neolm.prediction.decide import decide
    from neolm.prediction.predict import predict
    from neolm.tokenizer.tokenizer import load_tokenizer
    from neolm.training.loop import train

_EXPORTS = {
    "decide": "neolm.prediction.decide:decide",
    "evaluate": "neolm.evaluation.evaluate:evaluate_model",
    "generate": "neolm.generation.generate:generate",
    "load_embedder": "neolm.embedding.embedder:load_embedder",
    "load_model": "neolm.models.hf:load_model",
    "load_tokenizer": "neolm.tokenizer.tokenizer:load_tokenizer",
    "predict": "neolm.prediction.predict:predict",
    "read_metrics": "neolm.core.metrics:read_metrics",
    "run": "neolm.pipeline:run",
    "save_model": "neolm.models.hf:save_model",
    "stream": "neolm.generation.generate:stream",
    "train": "neolm.training.loop:train",
}
__all__ = [
    "__version__",
    "decide",
    "evaluate",
    "generate",
    "load_embedder",
    "load_model",
    "load_tokenizer",
    "predict",
    "read_metrics",
    "run",
    "save_model",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'neolm' has no attribute '{name}'")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
