"""What `neolm pretrain RECIPE --dry-run` prints: the size of a training, and what it takes, before anything is started.

Nothing is read but the recipe (and the tokenizer, if it names one), and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from neolm.core.device import choose_device, choose_precision, matrix_ceiling, usable_cores
from neolm.core.energy import WATTS_PER_CORE
from neolm.core.progress import gibibytes
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.recipe import load_recipe
from neolm.stages import architecture
from neolm.training.accelerators import ACCELERATORS, Accelerator
from neolm.training.fit import Room, misfit, room_on
from neolm.training.memory import FRAMEWORK, PARTS, host_memory, moments, peak, state_memory
from neolm.training.plan import PF_DAY, Assumptions, Device, Plan, make_plan
from neolm.training.pretrain_config import PretrainConfig

Row = tuple[str, str, str]

# Watts of a GPU that is not named: the board's limit of most in data centres is 300 to 700.
WATTS_PER_GPU = 400.0


@dataclass(frozen=True)
class Target:
    """A device that the training might run on, and in what."""

    title: str
    device: str
    precision: str
    room: Room


def dry_run(name: str, overrides: Sequence[str], chosen: Assumptions) -> list[Row]:
    """What training the recipe `name` takes, as rows of a table: what, how much, and how that was reckoned.

    Raises:
        InputError: no such recipe, or a training that cannot be.
    """
    recipe = load_recipe(name, overrides)
    model, config = architecture(recipe), recipe.pretrain
    assert config is not None
    here = _this_machine(config)
    target, device = here, None
    if chosen.accelerator is not None:
        kind = ACCELERATORS[chosen.accelerator]
        precision = "bfloat16" if config.precision == "auto" else config.precision
        target, device = Target(kind.title, "cuda", precision, Room(kind.memory)), _accelerator(kind, chosen)
    device = device or _measured(here, chosen)
    plan = make_plan(model, parameters(model), config, device, chosen)
    return [
        *_size(model, config, plan),
        *_memory(model, config, target),
        *((each.title, *_verdict(model, config, each)) for each in dict.fromkeys((target, here))),
        *_cost(plan, device, chosen),
    ]


def parameters(model: DecoderConfig) -> tuple[int, int]:
    """How many there are, and how many without embeddings, counted on a decoder without memory."""
    with torch.device("meta"), _NoInitialisation():
        decoder = Decoder(model)
    return decoder.parameter_count(), decoder.parameter_count(embeddings=False)


class _NoInitialisation(TorchFunctionMode):
    """Leaves new parameters as they are: without memory there is nothing to draw, and torch would load much to know."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _this_machine(config: PretrainConfig) -> Target:
    device = choose_device(config.device).value
    return Target("this machine", device, choose_precision(config.precision, device).value, room_on(device))


def _measured(here: Target, chosen: Assumptions) -> Device:
    """This machine as a plan counts with it: as fast as its matrix products are now."""
    flops, source = (chosen.device_tflops or 0.0) * 1e12, "as given"
    if not flops:
        flops, source = matrix_ceiling(here.device, getattr(torch, here.precision)), "measured now"
    if chosen.watts is not None:
        return Device(here.title, flops, source, chosen.watts, "as given")
    if here.device.startswith("cuda"):
        return Device(here.title, flops, source, WATTS_PER_GPU, "assumed")
    watts = f"{usable_cores()} cores x {WATTS_PER_CORE:g} W, assumed"
    return Device(here.title, flops, source, WATTS_PER_CORE * usable_cores(), watts)


def _accelerator(kind: Accelerator, chosen: Assumptions) -> Device:
    flops, source = kind.flops, "its published peak"
    if chosen.device_tflops is not None:
        flops, source = chosen.device_tflops * 1e12, "as given"
    watts, watts_source = kind.watts, kind.watts_source
    if chosen.watts is not None:
        watts, watts_source = chosen.watts, "as given"
    return Device(kind.title, flops, source, watts, watts_source)


def _size(model: DecoderConfig, config: PretrainConfig, plan: Plan) -> list[Row]:
    sequence = f"{config.batch_size:,} sequences of {config.sequence_length:,} tokens"
    ramp = f", from {config.batch_ramp_start:,} at first" if config.batch_ramp_start else ""
    shape = f"{model.num_layers} layers of {model.hidden_size:,} channels, {model.num_heads} heads"
    return [
        ("model", model.family, f"{shape}, vocabulary of {model.vocab_size:,}"),
        ("parameters", f"{plan.parameters:,}", f"{plan.non_embedding_parameters:,} without embeddings"),
        ("steps", f"{plan.steps:,}", f"of {sequence}{ramp}"),
        ("tokens", f"{plan.tokens:,}", f"{plan.tokens / plan.parameters:,.1f} a parameter"),
        ("FLOPs", f"{plan.flops:.3g}", f"{_digits(plan.flops / PF_DAY)} PF-days; with attention (PaLM, appendix B)"),
        ("  6ND", f"{plan.six_nd:.3g}", f"{_digits(plan.six_nd / PF_DAY)} PF-days; 6 x parameters x tokens"),
    ]


def _memory(model: DecoderConfig, config: PretrainConfig, target: Target) -> list[Row]:
    times = moments(model, config, target.precision, target.device)
    fullest = max(times, key=lambda moment: moment.total)
    micro = min(config.micro_batch_size or config.batch_size, config.batch_size)
    how = f"{target.precision}, micro-batch of {micro:,}"
    how += ", activations checkpointed" if config.activation_checkpointing else ""
    remarks = {
        "weights": "each part at its largest; not all are there at once",
        "logits": "and what the loss makes of them",
        "average": "of the weights",
        "copies": "of the state, for checkpoints",
    }
    parts = {part: max(getattr(moment, part) for moment in times) for part in PARTS}
    least, host = state_memory(model, config, target.precision), host_memory(model, config)
    beside = [] if target.device == "cpu" else [("  host", gibibytes(host), "besides: copies for checkpoints, batches")]
    return [
        ("memory", gibibytes(fullest.total), f"of one device that holds all, fullest at {fullest.name}; {how}"),
        *((f"  {part}", gibibytes(size), remarks.get(part, "")) for part, size in parts.items() if size),
        ("  at least", gibibytes(least), "weights, gradients and optimiser alone"),
        *beside,
        ("  framework", gibibytes(FRAMEWORK), "besides, of the host: Python and torch"),
    ]


def _verdict(model: DecoderConfig, config: PretrainConfig, target: Target) -> tuple[str, str]:
    problem = misfit(model, config, target.precision, target.device, target.room)
    if problem is not None:
        return "too small", problem
    need = peak(model, config, target.precision, target.device).total
    return "fits", f"{gibibytes(need)} of the {gibibytes(target.room.device)} that are free"


def _cost(plan: Plan, device: Device, chosen: Assumptions) -> list[Row]:
    speed = f"{chosen.devices:,} x {device.title}, {_digits(device.flops / 1e12)} TFLOP/s ({device.flops_source})"
    return [
        ("time", _long_duration(plan.seconds), f"{speed}, MFU {chosen.mfu:g}"),
        (
            "energy",
            _larger(plan.kwh, "kWh", "MWh"),
            f"{device.watts:g} W each ({device.watts_source}), PUE {chosen.pue:g}",
        ),
        ("carbon", _larger(plan.kilograms, "kg CO2e", "t CO2e"), f"{chosen.grid_intensity:g} kg a kWh"),
    ]


def _larger(amount: float, unit: str, thousands: str) -> str:
    return f"{_digits(amount)} {unit}" if amount < 1e4 else f"{_digits(amount / 1000)} {thousands}"


def _digits(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _long_duration(seconds: float) -> str:
    """`7200` to `2 hours`: in the largest unit of which there are two."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} seconds"
