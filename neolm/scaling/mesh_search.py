"""Search of the meshes by which a number of devices can train a model, and of the fewest devices that can.

Every mesh is timed, which takes no fake step; memory is estimated from the fastest one on, until enough of them fit.
Context parallelism is tried for sequences of at least `LONG` tokens: for shorter ones it only adds communication.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from neolm.core.errors import SettingError
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.scaling.accelerators import Accelerator
from neolm.scaling.mesh_time import StepTime, step_time
from neolm.training.memory import MemoryEstimate
from neolm.training.memory_mesh import estimate_mesh, least_memory
from neolm.training.parallel_config import ParallelConfig, check_model, check_ranks
from neolm.training.pretrain_config import PretrainConfig

LONG = 8192
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Place:
    """Where a training runs."""

    device: Accelerator
    precision: str
    efficiency: float
    """See `Assumptions`."""
    node: int

    def time(self, model: DecoderConfig | EncoderConfig, config: PretrainConfig, devices: int) -> StepTime:
        """See `step_time`."""
        return step_time(model, config, self.precision, self.device, devices, self.efficiency, self.node)


@dataclass(frozen=True)
class Found:
    """A mesh, with its settings, that fits."""

    config: PretrainConfig
    time: StepTime
    memory: MemoryEstimate

    @property
    def settings(self) -> str:
        """The settings as overrides of a recipe."""
        return overrides(self.config)


@dataclass
class Search:
    """Result of a search."""

    best: list[Found] = field(default_factory=list)
    tried: int = 0
    """Meshes with their settings, of which the others in `failed` were not."""
    failed: Counter[str] = field(default_factory=Counter)
    """Number of those that cannot be, by reason; of those that need too much memory, the ones that would be faster."""


def overrides(config: PretrainConfig) -> str:
    """The settings of a mesh as overrides of a recipe."""
    plan = config.parallel
    sizes = {f"parallel.{axis}": getattr(plan, axis) for axis in ("tensor", "pipeline", "chunks", "shard", "context")}
    chosen = {key: value for key, value in sizes.items() if value > 1} | {"micro_batch_size": config.micro_batch_size}
    again = str(config.activation_checkpointing).lower()
    return " ".join(f"pretrain.{key}={value}" for key, value in {**chosen, "activation_checkpointing": again}.items())


def check_mesh(model: DecoderConfig | EncoderConfig, config: PretrainConfig, devices: int) -> None:
    """Raise a SettingError of the section `pretrain` if `devices` devices cannot train by its mesh."""
    plan = config.parallel
    if devices % plan.needed:
        reason = f"is {plan.needed} devices, which do not divide --devices {devices}"
        raise SettingError(f"pretrain.{plan.key}", f"{plan.product} {reason}")
    try:
        check_ranks(plan, config.batch_sizes, devices)
        check_model(plan, model, config.sequence_length)
    except SettingError as error:
        raise error.within("pretrain") from None


def search(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, devices: int, place: Place, most: int = 5
) -> Search:
    """The `most` fastest meshes of `devices` devices that fit into their memory, with what the others fail by."""
    result, timed = Search(), []
    for plan in meshes(model, config, devices, place.node):
        reason = impossible(model, config, plan, devices, place)
        if reason:
            result.failed[reason] += 1
            continue
        timed += [(place.time(model, each, devices), each) for each in _with_settings(config, plan, devices)]
    timed.sort(key=lambda pair: pair[0].seconds)
    result.tried = len(timed)
    for time, changed in timed:
        memory = _memory(model, changed, place, devices)
        if memory is not None:
            result.best.append(Found(changed, time, memory))
            if len(result.best) == most:
                break
        else:
            result.failed["memory"] += 1
    return result


def fewest_devices(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, place: Place
) -> tuple[int, Found] | None:
    """The smallest power of two of devices that can train, with settings that save the most memory; None: too many."""
    devices = 1
    while (devices := 2 * devices) <= MOST_DEVICES:
        plans = [plan for plan in meshes(model, config, devices, place.node) if plan.grid(devices).sizes["copies"] == 1]
        for plan in sorted(plans, key=lambda plan: (plan.pipeline, plan.tensor)):
            if impossible(model, config, plan, devices, place):
                continue
            settings = {"parallel": plan, "micro_batch_size": 1, "activation_checkpointing": True}
            changed = config.model_copy(update=settings)
            memory = _memory(model, changed, place, devices)
            if memory is not None:
                return devices, Found(changed, place.time(model, changed, devices), memory)
    return None


def _memory(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, place: Place, devices: int
) -> MemoryEstimate | None:
    """The estimate for the fullest device; None if it does not fit."""
    if least_memory(model, config) > place.device.memory:
        return None
    memory, _ = estimate_mesh(model, config, place.precision, "cuda", devices)
    return memory if memory.total <= place.device.memory else None


def meshes(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, devices: int, node: int
) -> Iterator[ParallelConfig]:
    """All meshes of `devices` devices, whether or not they can be; `tensor` within a node."""
    contexts = _divisors(devices) if config.sequence_length >= LONG and isinstance(model, DecoderConfig) else [1]
    for tensor in _divisors(devices):
        for context in contexts if tensor <= node else ():
            for pipeline in _divisors(devices // tensor) if devices // tensor % context == 0 else ():
                rest = devices // tensor // pipeline
                for shard in _divisors(rest // context) if rest % context == 0 else ():
                    chunks = config.parallel.chunks if pipeline > 1 else 1
                    sizes = {"tensor": tensor, "context": context, "pipeline": pipeline, "shard": shard}
                    yield ParallelConfig(**sizes, chunks=chunks)


def impossible(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, plan: ParallelConfig, devices: int, place: Place
) -> str:
    """Why a mesh cannot be: heads, layers, batch or another word; empty if it can."""
    if plan.shard > 1 and place.precision == "float16":
        return "float16"
    try:
        check_model(plan, model, config.sequence_length)
        check_ranks(plan, config.batch_sizes, devices)
    except SettingError as error:
        words = {"parallel.tensor": "heads", "parallel.pipeline": "layers", "batch_size": "batch"}
        return words.get(error.key, "sequence length")
    return ""


def _with_settings(config: PretrainConfig, plan: ParallelConfig, devices: int) -> Iterator[PretrainConfig]:
    """The training by `plan`, with each micro-batch size and with and without activation checkpointing."""
    batch = -(-config.batch_size * plan.tensor * plan.pipeline * plan.context // devices)
    for size in MICRO_BATCHES:
        if size <= batch:
            for again in (False, True):
                settings = {"parallel": plan, "micro_batch_size": size, "activation_checkpointing": again}
                yield config.model_copy(update=settings)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
