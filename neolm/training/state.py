"""The state of a training: all that a later step depends on, except the data, which is a function of the step.

Weights, optimiser, EMA, random state, loss scale, recent gradient norms and progress: each part is in every checkpoint
and is restored bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neolm.training.checkpoint import Checkpoint, random_state, restore_random_state
from neolm.training.config import TrainConfig
from neolm.training.division import divided_as
from neolm.training.ema import ExponentialMovingAverage
from neolm.training.loss_scale import LossScale
from neolm.training.optimiser import build_optimisers, moment_like, optimiser_tensors, restore_optimisers
from neolm.training.run import Parallelism, WholeTensors
from neolm.training.sharded_tensor import boxes
from neolm.training.spikes import SpikeFilter


@dataclass
class Progress:
    """Counters of a run."""

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    energy: dict[str, Any] = field(default_factory=lambda: {"kwh": 0.0, "method": ""})
    best_loss: float | None = None
    best_step: int | None = None
    best_score: float | None = None
    """What `Training.criterion` gave for the best validation."""
    validations_since_best: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """Last row of the metrics."""

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {key: value for key, value in vars(self).items() if key != "last"}


class TrainingState:
    """The state of a training of `model`, whose passes run in `dtype`."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        dtype: torch.dtype,
        parallelism: Parallelism | None = None,
        initial: WholeTensors | None = None,
    ) -> None:
        """`initial` are the weights that the model begins with; None: it has them."""
        plan = parallelism or Parallelism()
        self.model = model
        self.weights = plan.precision(model, dtype)
        if initial is not None:
            fill(model, initial())
        self._stream = plan.world.stream
        self.optimisers = build_optimisers(model, config)
        self.average = ExponentialMovingAverage(model, config.ema_decay) if config.ema_decay is not None else None
        scale = LossScale(config.loss_scale, config.loss_scale_window, config.loss_scale_hysteresis)
        self.scale = scale if dtype == torch.float16 else None
        self.spikes = SpikeFilter(config.skip_spikes)
        self.progress = Progress()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by part and name."""
        parts = {
            "weights": weights_of(self.model),
            "optimiser": optimiser_tensors(self.optimisers),
            "random": random_state(self._stream),
        }
        if self.average is not None:
            parts["average"] = self.average.tensors
        return parts

    def record(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON."""
        return {
            **self.progress.state(),
            "norms": list(self.spikes.norms),
            "loss_scale": self.scale.state() if self.scale else None,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the parts and the record of a checkpoint."""
        load_weights(self.model, checkpoint)
        stored = checkpoint.tensors("optimiser", partial(moment_like, self.optimisers))
        restore_optimisers(self.optimisers, stored)
        restore_random_state(checkpoint.tensors("random"), self._stream)
        if self.average is not None:
            checkpoint.load("average", self.average.tensors)
        record = dict(checkpoint.state)
        self.spikes.norms.extend(record.pop("norms"))
        scale = record.pop("loss_scale")
        if self.scale is not None and scale is not None:
            self.scale.restore(scale)
        self.progress = Progress(**record)


@torch.no_grad()
def fill(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy the parts that this process has of the whole `weights`, by name, into the parameters of `model`."""
    parameters = dict(model.named_parameters())
    for name, whole in weights:
        for offsets, part in boxes(parameters[name]) if name in parameters else ():
            place = [slice(start, start + size) for start, size in zip(offsets, part.shape, strict=True)]
            part.copy_(whole[tuple(place)])


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, a tied one once."""
    return {name: divided_as(parameter.detach(), parameter) for name, parameter in model.named_parameters()}


def load_final(model: nn.Module, checkpoint: Checkpoint, final: str) -> None:
    """Load what the setting `final` names from the checkpoint that `final_checkpoint` has chosen."""
    load_weights(model, checkpoint, "average" if final == "average" else "weights")


def load_weights(model: nn.Module, checkpoint: Checkpoint, part: str = "weights") -> None:
    """Load the weights of a checkpoint, or their `average`, into `model`."""
    checkpoint.load(part, weights_of(model))
