"""The plan by which the ranks share a training: what replaces the seams of the loop (`training.run.Parallelism`).

- `pretrain.parallel.shard = 1`: every rank has the whole model, and gradients are summed over the ranks.
- `shard = n`: weights, gradients and optimiser state are divided over groups of n ranks (fully sharded data
  parallelism, FSDP2; Zhao et al. 2023). With more ranks than n, each group has a copy, and gradients are summed over
  the groups too (hybrid sharding).

Both train as one process does, because losses are sums that are divided by the number of targets of all ranks.
"""

from __future__ import annotations

from functools import partial

from neolm.distributed.data_parallel import Replicated
from neolm.distributed.sharded import EqualPasses, Sharded, mesh_of
from neolm.training.parallel_config import ParallelConfig
from neolm.training.run import Parallelism
from neolm.training.world import World


def parallelism(config: ParallelConfig, device: str) -> Parallelism:
    """The plan of the ranks in the process group of this process."""
    world = World(config.timeout)
    if world.count == 1:
        return Parallelism(world)
    if config.shard == 1:
        return Parallelism(world, precision=Replicated)
    mesh = mesh_of(world.count, config.shard, device)
    return Parallelism(world, precision=partial(Sharded, mesh), passes=partial(EqualPasses, world))
