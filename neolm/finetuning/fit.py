"""One training of a fine-tuning by THE loop, and the model that comes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import torch

from neolm.core.device import choose_device, choose_precision, matrix_ceiling
from neolm.core.errors import SettingError
from neolm.core.progress import count, say
from neolm.core.ranks import OneRank, RunRanks
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.encoded_examples import ExampleBatches, Windows
from neolm.finetuning.heads import TextModel
from neolm.finetuning.trainable import merged
from neolm.training.checkpoint import final_checkpoint
from neolm.training.config import TrainConfig
from neolm.training.loop import train
from neolm.training.numerics import numerics
from neolm.training.objective import Objective
from neolm.training.parallel_config import check_ranks
from neolm.training.run import Parallelism, Training
from neolm.training.state import Progress, load_final

UNDIVIDED = {
    "context": "texts are padded or packed",
    "tensor": "heads and adapters are not divided",
    "pipeline": "objectives run the whole model",
}
"""Settings of `parallel` that fine-tuning does not take, each with the reason."""


@dataclass(frozen=True)
class Team:
    """The processes of a fine-tuning. Rank 0 does all of it, and tells the others when a training starts."""

    ranks: RunRanks = field(default_factory=OneRank)
    share: Callable[[TrainConfig], AbstractContextManager[Parallelism]] = lambda config: nullcontext(Parallelism())
    """Connects the processes for a training, and returns how they share it."""

    def resolved(self, config: FinetuneConfig, examples: int) -> FinetuneConfig:
        """The settings for so many training examples (`FinetuneConfig.resolved`).

        Raises:
            SettingError: the processes cannot share such batches, or do not fit `parallel`.
        """
        found = config.resolved(examples)
        for name, reason in UNDIVIDED.items():
            if getattr(found.parallel, name) > 1:
                raise SettingError(f"parallel.{name}", f"must be 1 in fine-tuning, whose {reason}")
        if config.method != "probe":
            check_ranks(found.parallel, found.batch_sizes, self.ranks.count)
        return found


def fit(
    model: TextModel,
    objective: Objective,
    windows: Windows,
    validation: Windows,
    directory: Path,
    config: FinetuneConfig,
    seed: int,
    team: Team,
) -> Progress:
    """Train `model`, of which parts may be frozen, or resume its training in `directory`. All processes call this.

    Args:
        model: Is changed in place; with several processes, a copy of it is.
        objective: What is minimised.
        windows: The training part.
        validation: The validation part.
        directory: Directory of metrics and checkpoints.
        config: The settings, with the number of steps.
        seed: Of the order of the windows and of dropout.
        team: The processes.
    """
    with team.share(config) as parallelism:
        world = parallelism.world
        if world.count > 1 and world.first:
            model = copy.deepcopy(model)  # sharding changes the modules, and rank 0 predicts with them later
        with numerics(config.deterministic, config.tf32):
            ceiling = sum(world.gather(matrix_ceiling(*device_and_type(config))))
        training = Training.from_config(
            config,
            directory=directory,
            model=model,
            objective=objective,
            data=ExampleBatches(windows, config.batch_sizes, seed),
            validation=validation.batches(config.micro_batch_size or config.batch_size),
            flops_per_token=model.config.flops_per_token(int(windows.mean_length)),
            ceiling=ceiling,
            criterion=criterion(config.kind),
            parallelism=parallelism,
        )
        say(f"device: {training.device}; precision: {training.precision}")
        if world.count > 1:
            say(f"parallel: {config.parallel.about(world.count)}")
        epochs = config.total_examples / len(windows.windows)
        say(
            f"{model.config.family} of {count(model.parameter_count())} parameters, {config.total_steps:,} steps of "
            f"{config.batch_size} windows, {epochs:.1f} epochs"
        )
        torch.manual_seed(seed + world.stream)  # of dropout, which differs from rank to rank
        return train(training)


def trained_model(model: TextModel, directory: Path, config: FinetuneConfig, progress: Progress) -> TextModel:
    """`model` with the final weights of the training in `directory`, adapters merged, in the type of its passes."""
    load_final(model, final_checkpoint(directory / "checkpoints", config.final, progress.best_step), config.final)
    device, dtype = device_and_type(config)
    return merged(model).to(device, dtype)


def device_and_type(config: FinetuneConfig) -> tuple[str, torch.dtype]:
    """The device, and the type of the passes."""
    device = choose_device(config.device).value
    return device, getattr(torch, choose_precision(config.precision, device).value)


def criterion(task: str) -> Callable[[Mapping[str, float]], float]:
    """The score of a validation, the lowest of which is the best: the share of wrong answers; the squared error of a
    regression, and the loss per answer token of conversations.

    Of validations with equally many wrong answers, the one with the lower loss is the best.
    """
    if task in ("regression", "instruct"):
        return itemgetter("loss")
    return lambda means: (1 - means["accuracy"]) + 1e-6 * min(means["loss"], 1e3)
