"""Settings of how the processes that torchrun starts share a training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit
from neolm.core.errors import SettingError
from neolm.data.batch_sizes import BatchSizes


class ParallelConfig(Config):
    """How many processes share one copy of the model."""

    shard: Annotated[int, Field(gt=0), Unit("processes")] = 1
    """Processes over which weights, gradients and optimiser state are divided (FSDP2); 1: each process has all of them.
    With more processes there are several such groups, which train on different examples."""
    timeout: Annotated[int, Field(gt=0), Unit("seconds")] = 600
    """Time for which the processes wait for one that does not answer, before all of them end."""

    def about(self, ranks: int) -> str:
        """The plan of `ranks` processes, in words."""
        if self.shard == 1:
            return f"each of the {ranks} processes has the whole model and a part of each batch"
        copies = f"{ranks // self.shard} copies of the model, each " if ranks > self.shard else "the model is "
        return f"{copies}divided over {self.shard} processes; each has a part of each batch"


def check_ranks(config: ParallelConfig, sizes: BatchSizes, ranks: int) -> None:
    """Raise a SettingError if `ranks` processes cannot train by `config` with batches of `sizes`."""
    if ranks == 1 and config.shard > 1:
        raise SettingError(
            "parallel.shard",
            f"{config.shard} needs as many processes: start with torchrun --nproc-per-node {config.shard} -m neolm",
        )
    if ranks % config.shard:
        raise SettingError("parallel.shard", f"{config.shard} does not divide the {ranks} processes of this run")
    smallest = min(sizes.full, sizes.start or sizes.full)
    if smallest < ranks:
        raise SettingError("batch_size", f"a batch of {smallest} cannot be divided among {ranks} processes")
