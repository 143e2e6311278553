"""The plan by which the ranks share a training: what replaces the seams of the loop (`training.run.Parallelism`).

- `pretrain.parallel.shard = 1`: every rank has the whole model, and gradients are summed over the ranks.
- `tensor = n`: n neighbours share each matrix and the vocabulary (`neolm.distributed.tensor_parallel`). The other axes
  then divide or repeat the part of each place among them.
- `shard = n`: weights, gradients and optimiser state are divided over groups of n ranks (fully sharded data
  parallelism, FSDP2; Zhao et al. 2023). With more ranks than n, each group has a copy, and gradients are summed over
  the groups too (hybrid sharding).
- `context = n`: n ranks divide the tokens of each sequence (`neolm.distributed.context`).

All train as one process does, because losses are sums that are divided by the number of targets of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from neolm.core.errors import SettingError
from neolm.distributed.communication import CommunicationMeter
from neolm.distributed.context import ContextRank
from neolm.distributed.data_parallel import Replicated
from neolm.distributed.groups import Groups
from neolm.distributed.sharded import EqualPasses, Sharded
from neolm.distributed.tensor_parallel import TensorGroup, divide
from neolm.training.parallel_config import ParallelConfig
from neolm.training.precision import Precision
from neolm.training.rank_grid import DATA
from neolm.training.run import Parallelism
from neolm.training.world import World

Division = Callable[[nn.Module], None]
"""Changes a model, which is whole in every rank, into the part of this rank."""


def parallelism(config: ParallelConfig, device: str) -> Parallelism:
    """The plan of the ranks in the process group of this process."""
    if config.pipeline > 1:
        raise SettingError("parallel.pipeline", "must be 1: this parallelism is not supported yet")
    grid = config.grid(dist.get_world_size() if dist.is_initialized() else 1)
    world = World(config.timeout, grid)
    if world.count == 1:
        return Parallelism(world)
    groups = Groups(grid, device)
    together = grid.size(DATA) < world.count or config.shard > 1
    plan = Parallelism(world, together=together, meter=CommunicationMeter(world, device))
    divisions = list[Division]()
    if groups.tensor is not None:
        ranks = TensorGroup(groups.tensor, groups.place["tensor"], grid.sizes["tensor"])
        divisions.append(partial(divide, ranks=ranks))
    context = groups.along(["context"])
    if context is not None:
        rank = ContextRank(context)
        divisions.append(rank.divide)
        plan = replace(plan, cut=rank.cut)
    if config.shard == 1:
        return replace(plan, precision=partial(_divided, divisions, partial(Replicated, groups)))
    precision = partial(_divided, divisions, partial(Sharded, groups))
    return replace(plan, precision=precision, passes=partial(EqualPasses, world))


def _divided(
    divisions: Sequence[Division],
    precision: Callable[[nn.Module, torch.dtype], Precision],
    model: nn.Module,
    dtype: torch.dtype,
) -> Precision:
    """The `precision` of `model`, of which this rank keeps its part after all `divisions`."""
    for division in divisions:
        division(model)
    return precision(model, dtype)
