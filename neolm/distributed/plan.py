"""The plan by which the ranks share a training: what replaces the seams of the loop (`training.run.Parallelism`).

- `pretrain.parallel.shard = 1`: every rank has the whole model, and gradients are summed over the ranks.
- `tensor = n`: n neighbours share each matrix and the vocabulary (`neolm.distributed.tensor_parallel`). The other axes
  then divide or repeat the part of each place among them.
- `shard = n`: weights, gradients and optimiser state are divided over groups of n ranks (fully sharded data
  parallelism, FSDP2; Zhao et al. 2023). With more ranks than n, each group has a copy, and gradients are summed over
  the groups too (hybrid sharding).
- `context = n`: n ranks divide the tokens of each sequence (`neolm.distributed.context`).
- `pipeline = p`: the layers are divided over p ranks, through which micro-batches travel; what is said above then holds
  for the ranks with the same layers.

All train as one process does, because losses are sums that are divided by the number of targets of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch.distributed as dist
from torch import nn

from neolm.distributed.communication import CommunicationMeter
from neolm.distributed.context import ContextRank
from neolm.distributed.data_parallel import Replicated
from neolm.distributed.groups import Groups
from neolm.distributed.pipeline import Pipeline, PipelinePasses
from neolm.distributed.sharded import EqualPasses, Sharded
from neolm.distributed.tensor_parallel import TensorGroup, divide
from neolm.training.parallel_config import ParallelConfig
from neolm.training.pipeline_schedule import MICRO_BATCHES
from neolm.training.rank_grid import DATA
from neolm.training.run import Parallelism
from neolm.training.world import World

Division = Callable[[nn.Module], None]
"""Changes a model, which is whole in every rank, into the part of this rank."""


def parallelism(config: ParallelConfig, device: str) -> Parallelism:
    """The plan of the ranks in the process group of this process."""
    grid = config.grid(dist.get_world_size() if dist.is_initialized() else 1)
    world = World(config.timeout, grid)
    if world.count == 1:
        return Parallelism(world)
    groups = Groups(grid, device, config.timeout)
    sharded = config.shard > 1
    together = grid.size(DATA) < world.count or sharded
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
    if config.pipeline > 1:
        pipeline = Pipeline(world, groups, config.chunks)
        divisions.append(pipeline.divide)
        passes = partial(PipelinePasses, pipeline, sharded)
        plan = replace(plan, passes=passes, micro_batches=MICRO_BATCHES * config.pipeline)
    elif sharded:
        plan = replace(plan, passes=partial(EqualPasses, world))
    precision = partial(Sharded if sharded else Replicated, groups)
    return replace(plan, precision=precision, moves=sharded, divide=partial(_divide, divisions))


def _divide(divisions: Sequence[Division], model: nn.Module) -> None:
    for division in divisions:
        division(model)
