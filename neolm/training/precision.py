"""Mixed precision: float32 masters that the optimiser moves, and a working copy that the passes run in.

The copy is refreshed once a step, so no weight is cast at its use (Micikevicius et al. 2018, section 3.1). Gradients
are added up in float32 over the micro-batches, so that k small batches add up as one large batch does. The masters get
theirs a few parameters at a time: with one micro-batch there never are float32 gradients of all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from neolm.models.decoder import Decoder

MAX_BUCKET_ELEMENTS = 2**26  # of a gradient bucket; a larger parameter is a bucket by itself


class WorkingCopy:
    """`model` with float32 parameters, and `working`, the module to call: the same one, or a copy in `dtype`."""

    def __init__(self, model: Decoder, dtype: torch.dtype) -> None:
        self.model = model
        self.working = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._masters: list[Tensor] = list(model.parameters())
        self._copies: list[Tensor] = list(self.working.parameters())
        self._grads: list[Tensor] = []
        self._factor = 1.0

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working weights up to the masters, and forget old gradients."""
        if self.working is not self.model:
            torch._foreach_copy_(self._copies, self._masters)
        for parameter in (*self._masters, *self._copies):
            parameter.grad = None
        self._grads = []

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of the last backward pass to the sums, which are in float32 from the second on."""
        if self.working is self.model:
            return  # autograd itself adds them up, in float32
        fresh = _take_gradients(self._copies)
        if not self._grads:
            self._grads = fresh
            return
        for number, grad in enumerate(self._grads):  # one after the other, each freed as the next is made
            self._grads[number] = grad.float()
        torch._foreach_add_(self._grads, fresh)

    @torch.no_grad()
    def finish(self, count: float, clip: float | None) -> float:
        """Settle what the gradients are multiplied by: 1 / `count`, and what clips them to the norm `clip`.

        `count` is that of the targets, times the factor by which the loss was scaled. Returns the global norm before
        clipping; not finite if any gradient is not.
        """
        if self.working is self.model:
            self._grads = _take_gradients(self._masters)
        norms = torch._foreach_norm(self._grads, 2, torch.float32)
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) / (count or 1)
        self._factor = (1.0 if clip is None or norm <= clip else clip / norm) / (count or 1)
        return norm

    def hand_over(self) -> Iterator[None]:
        """Give the masters their gradients, in float32; at each pause some of them have one and the others have none.

        A parameter has its turn once. Optimisers pass over those without a gradient.
        """
        for members in _buckets(self._masters):
            grads = [self._grads[number].float() for number in members]
            torch._foreach_mul_(grads, self._factor)
            for number, grad in zip(members, grads, strict=True):
                self._masters[number].grad = grad
                self._grads[number] = grad.new_empty(0)
            del grads, grad
            yield
            for number in members:
                self._masters[number].grad = None


def _take_gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Their gradients, zero where there is none, which they then have no longer."""
    taken = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def _buckets(parameters: list[Tensor]) -> Iterator[list[int]]:
    """The parameters' places in turn, so many together as have `MAX_BUCKET_ELEMENTS` numbers, at least one."""
    members, size = list[int](), 0
    for number, parameter in enumerate(parameters):
        if members and size + parameter.numel() > MAX_BUCKET_ELEMENTS:
            yield members
            members, size = [], 0
        members.append(number)
        size += parameter.numel()
    if members:
        yield members
