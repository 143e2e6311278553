"""Data parallelism: every rank has the same parameters, and the gradients of a step are summed over the ranks.

The sum is taken once a step, after the last micro-batch, in float32 and in buckets (Li et al. 2020, section 4.2). The
parameters are the whole model, or the part of it that tensor and pipeline parallelism give to this rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neolm.distributed.groups import Groups
from neolm.training.division import division_of
from neolm.training.numerics import sum_dtype
from neolm.training.precision import MixedPrecision, buckets

BUCKET_ELEMENTS = 2**23  # 32 MiB of float32


class Replicated(MixedPrecision):
    """`Precision` of parameters that several ranks have; their gradients are added up before the norm is taken."""

    def __init__(self, groups: Groups, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model, dtype)
        self._groups = groups
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def _reduce(self) -> None:
        if self._groups.gradients is not None:
            self._sum(self._groups.gradients, range(len(self._names)))
        for names, group in self._groups.shared:
            self._sum(group, [number for number, name in enumerate(self._names) if name in names])

    def _sum(self, group: dist.ProcessGroup, numbers: Sequence[int]) -> None:
        """Add up the gradients with these numbers over the ranks of `group`."""
        flats, works = [], []
        for places in buckets([self._grads[number] for number in numbers], BUCKET_ELEMENTS):
            members = [numbers[place] for place in places]
            flat = torch.cat([self._grads[number].flatten().float() for number in members])
            flats.append((members, flat))
            works.append(dist.all_reduce(flat, group=group, async_op=True))
            for number in members:
                self._grads[number] = self._grads[number].new_empty(0)
        shapes = [parameter.shape for parameter in self._masters]
        for (members, flat), work in zip(flats, works, strict=True):
            assert work is not None
            work.wait()
            for number, part in zip(members, torch.split(flat, [shapes[n].numel() for n in members]), strict=True):
                self._grads[number] = part.view(shapes[number])

    def _global_norm(self, norms: Tensor) -> Tensor:
        if self._groups.model is None:
            return super()._global_norm(norms)
        return global_norm(self._groups, norms, dict(zip(self._names, self._masters, strict=True)))


def global_norm(groups: Groups, norms: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """The norm of all gradients of a model, of which this rank has those of `parameters`, with these `norms`.

    Several ranks have the parameters that tensor parallelism does not divide, and those that stages of a pipeline
    share. Their gradients are counted on the first of these ranks.
    """
    squares = norms.to(sum_dtype(norms.device)).square()
    repeats = groups.place["tensor"] > 0
    if repeats or groups.counted_elsewhere:
        counted = [
            name not in groups.counted_elsewhere and not (repeats and division_of(parameter) is None)
            for name, parameter in parameters.items()
        ]
        squares *= squares.new_tensor(counted)
    square = squares.sum()
    if groups.model is not None:
        dist.all_reduce(square, group=groups.model)
    return square.sqrt()
