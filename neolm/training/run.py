"""The input of THE loop: model, objective, data, settings, devices and directory of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from neolm.core.device import Choice, choose_compile, choose_device, choose_precision
from neolm.data.batch import Batch
from neolm.training.config import TrainConfig
from neolm.training.objective import Objective
from neolm.training.passes import GradientAccumulation, Passes
from neolm.training.precision import MixedPrecision, Precision
from neolm.training.trackers import Tracker, open_trackers
from neolm.training.world import World

WholeTensors = Callable[[], Iterable[tuple[str, Tensor]]]
"""Gives name and values of each parameter of a model, one at a time."""
NOT_COMPILED = Choice("off", "as requested")


class IndexedData(Protocol):
    """Data whose batches are a function of the step alone. A thread reads them one step ahead."""

    def batch(self, step: int, rows: slice) -> Batch:
        """Return the examples `rows` of the batch of `step`, counted from 1. Called from another thread."""

    def documents(self, examples: Sequence[Any]) -> list[str]:
        """Names, for an error message, of the documents behind the examples with these ids."""


@runtime_checkable
class RolloutData(Protocol):
    """Data that the model itself produces, as in reinforcement learning; requested when its step begins.

    A batch must be stored before it is returned, and returned again when a resumed run requests the same step: so a
    killed run resumes bit for bit.
    """

    def rollout(self, step: int, model: nn.Module) -> Batch:
        """Return this rank's batch of `step`. `model` has the current weights and is in evaluation mode."""

    def documents(self, examples: Sequence[Any]) -> list[str]:
        """Names, for an error message, of the documents behind the examples with these ids."""


class Communication(NamedTuple):
    """How the processes of a training spent one step."""

    share: float
    """Share of the step in communication, the mean over the processes; it includes the waiting for each other."""
    slowest: int | None
    """The process that all others wait for; None: no noticeable waiting."""
    waits: float
    """Share of the step for which they wait for it."""

    def about(self) -> str:
        """In words."""
        slow = f"; rank {self.slowest} is the slowest: the others wait for it during {self.waits:.0%} of the step"
        return f"communication: {self.share:.0%} of a step{'' if self.slowest is None else slow}"


class StepMeter(Protocol):
    """Measures the communication of single steps."""

    last: Communication | None
    """Of the last step that was measured."""

    def step(self) -> AbstractContextManager[None]:
        """Measure the step inside the `with` block; all processes must measure the same steps."""


@dataclass(frozen=True)
class Parallelism:
    """The parts of the loop that a parallel plan replaces; the defaults train on one device."""

    world: World = field(default_factory=World)
    precision: Callable[[nn.Module, torch.dtype], Precision] = MixedPrecision
    passes: Callable[[nn.Module, Objective, Precision], Passes] = GradientAccumulation
    divide: Callable[[nn.Module], None] = lambda model: None
    """Changes a whole model in host memory into the part of this process, in place."""
    moves: bool = False
    """Whether `precision` moves the model to its device, a block at a time."""
    micro_batches: int = 1
    """Micro-batches of a step, at most, where `micro_batch_size` is not given."""
    cut: Callable[[Batch], Batch] = lambda batch: batch
    """The part of a batch of sequences, on the host, that this process computes; context parallelism divides them."""
    meter: StepMeter | None = None
    """Measures the communication of steps with a validation; None: there is no other process."""
    together: bool = False
    """Whether a pass needs several processes at once, so that none of them can run one alone."""
    deferred: bool | None = None
    """Whether losses and norms are read from the device only when they are logged; None: not on a CPU."""


@dataclass(frozen=True)
class Training:
    """A training for `neolm.training.loop.train`."""

    model: nn.Module
    objective: Objective
    data: IndexedData | RolloutData
    validation: Sequence[Batch]
    config: TrainConfig
    directory: Path
    device: Choice
    precision: Choice
    compile: Choice = NOT_COMPILED
    other_validation: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    """Further validation batches by name, such as those of replayed text: their loss is logged, and decides nothing."""
    frozen: Sequence[nn.Module] = ()
    """Models that the objective uses, such as a reference model: moved to the device, not trained and not saved."""
    parallelism: Parallelism = field(default_factory=Parallelism)
    initial: WholeTensors | None = None
    """The weights that the model begins with, of which each process keeps its part; None: the model has them."""
    flops_per_token: float = 0.0
    """FLOPs of a forward and a backward pass."""
    ceiling: float = 0.0
    """FLOP/s of this machine's matrix products, against which MFU is measured; 0: unknown."""
    unigram_entropy: float | None = None
    """Entropy in nats of the tokens that the objective's first term predicts: a training that stays there is reported
    (`neolm.training.unigram`). None: not a language model."""
    diagnosis: Callable[[nn.Module], str] = lambda model: ""
    """What is said of the working model besides, when the loss stays at the unigram entropy."""
    criterion: Callable[[Mapping[str, float]], float] = itemgetter("loss")
    """The score of a validation, from its loss and metrics; the lowest one is the best."""
    trackers: Callable[[int], Sequence[Tracker]] = lambda resume_at: ()
    """Opens the trackers, given the last step before the training starts or resumes."""

    @classmethod
    def from_config(cls, config: TrainConfig, *, directory: Path, **parts: Any) -> Training:
        """A training on the device, in the precision and with the trackers of `config`; `parts` are further fields."""
        device = choose_device(config.device)
        precision = choose_precision(config.precision, device.value)
        return cls(
            config=config,
            directory=directory,
            device=device,
            precision=precision,
            compile=choose_compile(config.compile, device.value, precision.value),
            trackers=partial(open_trackers, config.track, directory, config.model_dump(mode="json")),
            **parts,
        )

    def batch(self, step: int) -> Batch:
        """Read this rank's batch of `step` from indexed data."""
        assert not isinstance(self.data, RolloutData)
        examples = self.config.batch_sizes.examples(step)
        return self.parallelism.cut(self.data.batch(step, self.parallelism.world.rows(len(examples))))

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.directory / "checkpoints"
