"""Check that a training fits the free memory; if it does not, find the settings with which it fits.

The estimate counts tensors, so a training cannot run if it needs more memory by it than there is. Allocators lose some
memory between tensors: if less than `SPARE` of the memory would be left, a warning is printed and the training starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from neolm.core.device import free_memory
from neolm.core.errors import InputError
from neolm.core.progress import gibibytes, say
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.training.memory import estimate_memory
from neolm.training.pretrain_config import PretrainConfig

SPARE = 0.2  # share of the memory; by measurement on Linux, allocators lose at most this much between tensors


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that a training may use."""

    device: int
    host: int | None = None
    """Of the host, where the device has memory of its own."""


def free_memory_on(device: str) -> FreeMemory:
    """Memory that is free now on this machine, or in its container."""
    return FreeMemory(free_memory(device), free_memory() if device.startswith("cuda") else None)


def require_fit(model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str) -> None:
    """Check that a training fits this machine, before it takes any memory.

    Raises:
        InputError: it does not fit; the message has the memory that it needs, the free memory, and what would fit.
    """
    free = free_memory_on(device)
    problem = misfit(model, config, precision, device, free)
    if problem is not None:
        raise InputError(f"pretrain: {problem}")
    if estimate_memory(model, config, precision, device).total > (1 - SPARE) * free.device:
        say(f"memory: {_need(model, config, precision, device, free)}; it may run out")


def misfit(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str, free: FreeMemory
) -> str | None:
    """Why a training does not fit into `free`, and the settings with which it fits; None if it fits."""

    def fits(changed: PretrainConfig) -> bool:
        estimate = estimate_memory(model, changed, precision, device)
        return estimate.total <= free.device and (free.host is None or estimate.host <= free.host)

    if fits(config):
        return None
    needs = _need(model, config, precision, device, free)
    changes = {"micro_batch_size": 1, "activation_checkpointing": True, "asynchronous_checkpoints": False}
    smallest = config.model_copy(update=changes)
    if fits(smallest):
        return f"{needs}; it would fit with {' or with '.join(_remedies(config, fits))}"
    least = estimate_memory(model, smallest, precision, device)
    host = "" if free.host is None else f", and {gibibytes(least.host)} of the host's"
    return (
        f"{needs}; no setting makes it fit: with all settings that save memory it needs {gibibytes(least.total)}, "
        f"of which weights, gradients and optimiser are {gibibytes(least.state)}{host}"
    )


def _remedies(config: PretrainConfig, fits: Callable[[PretrainConfig], bool]) -> list[str]:
    """The smallest sets of settings with which a training fits. They change no result beyond rounding."""
    whole = min(config.micro_batch_size or config.batch_size, config.batch_size)
    halves = [whole >> times for times in range(1, whole.bit_length())]  # the largest that fits is used
    choices: dict[str, list[Any]] = {"micro_batch_size": halves}
    if not config.activation_checkpointing:
        choices["activation_checkpointing"] = [True]
    if config.asynchronous_checkpoints:
        choices["asynchronous_checkpoints"] = [False]
    for number in range(1, len(choices) + 1):
        found = []
        for keys in combinations(choices, number):
            tried = (dict(zip(keys, values, strict=True)) for values in product(*(choices[key] for key in keys)))
            changes = next((changes for changes in tried if fits(config.model_copy(update=changes))), None)
            if changes is not None:
                found.append(" ".join(f"pretrain.{key}={str(value).lower()}" for key, value in changes.items()))
        if found:
            return found
    return []


def _need(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str, free: FreeMemory
) -> str:
    """The memory that a training needs, and the free memory."""
    estimate = estimate_memory(model, config, precision, device)
    text = f"this training needs {gibibytes(estimate.total)} of memory and {gibibytes(free.device)} are free"
    if free.host is not None and estimate.host > free.host:
        text += f"; it needs {gibibytes(estimate.host)} of the host's memory and {gibibytes(free.host)} are free"
    return text
