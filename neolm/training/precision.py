"""Mixed precision: float32 masters that the optimiser moves, and a working copy that the passes run in.

The copy is refreshed once a step, so no weight is cast at its use (Micikevicius et al. 2018, section 3.1). Gradients
are gathered in float32 over the micro-batches, so that k small batches add up as one large batch does.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from neolm.models.decoder import Decoder


class WorkingCopy:
    """`model` with float32 parameters, and `working`, the module to call: the same one, or a copy in `dtype`."""

    def __init__(self, model: Decoder, dtype: torch.dtype) -> None:
        self.model = model
        self.working = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._masters: list[Tensor] = list(model.parameters())
        self._copies: list[Tensor] = list(self.working.parameters())
        self._grads: list[Tensor] = []

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
        """Add the gradients of the last backward pass to the float32 sums."""
        if self.working is self.model:
            return  # autograd itself adds them up, in float32
        fresh = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._copies]
        if not self._grads:
            self._grads = [torch.empty_like(p) for p in self._masters]
            torch._foreach_copy_(self._grads, fresh)
        else:
            torch._foreach_add_(self._grads, fresh)  # one after the other, each sum in float32
        for parameter in self._copies:
            parameter.grad = None

    @torch.no_grad()
    def finish(self, count: float, clip: float | None) -> float:
        """Hand the masters their gradient: the sum over `count` targets, divided by it and clipped to the norm `clip`.

        `count` is times the factor by which the loss was scaled. Returns the global norm before clipping; not finite if
        any gradient is not.
        """
        grads = self._grads or [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._masters]
        norms = torch._foreach_norm(grads)
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) / (count or 1)
        scale = 1.0 if clip is None or norm <= clip else clip / norm
        torch._foreach_mul_(grads, scale / (count or 1))
        for parameter, grad in zip(self._masters, grads, strict=True):
            parameter.grad = grad
        return norm
