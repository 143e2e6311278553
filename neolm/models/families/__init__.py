"""The published model families.

They are one architecture with different settings (`neolm.models.config.DecoderConfig`):

| field               | gpt2, gpt3       | gpt-neo                | gpt-neox                        |
|---------------------|------------------|------------------------|---------------------------------|
| position_embedding  | learned          | learned                | rotary, on a fraction of a head |
| attention_layers    | global           | global, local in turn  | global                          |
| attention_scale     | 1/sqrt(head)     | 1.0                    | 1/sqrt(head)                    |
| qkv_bias            | yes              | no                     | yes                             |
| parallel_residual   | no               | no                     | yes                             |
| tie_embeddings      | yes              | yes                    | no                              |
| activation          | gelu_new         | gelu_new               | gelu (20B: gelu_fast)           |
"""

from __future__ import annotations

from neolm.models.families.family import Family
from neolm.models.families.gpt2 import GPT2
from neolm.models.families.gpt3 import GPT3
from neolm.models.families.gpt_neo import GPT_NEO
from neolm.models.families.gpt_neox import GPT_NEOX

FAMILIES: dict[str, Family] = {"gpt2": GPT2, "gpt3": GPT3, "gpt-neo": GPT_NEO, "gpt-neox": GPT_NEOX}
