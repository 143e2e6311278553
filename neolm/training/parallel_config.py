"""Settings of how the processes that torchrun starts share a training."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit
from neolm.core.errors import SettingError
from neolm.data.batch_sizes import BatchSizes
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.training.rank_grid import DATA, RankGrid


class ParallelConfig(Config):
    """How the processes share a training. With more of them than one copy of the model needs, there are several."""

    shard: Annotated[int, Field(gt=0), Unit("processes")] = 1
    """Processes over which weights, gradients and optimiser state are divided (FSDP2); 1: each process has all of them.
    With more processes there are several such groups, which train on different examples."""
    tensor: Annotated[int, Field(gt=0), Unit("processes")] = 1
    """Processes over which the matrices of each layer and the vocabulary are divided (tensor parallelism)."""
    pipeline: Annotated[int, Field(gt=0), Unit("processes")] = 1
    """Processes, or stages, over which the layers are divided (pipeline parallelism)."""
    chunks: Annotated[int, Field(gt=0), Unit("chunks")] = 1
    """Parts of the layers of each pipeline process, which alternate with those of the others (interleaved 1F1B). With
    more of them the processes wait less for each other, and send more; 1: its layers follow one another (1F1B)."""
    context: Annotated[int, Field(gt=0), Unit("processes")] = 1
    """Processes over which the tokens of each sequence are divided (context parallelism)."""
    timeout: Annotated[int, Field(gt=0), Unit("seconds")] = 600
    """Time for which the processes wait for one that does not answer, before all of them end."""

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return {"chunks": "pipeline is 1"} if self.pipeline == 1 else {}

    @property
    def divided(self) -> dict[str, int]:
        """The axes on which one copy of the model has several processes, and their numbers."""
        sizes = {name: getattr(self, name) for name in ("shard", "tensor", "pipeline", "context")}
        return {name: size for name, size in sizes.items() if size > 1}

    @property
    def needed(self) -> int:
        """Processes of one copy of the model."""
        return math.prod(self.divided.values())

    @property
    def product(self) -> str:
        """The axes and their numbers of processes, such as `shard 2 x tensor 2`."""
        return " x ".join(f"{name} {size}" for name, size in self.divided.items())

    @property
    def key(self) -> str:
        """The setting that a message about `product` names."""
        return f"parallel.{next(iter(self.divided), 'shard')}"

    def grid(self, ranks: int) -> RankGrid:
        """The places of `ranks` processes, a multiple of those that one copy of the model needs."""
        return RankGrid({**self.divided, "copies": ranks // self.needed})

    def about(self, ranks: int) -> str:
        """The plan of `ranks` processes, in words."""
        sizes = self.grid(ranks).sizes
        parts = [
            f"{what} over {sizes[axis]}"
            for axis, what in (
                ("pipeline", "its layers"),
                ("tensor", "its matrices"),
                ("shard", "its weights and their optimiser state"),
                ("context", "its sequences"),
            )
            if sizes[axis] > 1
        ]
        if not parts:
            return f"each of the {ranks} processes has the whole model and a part of each batch"
        copies = f"{sizes['copies']} copies of the model" if sizes["copies"] > 1 else "one copy of the model"
        return f"{copies}, with {', '.join(parts)} processes"


def check_ranks(config: ParallelConfig, batch_sizes: BatchSizes, ranks: int) -> None:
    """Raise a SettingError if `ranks` processes cannot train by `config` with batches of `batch_sizes`."""
    if ranks == 1 and config.needed > 1:
        start = f"start with torchrun --nproc-per-node {config.needed} -m neolm"
        raise SettingError(config.key, f"{config.product} needs {config.needed} processes: {start}")
    if ranks % config.needed:
        reason = f"is {config.needed} processes, which do not divide the {ranks} of this run"
        raise SettingError(config.key, f"{config.product} {reason}")
    smallest, parts = min(batch_sizes.full, batch_sizes.start or batch_sizes.full), config.grid(ranks).size(DATA)
    if smallest < parts:
        raise SettingError("batch_size", f"a batch of {smallest} cannot be divided among {parts} processes")


def check_model(config: ParallelConfig, model: DecoderConfig | EncoderConfig, sequence_length: int) -> None:
    """Raise a SettingError if `model` cannot be divided by `config` on sequences of that many tokens."""
    if model.num_heads % config.tensor:
        heads = f"the {model.num_heads} attention heads of the model"
        raise SettingError("parallel.tensor", f"{config.tensor} processes cannot divide {heads} evenly")
    stages = config.pipeline * config.chunks
    if config.pipeline > 1 and stages > model.num_layers:
        parts = f"{config.pipeline} x {config.chunks} chunks" if config.chunks > 1 else f"{stages} stages"
        raise SettingError("parallel.pipeline", f"the model's {model.num_layers} layers are too few for {parts}")
    if config.context > 1:
        if isinstance(model, EncoderConfig):
            reason = f"must be 1: {model.family} is an encoder, whose sequences are not divided"
            raise SettingError("parallel.context", reason)
        if sequence_length % (2 * config.context):
            reason = f"{config.context} processes have two chunks of a sequence each, and {2 * config.context} chunks"
            raise SettingError("parallel.context", f"{reason} do not divide {sequence_length} tokens")
