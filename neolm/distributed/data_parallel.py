"""Data parallelism: every rank has the whole model, and the gradients of a step are summed over the ranks.

The sum is taken once a step, after the last micro-batch, in float32 and in buckets (Li et al. 2020, section 4.2).
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from neolm.training.precision import MixedPrecision, buckets

BUCKET_ELEMENTS = 2**23  # 32 MiB of float32


class Replicated(MixedPrecision):
    """`Precision` of a model that every rank has; the ranks' gradients are added up before their norm is taken."""

    def _reduce(self) -> None:
        flats, works = [], []
        for members in buckets(self._grads, BUCKET_ELEMENTS):
            flat = torch.cat([self._grads[number].flatten().float() for number in members])
            flats.append((members, flat))
            works.append(dist.all_reduce(flat, async_op=True))
            for number in members:
                self._grads[number] = self._grads[number].new_empty(0)
        shapes = [parameter.shape for parameter in self._masters]
        for (members, flat), work in zip(flats, works, strict=True):
            assert work is not None
            work.wait()
            for number, part in zip(members, torch.split(flat, [shapes[n].numel() for n in members]), strict=True):
                self._grads[number] = part.view(shapes[number])
