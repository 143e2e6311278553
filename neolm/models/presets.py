"""Every published size of the four families, as the papers and the released config files give them.

Two rows of GPT-3's Table 2.1 contradict themselves and are mended as is customary: XL has 16 heads (24 x 128 is not
2048), 13B has a width of 5120 (5140 is not divisible by 40).
"""

from __future__ import annotations

import difflib
from typing import Any

from neolm.core.errors import InputError

# name: (layers, hidden size, heads)
_GPT2 = {
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
_GPT3 = {
    "gpt3-small": (12, 768, 12),
    "gpt3-medium": (24, 1024, 16),
    "gpt3-large": (24, 1536, 16),
    "gpt3-xl": (24, 2048, 16),
    "gpt3-2.7b": (32, 2560, 32),
    "gpt3-6.7b": (32, 4096, 32),
    "gpt3-13b": (40, 5120, 40),
    "gpt3-175b": (96, 12288, 96),
}
_GPT_NEO = {
    "gpt-neo-125m": (12, 768, 12),
    "gpt-neo-350m": (24, 1024, 16),
    "gpt-neo-1.3b": (24, 2048, 16),
    "gpt-neo-2.7b": (32, 2560, 20),
}
# name: (layers, hidden size, heads, padded vocabulary); Pythia pads to 128 x its tensor-parallel degree
_PYTHIA = {
    "pythia-14m": (6, 128, 4, 50304),
    "pythia-31m": (6, 256, 8, 50304),
    "pythia-70m": (6, 512, 8, 50304),
    "pythia-160m": (12, 768, 12, 50304),
    "pythia-410m": (24, 1024, 16, 50304),
    "pythia-1b": (16, 2048, 8, 50304),
    "pythia-1.4b": (24, 2048, 16, 50304),
    "pythia-2.8b": (32, 2560, 32, 50304),
    "pythia-6.9b": (32, 4096, 32, 50432),
    "pythia-12b": (36, 5120, 40, 50688),
}


def _sizes(family: str, layers: int, hidden_size: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"family": family, "num_layers": layers, "hidden_size": hidden_size, "num_heads": heads, **more}


PRESETS: dict[str, dict[str, Any]] = {
    **{name: _sizes("gpt2", *size, vocab_size=50257, max_position_embeddings=1024) for name, size in _GPT2.items()},
    **{name: _sizes("gpt3", *size, vocab_size=50257, max_position_embeddings=2048) for name, size in _GPT3.items()},
    **{
        name: _sizes("gpt-neo", *size, vocab_size=50257, max_position_embeddings=2048)
        for name, size in _GPT_NEO.items()
    },
    **{
        name: _sizes("gpt-neox", *size, vocab_size=vocabulary, max_position_embeddings=2048)
        for name, (*size, vocabulary) in _PYTHIA.items()
    },
    "gpt-neox-20b": _sizes(
        "gpt-neox", 44, 6144, 64, vocab_size=50432, max_position_embeddings=2048, activation="gelu_fast"
    ),
}


def preset(name: str) -> dict[str, Any]:
    """The fields of a published model, `family` included.

    Raises:
        InputError: no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(PRESETS)}"
        raise InputError(f"model.preset: unknown preset '{name}'; {hint}")
    return dict(PRESETS[name])
