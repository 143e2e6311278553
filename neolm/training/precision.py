"""Mixed precision: float32 master weights for the optimiser, and a working copy for the passes.

The copy is refreshed once a step, so no weight is cast at its use (Micikevicius et al. 2018, section 3.1). Gradients
are accumulated in float32 over the micro-batches, so that k small batches add up to one large one. The master weights
get their gradients one bucket at a time: with one micro-batch, there never are float32 gradients of all parameters.

A frozen parameter has no master weight and no gradient, and no copy either if it has the type of the passes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from neolm.core.errors import InputError
from neolm.training.division import whole_size
from neolm.training.numerics import sum_dtype

MAX_BUCKET_ELEMENTS = 2**26  # of a gradient bucket; a larger parameter is a bucket by itself


class Precision(Protocol):
    """Where weights and gradients live between passes and optimiser; a parallel plan may replace it."""

    working: nn.Module
    """The module that the passes run in."""
    dtype: torch.dtype
    """Type of the passes."""

    def refresh(self) -> None:
        """Copy the master weights to the working weights and clear the gradients."""

    def gather(self) -> None:
        """Add the gradients of the last backward pass to the accumulated ones."""

    def finish(self, divisor: float, clip: float | None) -> Tensor:
        """Divide the accumulated gradient, over all ranks, and clip it to the norm `clip`.

        Returns the global norm before clipping, a scalar on the device; not finite if any gradient is not.
        """

    def hand_over(self) -> Iterator[None]:
        """Give the master weights their gradients, one bucket at each iteration; the others have none.

        Optimisers skip parameters without a gradient.
        """


class MixedPrecision:
    """`Precision` on one device: `working` is `model` itself in float32, or else a copy in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Raises `InputError` if a parameter to train is not float32."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise InputError(f"{name} is {parameter.dtype}; what is trained must be float32 (dtype='float32')")
        self.model = self.working = model
        self.dtype = dtype
        if dtype != torch.float32:  # cast before the copy, so that there is no second one in float32
            cast = {id(p): nn.Parameter(p.detach().to(dtype), p.requires_grad) for p in model.parameters()}
            self.working = copy.deepcopy(model, cast)
        self._masters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._copies: list[Tensor] = [p for p in self.working.parameters() if p.requires_grad]
        self._frozen_are_stale = self.working is not model
        self._grads: list[Tensor] = []
        self._factor = torch.ones(())

    @torch.no_grad()
    def refresh(self) -> None:
        """See `Precision`."""
        if self.working is not self.model:
            torch._foreach_copy_(self._copies, self._masters)
            if self._frozen_are_stale:  # the first time: a checkpoint may have been restored since the copy was made
                self._copy_frozen()
        for parameter in (*self._masters, *self._copies):
            parameter.grad = None
        self._grads = []

    def _copy_frozen(self) -> None:
        for original, duplicate in zip(self.model.parameters(), self.working.parameters(), strict=True):
            if not original.requires_grad and original.data_ptr() != duplicate.data_ptr():
                duplicate.copy_(original)
        self._frozen_are_stale = False

    @torch.no_grad()
    def gather(self) -> None:
        """See `Precision`. The sums are in float32 from the second micro-batch on."""
        if self.working is self.model:
            return  # autograd accumulates in float32
        if not self._grads:
            self._grads = _take_gradients(self._copies)
            return
        fresh = [number for number, parameter in enumerate(self._copies) if parameter.grad is not None]
        for number in fresh:  # one at a time, so that each is freed as the next is made
            self._grads[number] = self._grads[number].float()
        if fresh:
            grads = _take_gradients([self._copies[number] for number in fresh])
            torch._foreach_add_([self._grads[number] for number in fresh], grads)

    @torch.no_grad()
    def finish(self, divisor: float, clip: float | None) -> Tensor:
        """See `Precision`."""
        if self.working is self.model:
            self._grads = _take_gradients(self._masters)
        self._reduce()
        norms = torch.stack(torch._foreach_norm(self._grads, 2, torch.float32))
        norm = self._global_norm(norms).to(sum_dtype(norms.device)) / divisor
        share = torch.ones_like(norm) if clip is None else (clip / norm).clamp(max=1.0)
        self._factor = (share / divisor).float()
        return norm

    def _reduce(self) -> None:
        """Add the accumulated gradients of other devices to `_grads`; there are none."""

    def _global_norm(self, norms: Tensor) -> Tensor:
        """The norm of all gradients, from the `norms` of those of the trained parameters of this process."""
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm

    def hand_over(self) -> Iterator[None]:
        """See `Precision`."""
        for members in buckets(self._masters, MAX_BUCKET_ELEMENTS):
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
    """Remove the gradients from the parameters and return them; zeros where there is none."""
    taken = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def buckets(parameters: Sequence[Tensor], most: int) -> Iterator[list[int]]:
    """Indices of consecutive parameters with at most `most` elements together, at least one.

    Elements of whole parameters are counted, so that processes that divide them have the same buckets.
    """
    members, size = list[int](), 0
    for number, parameter in enumerate(parameters):
        elements = whole_size(parameter).numel()
        if members and size + elements > most:
            yield members
            members, size = [], 0
        members.append(number)
        size += elements
    if members:
        yield members
