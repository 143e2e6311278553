"""LAMB (You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes", algorithm 2).

Adam's step and the weight decay are scaled, for each layer, to the norm of its weights:

    u = m / (sqrt(v) + eps) + weight_decay * w,    w <- w - lr * |w| / |u| * u,

where the ratio is 1 if a norm is 0. A "layer" is a parameter, or one of equal blocks of its rows where a matrix holds
several layers, as that of queries, keys and values does. ALBERT (Lan et al. 2020) used no bias correction, and left
biases and norms out of the decay and of the scaling, as Google's `lamb_optimizer.py` does.

The moments and Adam's step are torch's fused Adam, applied to zeros at a learning rate of -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neolm.training.division import whole_size
from neolm.training.precision import buckets
from neolm.training.sharded_tensor import gradient_of, is_sharded, local_tensor, part_of, whole_tensor, with_part

MAX_ELEMENTS = 2**20  # of parameters updated together: few enough for the caches, and for the memory of their steps


class Lamb(torch.optim.Optimizer):
    """LAMB; the state of a parameter is that of torch's fused Adam: `step`, `exp_avg`, `exp_avg_sq`.

    Each group of parameters has its `weight_decay`, and in `blocks` the number of layers in the rows of each parameter;
    0: the parameters are not scaled.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6
    ) -> None:
        self.found_inf: Tensor | None = None
        """As of torch's fused AdamW: a scalar on the device; if it is 1, a step changes no parameter."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.01, "blocks": 1}
        # `load_state_dict` leaves the counters on the CPU without this
        super().__init__(groups, defaults | {"fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for members in buckets(parameters, MAX_ELEMENTS):
                self._move([parameters[number] for number in members], group)

    def _move(self, members: list[nn.Parameter], group: dict[str, Any]) -> None:
        steps = self._adam_steps(members, group)
        parameters = [local_tensor(p) for p in members]
        if group["weight_decay"]:
            torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
        if self.found_inf is not None:
            torch._foreach_mul_(steps, 1 - self.found_inf)
        if not group["blocks"]:
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])
            return
        whole = [whole_tensor(with_part(step, p)) for step, p in zip(steps, members, strict=True)]
        weights: list[Tensor] = [whole_tensor(p) for p in members]
        layers, moves = ([_layers(tensor, group["blocks"]) for tensor in tensors] for tensors in (weights, whole))
        sizes, lengths = _norms(layers), _norms(moves)
        ratios = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0)
        factors = (ratios * -group["lr"]).view(-1, group["blocks"], 1, 1)
        for p, layer, move, factor in zip(members, layers, moves, factors, strict=True):
            if is_sharded(p):
                local_tensor(p).add_(part_of((move * factor).view(whole_size(p)), p))
            else:
                layer.addcmul_(move, factor)

    def _adam_steps(self, members: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        """Update the moments and return m / (sqrt(v) + eps) of each parameter; zeros where `found_inf` is 1."""
        for p in members:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        steps = [torch.zeros_like(local_tensor(p)) for p in members]
        counters = [self.state[p]["step"] for p in members]
        means, squares = ([local_tensor(self.state[p][key]) for p in members] for key in ("exp_avg", "exp_avg_sq"))
        torch._foreach_add_(counters, 1)
        torch._fused_adam_(
            steps,
            [gradient_of(p) for p in members],
            means,
            squares,
            [],
            counters,
            lr=-1.0,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            torch._foreach_sub_(counters, [self.found_inf] * len(counters))
        return steps


def _layers(tensor: Tensor, blocks: int) -> Tensor:
    """View of a matrix (rows, columns) as (blocks, rows / blocks, columns); a vector counts as a single row a block."""
    return tensor.view(blocks, -1, tensor.shape[-1] if tensor.dim() > 1 else tensor.numel() // blocks)


def _norms(layers: list[Tensor]) -> Tensor:
    """Norms of the blocks of all `layers`; row by row, because a sum of millions in float32 is off by 1e-4."""
    rows = [torch.linalg.vector_norm(layer, dim=-1) for layer in layers]
    return torch.cat([torch.linalg.vector_norm(norms, dim=-1) for norms in rows])
