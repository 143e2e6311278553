"""One training of a fine-tuning by THE loop, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path

import torch

from neolm.core.device import choose_device, choose_precision, matrix_ceiling
from neolm.core.progress import count, say
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.encoded_examples import ExampleBatches, Windows
from neolm.finetuning.heads import TextModel
from neolm.finetuning.trainable import merged
from neolm.training.checkpoint import final_checkpoint
from neolm.training.loop import train
from neolm.training.numerics import numerics
from neolm.training.objective import Objective
from neolm.training.run import Training
from neolm.training.state import Progress, load_final


def fit(
    model: TextModel,
    objective: Objective,
    windows: Windows,
    validation: Windows,
    directory: Path,
    config: FinetuneConfig,
    seed: int,
) -> Progress:
    """Train `model`, of which parts may be frozen, or resume its training in `directory`.

    Args:
        model: Is changed in place.
        objective: What is minimised.
        windows: The training part.
        validation: The validation part.
        directory: Directory of metrics and checkpoints.
        config: The settings, with the number of steps.
        seed: Of the order of the windows and of dropout.
    """
    with numerics(config.deterministic, config.tf32):
        ceiling = matrix_ceiling(*device_and_type(config))
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
    )
    say(f"device: {training.device}; precision: {training.precision}")
    epochs = config.total_examples / len(windows.windows)
    say(
        f"{model.config.family} of {count(model.parameter_count())} parameters, {config.total_steps:,} steps of "
        f"{config.batch_size} windows, {epochs:.1f} epochs"
    )
    torch.manual_seed(seed)
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
