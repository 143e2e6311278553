"""Check that a training fits the free memory; if it does not, find the settings with which it fits.

With several processes, each of them must fit; those of one machine share the host's memory, equally.

The estimate counts tensors, so a training cannot run if it needs more memory by it than there is. Allocators lose some
memory between tensors: if less than `SPARE` of the memory would be left, a warning is printed and the training starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from neolm.core.device import free_memory
from neolm.core.errors import InputError
from neolm.core.progress import gibibytes, say
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.training.memory_mesh import estimate_mesh
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.rank_grid import DATA

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


def require_fit(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str, ranks: int = 1
) -> None:
    """Check that a training by `ranks` processes fits this machine, before it takes any memory.

    Raises:
        InputError: it does not fit; the message has the memory that it needs, the free memory, and what would fit.
    """
    free, here = free_memory_on(device), int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks > 1 else 1
    host = None if free.host is None else free.host // here
    free = FreeMemory(free.device // here if device == "cpu" else free.device, host)
    problem = misfit(model, config, precision, device, free, ranks)
    if problem is not None:
        raise InputError(f"pretrain: {problem}")
    if estimate_mesh(model, config, precision, device, ranks)[0].total > (1 - SPARE) * free.device:
        say(f"memory: {_need(model, config, precision, device, free, ranks)}; it may run out")


def misfit(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    precision: str,
    device: str,
    free: FreeMemory,
    ranks: int = 1,
) -> str | None:
    """Why a training does not fit into `free`, and the settings with which it fits; None if it fits."""

    def fits(changed: PretrainConfig) -> bool:
        estimate, _ = estimate_mesh(model, changed, precision, device, ranks)
        return estimate.total <= free.device and (free.host is None or estimate.host <= free.host)

    if fits(config):
        return None
    needs = _need(model, config, precision, device, free, ranks)
    choices = _choices(config, precision, ranks)
    smallest = _changed(config, {key: values[-1] for key, values in choices.items()})
    if fits(smallest):
        return f"{needs}; it would fit with {' or with '.join(_remedies(config, choices, fits))}"
    least, _ = estimate_mesh(model, smallest, precision, device, ranks)
    host = "" if free.host is None else f", and {gibibytes(least.host)} of the host's"
    return (
        f"{needs}; no setting makes it fit: with all settings that save memory it needs {gibibytes(least.total)}, "
        f"of which weights, gradients and optimiser are {gibibytes(least.state)}{host}"
    )


def _choices(config: PretrainConfig, precision: str, ranks: int) -> dict[str, list[Any]]:
    """Settings that save memory and change no result beyond rounding; the last of their values saves the most."""
    data = config.parallel.grid(ranks).size(DATA)
    batch = -(-config.batch_size // data)
    whole = min(config.micro_batch_size or batch, batch)
    choices: dict[str, list[Any]] = {}
    if whole > 1:  # the largest that fits is used
        choices["micro_batch_size"] = [whole >> times for times in range(1, whole.bit_length())]
    if not config.activation_checkpointing:
        choices["activation_checkpointing"] = [True]
    if config.asynchronous_checkpoints:
        choices["asynchronous_checkpoints"] = [False]
    if config.parallel.shard < data and precision != "float16":
        choices["parallel.shard"] = [data]
    return choices


def _changed(config: PretrainConfig, changes: dict[str, Any]) -> PretrainConfig:
    changes = dict(changes)
    if shard := changes.pop("parallel.shard", None):
        changes["parallel"] = config.parallel.model_copy(update={"shard": shard})
    return config.model_copy(update=changes)


def _remedies(
    config: PretrainConfig, choices: dict[str, list[Any]], fits: Callable[[PretrainConfig], bool]
) -> list[str]:
    """The smallest sets of settings with which a training fits."""
    for number in range(1, len(choices) + 1):
        found = []
        for keys in combinations(choices, number):
            tried = (dict(zip(keys, values, strict=True)) for values in product(*(choices[key] for key in keys)))
            changes = next((changes for changes in tried if fits(_changed(config, changes))), None)
            if changes is not None:
                found.append(" ".join(f"pretrain.{key}={str(value).lower()}" for key, value in changes.items()))
        if found:
            return found
    return []


def _need(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    precision: str,
    device: str,
    free: FreeMemory,
    ranks: int,
) -> str:
    """The memory that a training needs, and the free memory."""
    estimate, stage = estimate_mesh(model, config, precision, device, ranks)
    who, each = ("this training", "") if ranks == 1 else ("each process of this training", " for each of them")
    if config.parallel.pipeline > 1:
        who = f"a process of stage {stage + 1} of {config.parallel.pipeline}"
    text = f"{who} needs {gibibytes(estimate.total)} of memory and {gibibytes(free.device)} are free{each}"
    if free.host is not None and estimate.host > free.host:
        text += f"; it needs {gibibytes(estimate.host)} of the host's memory and {gibibytes(free.host)} are free"
    return text
