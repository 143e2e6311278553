"""The published model families.

The decoders are one architecture with different settings (`neolm.models.config.DecoderConfig`):

| field               | gpt2, gpt3       | gpt-neo                | gpt-neox                        |
|---------------------|------------------|------------------------|---------------------------------|
| position_embedding  | learned          | learned                | rotary, on a fraction of a head |
| attention_layers    | global           | global, local in turn  | global                          |
| attention_scale     | 1/sqrt(head)     | 1.0                    | 1/sqrt(head)                    |
| qkv_bias            | yes              | no                     | yes                             |
| parallel_residual   | no               | no                     | yes                             |
| tie_embeddings      | yes              | yes                    | no                              |
| activation          | gelu_new         | gelu_new               | gelu (20B: gelu_fast)           |

The encoders too (`neolm.models.encoder_config.EncoderConfig`):

| field               | bert             | albert                       |
|---------------------|------------------|------------------------------|
| embedding_size      | hidden_size      | 128, mapped to hidden_size   |
| groups              | none             | 1: all layers are the same   |
| sentence_task       | nsp              | sop                          |
| activation          | gelu             | gelu_new (v1: gelu)          |
| dropout             | 0.1              | 0 (v1, but xxlarge: 0.1)     |
"""

from __future__ import annotations

import difflib
from typing import Any

from neolm.core.errors import SettingError
from neolm.models.families.albert import ALBERT
from neolm.models.families.bert import BERT
from neolm.models.families.family import Family, Preset
from neolm.models.families.gpt2 import GPT2
from neolm.models.families.gpt3 import GPT3
from neolm.models.families.gpt_neo import GPT_NEO
from neolm.models.families.gpt_neox import GPT_NEOX

DECODERS: dict[str, Family] = {"gpt2": GPT2, "gpt3": GPT3, "gpt-neo": GPT_NEO, "gpt-neox": GPT_NEOX}
ENCODERS: dict[str, Family] = {"bert": BERT, "albert": ALBERT}
FAMILIES = DECODERS | ENCODERS

PRESETS: dict[str, tuple[str, Preset]] = {
    preset.name: (family, preset) for family, value in FAMILIES.items() for preset in value.presets
}
"""Name of the preset to its family's name and its sizes."""


def preset(name: str) -> dict[str, Any]:
    """Fields of a published model for `decoder_config`; a `SettingError` for an unknown name lists the nearest."""
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
