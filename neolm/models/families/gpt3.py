"""GPT-3 (Brown et al. 2020, table 2.1): GPT-2's architecture, tensors and files, with a longer context.

Two rows of the table contradict themselves. As is customary, XL has 16 heads (24 x 128 is not 2048), and 13B has a
width of 5120 (5140 is not divisible by 40). GPT-3 alternates dense layers and locally banded sparse ones of undisclosed
sizes; the presets are dense.
"""

from __future__ import annotations

from dataclasses import replace

from neolm.models.families.family import Preset
from neolm.models.families.gpt2 import GPT2

GPT3 = replace(
    GPT2,
    title="GPT-3",
    defaults={"max_position_embeddings": 2048},
    presets=(
        Preset("gpt3-small", 12, 768, 12, 125_226_240),
        Preset("gpt3-medium", 24, 1024, 16, 355_871_744),
        Preset("gpt3-large", 24, 1536, 16, 760_300_032),
        Preset("gpt3-xl", 24, 2048, 16, 1_315_723_264),
        Preset("gpt3-2.7b", 32, 2560, 32, 2_651_553_280),
        Preset("gpt3-6.7b", 32, 4096, 32, 6_658_404_352),
        Preset("gpt3-13b", 40, 5120, 40, 12_853_386_240),
        Preset("gpt3-175b", 96, 12288, 96, 174_604_259_328),
    ),
)
