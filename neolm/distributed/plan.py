"""The plan by which the ranks share a training: what replaces the seams of the loop (`training.run.Parallelism`).

- `pretrain.parallel.shard = 1`: every rank has the whole model, and gradients are summed over the ranks.
- `shard = n`: weights, gradients and optimiser state are divided over groups of n ranks (fully sharded data
  parallelism, FSDP2; Zhao et al. 2023). With more ranks than n, each group has a copy, and gradients are summed over
  the groups too (hybrid sharding).

Both train as one process does, because losses are sums that are divided by the number of targets of all ranks.
"""

from __future__ import annotations

from functools import partial

import torch.distributed as dist

from neolm.core.errors import SettingError
from neolm.distributed.data_parallel import Replicated
from neolm.distributed.groups import Groups
from neolm.distributed.sharded import EqualPasses, Sharded
from neolm.training.parallel_config import ParallelConfig
from neolm.training.run import Parallelism
from neolm.training.world import World


def parallelism(config: ParallelConfig, device: str) -> Parallelism:
    """The plan of the ranks in the process group of this process."""
    for name in ("tensor", "pipeline", "context"):
        if getattr(config, name) > 1:
            raise SettingError(f"parallel.{name}", "must be 1: this parallelism is not supported yet")
    grid = config.grid(dist.get_world_size() if dist.is_initialized() else 1)
    world = World(config.timeout, grid)
    if world.count == 1:
        return Parallelism(world)
    groups = Groups(grid, device)
    if config.shard == 1:
        return Parallelism(world, precision=partial(Replicated, groups))
    return Parallelism(world, precision=partial(Sharded, groups), passes=partial(EqualPasses, world))
