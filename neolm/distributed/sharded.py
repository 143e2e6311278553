"""Fully sharded data parallelism: torch's FSDP2 behind the seams of the loop (Zhao et al. 2023).

Each rank keeps a part of the rows of every float32 master weight, of its gradient and of its optimiser state. A block's
weights are gathered, in the type of the passes, before its forward and its backward pass, and freed after them; its
gradients are summed over the ranks in float32. The embeddings and the head, which may be one tensor, are in one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from neolm.core.errors import InputError
from neolm.data.batch import Batch
from neolm.distributed.data_parallel import global_norm
from neolm.distributed.groups import Groups
from neolm.training.division import division_of, mark
from neolm.training.loop import own_blocks
from neolm.training.objective import Objective
from neolm.training.passes import GradientAccumulation, Sums
from neolm.training.precision import Precision
from neolm.training.sharded_tensor import gradient_of
from neolm.training.world import World


class Sharded:
    """`Precision` of a model whose parameters are divided over ranks; `model` is changed in place."""

    def __init__(self, groups: Groups, model: nn.Module, dtype: torch.dtype) -> None:
        """Raises `InputError` in float16, whose loss scale would overflow in sums over ranks."""
        if dtype == torch.float16:
            raise InputError("precision: float16 cannot be sharded; choose bfloat16, float32 or parallel.shard=1")
        policy = MixedPrecisionPolicy(
            None if dtype == torch.float32 else dtype, torch.float32, cast_forward_inputs=False
        )
        mesh = groups.mesh()
        divisions = {name: division_of(parameter) for name, parameter in model.named_parameters()}
        for block in own_blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        self._parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for part in self._parts:
            part.set_gradient_divide_factor(1.0)  # the loop divides by the number of targets
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other one
        self.model = self.working = model
        self.dtype = dtype
        for name, parameter in model.named_parameters():  # FSDP has replaced them
            mark(parameter, divisions[name])
        self._groups = groups
        self._trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._factor = torch.ones(())

    def refresh(self) -> None:
        """See `Precision`. The weights are gathered where they are used; what is gathered may be out of date."""
        for part in self._parts:
            part.reshard()
        for parameter in self._trained.values():
            parameter.grad = None

    def gather(self) -> None:
        """See `Precision`. FSDP adds up the gradients of this rank's rows in float32."""

    @torch.no_grad()
    def finish(self, divisor: float, clip: float | None) -> Tensor:
        """See `Precision`."""
        parameters = {name: parameter for name, parameter in self._trained.items() if parameter.grad is not None}
        grads = {name: gradient_of(parameter) for name, parameter in parameters.items()}
        for names, group in self._groups.shared:
            for name in [name for name in grads if name in names]:
                dist.all_reduce(grads[name], group=group)
        norms = torch.stack(torch._foreach_norm([*grads.values()], 2, torch.float32))
        norm = global_norm(self._groups, norms, parameters) / divisor
        share = torch.ones_like(norm) if clip is None else (clip / norm).clamp(max=1.0)
        self._factor = (share / divisor).float()
        return norm

    @torch.no_grad()
    def hand_over(self) -> Iterator[None]:
        """See `Precision`. All gradients at once, because each rank has only its part of them."""
        grads = [gradient_of(parameter) for parameter in self._trained.values() if parameter.grad is not None]
        torch._foreach_mul_(grads, self._factor)
        yield
        for parameter in self._trained.values():
            parameter.grad = None


class EqualPasses(GradientAccumulation):
    """Runs as many passes on every rank, because each gathers weights from all of them.

    A rank with fewer micro-batches repeats its last one with weight zero.
    """

    def __init__(self, world: World, module: nn.Module, objective: Objective, precision: Precision) -> None:
        super().__init__(module, objective, precision)
        self._world = world

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """See `Passes`."""
        missing = self._world.most(len(parts)) - len(parts)  # asked first: a pass would wait for those who ask
        sums = super().run(parts, factors)
        for _ in range(missing):
            super().run(parts[-1:], dict.fromkeys(factors, 0.0))
        return sums
