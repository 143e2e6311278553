"""The published sizes of all families by name."""

from __future__ import annotations

import difflib
from typing import Any

from neolm.core.errors import SettingError
from neolm.models.families import FAMILIES
from neolm.models.families.family import Preset

PRESETS: dict[str, tuple[str, Preset]] = {
    preset.name: (family, preset) for family, value in FAMILIES.items() for preset in value.presets
}
"""Name of the preset to its family's name and its sizes."""


def preset(name: str) -> dict[str, Any]:
    """Fields of a published model for `decoder_config`, with `family`.

    Raises:
        SettingError: there is no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise SettingError("preset", f"unknown preset '{name}'; {_hint(name.lower())}")
    family, size = PRESETS[name]
    return {
        "family": family,
        "num_layers": size.num_layers,
        "hidden_size": size.hidden_size,
        "num_heads": size.num_heads,
        "vocab_size": size.vocab_size,
        "max_position_embeddings": FAMILIES[family].defaults["max_position_embeddings"],
        **size.other,
    }


def _hint(name: str) -> str:
    """The nearest preset, or all whose first word is that of `name`, or all."""
    word = name.partition("-")[0]
    alike = [preset for preset in PRESETS if preset.partition("-")[0] == word]
    near = difflib.get_close_matches(name, alike or PRESETS, n=1, cutoff=0.8) or alike
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(PRESETS)}"
