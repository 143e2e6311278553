"""Published tensors from and to our parameters; the names are tables in `neolm.models.families`.

There are four layouts. `plain`: the same as ours. `transposed`: GPT-2 stores a linear layer as (in, out). `stacked`:
GPT-Neo has separate matrices for queries, keys and values; ours is one matrix with the rows [all q | all k | all v].
`interleaved`: GPT-NeoX groups the rows of that matrix by head: [q k v] of the first head, then of the second. (GPT-2's
`c_attn` has the columns [all q | all k | all v], so it is only transposed.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.families.family import Layout

HEADS = {f"{family.head}.weight" for family in FAMILIES.values()}
# Causal masks and rotary tables in old files.
_BUFFERS = re.compile(
    r"\.(attn|attention|crossattention)\.(bias|masked_bias)$|rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
)


@dataclass(frozen=True)
class Entry:
    """One of our parameters and the published tensors that hold it."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout

    def shape(self, ours: torch.Size) -> tuple[int, ...]:
        """Shape of each published tensor if our parameter has the shape `ours`."""
        if self.layout == "transposed":
            return tuple(reversed(ours))
        return (ours[0] // len(self.theirs), *ours[1:])

    def gather(self, tensors: list[Tensor], num_heads: int) -> Tensor:
        """Our parameter from the published tensors."""
        if self.layout == "transposed":
            return tensors[0].t().contiguous()
        if self.layout == "stacked":
            return torch.cat(tensors)
        if self.layout == "interleaved":
            return _regroup(tensors[0], num_heads, 3)
        return tensors[0]

    def scatter(self, tensor: Tensor, num_heads: int) -> tuple[Tensor, ...]:
        """The published tensors from our parameter, each contiguous."""
        if self.layout == "transposed":
            return (tensor.t().contiguous(),)
        if self.layout == "stacked":
            return tensor.contiguous().chunk(3)
        if self.layout == "interleaved":
            return (_regroup(tensor, 3, num_heads),)
        return (tensor.contiguous(),)


def _regroup(tensor: Tensor, outer: int, inner: int) -> Tensor:
    """Change the order of rows from (outer, inner) to (inner, outer)."""
    rows = tensor.shape[0] // (outer * inner)
    return tensor.reshape(outer, inner, rows, -1).transpose(0, 1).reshape(tensor.shape)


def entry_of(config: DecoderConfig, ours: str) -> Entry:
    """The published tensors of our parameter `ours`, such as `blocks.3.mlp.expand.bias`."""
    family = FAMILIES[config.family]
    module, _, kind = ours.rpartition(".")
    if module == "head":
        return Entry(ours, (f"{family.head}.{kind}",), "plain")
    layer = "".join(re.findall(r"^blocks\.(\d+)\.", module))
    rule = next(rule for rule in family.rules if rule.ours.replace("#", layer) == module)
    theirs = tuple(f"{family.prefix}{name.replace('#', layer)}.{kind}" for name in rule.theirs)
    return Entry(ours, theirs, rule.layout)


def canonical_name(config: DecoderConfig, found: str) -> str | None:
    """The name in `entry_of` of a tensor that a file calls `found`; None for a buffer, which is not a weight."""
    family = FAMILIES[config.family]
    if _BUFFERS.search(found):
        return None
    if found in HEADS:
        return f"{family.head}.weight"
    return found if found.startswith(family.prefix) else family.prefix + found


def published_tensors(config: DecoderConfig, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Published names and tensors of `parameters`, which have our names, one at a time; a tied head is left out."""
    for ours, tensor in parameters.items():
        if ours == "head.weight" and config.tie_embeddings:
            continue
        found = entry_of(config, ours)
        yield from zip(found.theirs, found.scatter(tensor.detach(), config.num_heads), strict=True)
