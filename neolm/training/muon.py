"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): orthogonalised momentum.

A matrix is updated by the nearest semi-orthogonal matrix to its Nesterov momentum, found by five Newton-Schulz
iterations

    X <- a X + b (X X^T) X + c (X X^T)^2 X,    X_0 = G / |G|,    (a, b, c) = (3.4445, -4.7750, 2.0315),

which bring all singular values near 1. Scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, "Muon is scalable for
LLM training", equation 4) the step has AdamW's usual size, so that AdamW's learning rates and weight decay can be used.

`torch.optim.Muon` is the same, one matrix at a time and always in bfloat16. Here matrices of one shape are stacked, and
a CPU without bfloat16 units, which would emulate it, iterates in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neolm.core.device import choose_precision
from neolm.training.division import whole_size
from neolm.training.sharded_tensor import gradient_of, local_tensor, part_of, whole_tensor, with_part

A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
MAX_STACKED_ELEMENTS = 2**22  # of the matrices in one batched product; larger matrices gain nothing from batching


class Muon(torch.optim.Optimizer):
    """Muon for matrices (rows, columns); each has its momentum in the state, as `momentum_buffer`."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        self.found_inf: Tensor | None = None
        """As of torch's fused AdamW: a scalar on the device; if it is 1, a step changes no matrix."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        assert all(p.dim() == 2 for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrices in _alike(p for p in group["params"] if p.grad is not None):
                self._move(matrices, group)

    def _move(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads = [gradient_of(p) for p in matrices]
        momenta = [local_tensor(self.state[p]["momentum_buffer"]) for p in matrices]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov
        whole = [whole_tensor(with_part(part, p)) for part, p in zip(ahead, matrices, strict=True)]
        steps = orthogonal(torch.stack(whole))  # of whole matrices, in every process
        tensors = [local_tensor(p) for p in matrices]
        decay = 1 - group["lr"] * group["weight_decay"]
        if self.found_inf is None:
            torch._foreach_mul_(tensors, decay)
        else:
            failed = self.found_inf > 0
            steps = steps.masked_fill(failed, 0.0)
            torch._foreach_mul_(tensors, torch.where(failed, 1.0, decay))
        size = 0.2 * max(steps[0].shape) ** 0.5
        parts = [part_of(step, p) for step, p in zip(steps.to(matrices[0].dtype).unbind(), matrices, strict=True)]
        torch._foreach_add_(tensors, parts, alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate semi-orthogonal factor of each of `matrices` (N, rows, columns); singular values of 0.5 to 1.5."""
    x = matrices.to(getattr(torch, choose_precision("auto", str(matrices.device)).value))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))  # (N, m, m), m the shorter side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.transpose(1, 2) if tall else x


def _alike(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group the parameters by whole shape and device, at most `MAX_STACKED_ELEMENTS` elements in a group."""
    groups: dict[tuple[torch.Size, torch.device], list[nn.Parameter]] = {}
    for p in parameters:
        groups.setdefault((whole_size(p), p.device), []).append(p)
    found = []
    for (shape, _), group in groups.items():
        size = max(1, MAX_STACKED_ELEMENTS // shape.numel())
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found
