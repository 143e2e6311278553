"""Whether a training fits the memory at hand; if not, which settings would make it fit.

The estimate is of tensors, so what does not fit by it cannot be run. What an allocator loses between them is not in it;
where less than `SPARE` of the memory would be left, that is said, and the training starts all the same.
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
from neolm.training.memory import host_memory, peak, state_memory
from neolm.training.pretrain_config import PretrainConfig

SPARE = 0.2  # of the memory: so much is usually lost between tensors at the most, by measurement on Linux


@dataclass(frozen=True)
class Room:
    """Bytes that a training may use: of the device's memory, and of the host's where that is another."""

    device: int
    host: int | None = None


def room_on(device: str) -> Room:
    """What is free now on this machine, in its container if it is in one."""
    if not device.startswith("cuda"):
        return Room(free_memory())
    return Room(free_memory(device), free_memory())


def require_fit(model: DecoderConfig, config: PretrainConfig, precision: str, device: str) -> None:
    """Make sure that a training fits this machine, before it takes any memory.

    Raises:
        InputError: it does not; the message says what it needs, what there is, and what would fit.
    """
    room = room_on(device)
    problem = misfit(model, config, precision, device, room)
    if problem is not None:
        raise InputError(f"pretrain: {problem}")
    if peak(model, config, precision, device).total > (1 - SPARE) * room.device:
        say(f"memory: {describe_need(model, config, precision, device, room)}; it may run out")


def misfit(model: DecoderConfig, config: PretrainConfig, precision: str, device: str, room: Room) -> str | None:
    """Why a training does not fit into `room`, and what would; None where it fits."""

    def fits(changed: PretrainConfig) -> bool:
        enough = peak(model, changed, precision, device).total <= room.device
        return enough and (room.host is None or host_memory(model, changed) <= room.host)

    if fits(config):
        return None
    needs = describe_need(model, config, precision, device, room)
    found = _remedies(config, fits)
    if found:
        return f"{needs}; it would fit with {' or with '.join(found)}"
    changes = {"micro_batch_size": 1, "activation_checkpointing": True, "asynchronous_checkpoints": False}
    least = peak(model, config.model_copy(update=changes), precision, device).total
    return (
        f"{needs}; no setting mends that: with all that save memory it needs {gibibytes(least)}, "
        f"of which weights, gradients and optimiser are {gibibytes(state_memory(model, config, precision))}"
    )


def _remedies(config: PretrainConfig, fits: Callable[[PretrainConfig], bool]) -> list[str]:
    """The smallest sets of settings by which a training fits: they move no number of the model beyond rounding."""
    whole = min(config.micro_batch_size or config.batch_size, config.batch_size)
    halves = [whole >> times for times in range(1, whole.bit_length())]  # the largest that fits is wanted
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


def describe_need(model: DecoderConfig, config: PretrainConfig, precision: str, device: str, room: Room) -> str:
    """What the training takes beside what there is."""
    need = peak(model, config, precision, device).total
    text = f"this training needs {gibibytes(need)} of memory and {gibibytes(room.device)} are free"
    host = host_memory(model, config)
    if room.host is not None and host > room.host:
        text += f", {gibibytes(host)} of the host's and {gibibytes(room.host)} are free"
    return text
