"""The table that `neolm plan` prints: size, memory, time, energy and carbon of a training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from neolm.core.device import choose_device, choose_precision, matrix_ceiling, usable_cores
from neolm.core.energy import WATTS_PER_CORE
from neolm.core.errors import InputError
from neolm.core.progress import gibibytes
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.models.stored_model import parameter_count
from neolm.scaling.accelerators import ACCELERATORS, Accelerator
from neolm.scaling.plan import PF_DAY, Assumptions, Plan, make_plan
from neolm.training.memory import FRAMEWORK_BYTES, estimate_memory
from neolm.training.memory_check import FreeMemory, free_memory_on, misfit
from neolm.training.pretrain_config import PretrainConfig

Row = tuple[str, str, str]

WATTS_PER_GPU = 400.0  # of an unnamed GPU: most boards in data centres have a limit of 300 to 700


@dataclass(frozen=True)
class Target:
    """A device for the training, and the precision of its passes there."""

    title: str
    device: str
    precision: str
    free: FreeMemory


def plan_table(model: DecoderConfig | EncoderConfig, config: PretrainConfig, chosen: Assumptions) -> list[Row]:
    """Rows of the plan of a training: quantity, amount, and how it was calculated.

    Raises:
        InputError: the model or the training is too large to calculate with.
    """
    here = _this_machine(config)
    if chosen.accelerator is None:
        target, device = here, _measure(here, measure=chosen.device_tflops is None)
    else:
        device = ACCELERATORS[chosen.accelerator]
        precision = "bfloat16" if config.precision == "auto" else config.precision
        target = Target(device.title, "cuda", precision, FreeMemory(device.memory))
    if chosen.device_tflops is not None:
        device = replace(device, flops=chosen.device_tflops * 1e12, flops_source="given")
    if chosen.watts is not None:
        device = replace(device, watts=chosen.watts, watts_source="given")
    try:
        plan = make_plan(model, (parameter_count(model), parameter_count(model, False)), config, device, chosen)
        return [
            *_size(model, config, plan),
            *_memory(model, config, target),
            *((each.title, *_verdict(model, config, each)) for each in dict.fromkeys((target, here))),
            *_cost(plan, device, chosen),
        ]
    except (OverflowError, RuntimeError) as error:  # torch raises the second for sizes beyond 64 bits
        raise InputError(f"plan: the training is too large to calculate with ({error})") from None


def _this_machine(config: PretrainConfig) -> Target:
    device = choose_device(config.device).value
    return Target("this machine", device, choose_precision(config.precision, device).value, free_memory_on(device))


def _measure(here: Target, measure: bool) -> Accelerator:
    """This machine; with `measure`, at the speed of its matrix products now."""
    flops = matrix_ceiling(here.device, getattr(torch, here.precision)) if measure else 0.0
    watts, source = WATTS_PER_CORE * usable_cores(), f"{usable_cores()} cores x {WATTS_PER_CORE:g} W, assumed"
    if here.device.startswith("cuda"):
        watts, source = WATTS_PER_GPU, "assumed"
    return Accelerator(here.title, here.free.device, flops, watts, source, "measured now")


def _size(model: DecoderConfig | EncoderConfig, config: PretrainConfig, plan: Plan) -> list[Row]:
    each = f"{plan.tokens / plan.parameters:,.1f} per parameter"
    most, fewer, once = "", "", ""
    if isinstance(model, EncoderConfig):
        most, fewer = "at most ", "; texts shorter than a sequence have fewer"
        once = "; shared parameters count once" if model.shares else ""
    return [
        ("model", model.family, f"{_shape(model)}, vocabulary of {model.vocab_size:,}"),
        ("parameters", f"{plan.parameters:,}", f"{plan.non_embedding_parameters:,} without embeddings"),
        ("steps", f"{plan.steps:,}", _sequences(model, config)),
        ("tokens", f"{most}{plan.tokens:,}", f"{each}{fewer}"),
        ("FLOPs", f"{plan.flops:.3g}", f"{_digits(plan.flops / PF_DAY)} PF-days, with attention (PaLM, appendix B)"),
        ("  6ND", f"{plan.six_nd:.3g}", f"{_digits(plan.six_nd / PF_DAY)} PF-days, 6 x parameters x tokens{once}"),
    ]


def _shape(model: DecoderConfig | EncoderConfig) -> str:
    layers, embeddings = f"{model.num_layers} layers", ""
    if isinstance(model, EncoderConfig):
        if model.shares:
            groups = f" in {model.groups} groups" if model.groups != 1 else ""
            part = "" if model.sharing == "all" else f" {model.sharing}"
            layers += f"{groups} with shared{part} parameters"
        embeddings = f", embeddings of {model.embedding_size:,}" if model.embedding_size else ""
    return f"{layers}, {model.hidden_size:,} channels, {model.num_heads} heads{embeddings}"


def _sequences(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> str:
    sequences = f"{config.batch_size:,} sequences of {config.sequence_length:,} tokens each"
    ramp = f", {config.batch_ramp_start:,} in the first step" if config.batch_ramp_start else ""
    short = ""
    if isinstance(model, EncoderConfig) and config.short_steps:
        short = f"; of {config.short_length:,} tokens in the first {config.short_steps:,} steps"
    return f"{sequences}{ramp}{short}"


def _memory(model: DecoderConfig | EncoderConfig, config: PretrainConfig, target: Target) -> list[Row]:
    estimate = estimate_memory(model, config, target.precision, target.device)
    micro_batch = min(config.micro_batch_size or config.batch_size, config.batch_size)
    settings = f"{target.precision}, micro-batch of {micro_batch:,}"
    settings += ", activation checkpointing" if config.activation_checkpointing else ""
    parts = [
        ("weights", estimate.weights, "each part at its largest; not all exist at the same time"),
        ("gradients", estimate.gradients, ""),
        ("optimiser", estimate.optimiser, "state of the optimiser"),
        ("average", estimate.average, "exponential moving average of the weights"),
        ("activations", estimate.activations, "with the logits and what the loss computes from them"),
        ("batches", estimate.batches, "token ids"),
        ("copies", estimate.copies, "of the state, for asynchronous checkpoints"),
    ]
    host = ("  host", gibibytes(estimate.host), "host memory, in addition: copies for checkpoints, batches")
    return [
        ("memory", gibibytes(estimate.total), f"of one device without sharding, peak in {estimate.moment}; {settings}"),
        *((f"  {name}", gibibytes(size), remark) for name, size, remark in parts if size),
        ("  minimum", gibibytes(estimate.state), "weights, gradients and optimiser"),
        *([] if target.device == "cpu" else [host]),
        ("  framework", gibibytes(FRAMEWORK_BYTES), "host memory, in addition: Python and torch"),
    ]


def _verdict(model: DecoderConfig | EncoderConfig, config: PretrainConfig, target: Target) -> tuple[str, str]:
    problem = misfit(model, config, target.precision, target.device, target.free)
    if problem is not None:
        return "too small", problem
    need = estimate_memory(model, config, target.precision, target.device).total
    return "fits", f"{gibibytes(need)} of {gibibytes(target.free.device)} of free memory"


def _cost(plan: Plan, device: Accelerator, chosen: Assumptions) -> list[Row]:
    speed = f"{chosen.devices:,} x {device.title}, {_digits(device.flops / 1e12)} TFLOP/s ({device.flops_source})"
    power = f"{device.watts:g} W each ({device.watts_source})"
    return [
        ("time", _long_duration(plan.seconds), f"{speed}, MFU {chosen.mfu:g}"),
        ("energy", _larger(plan.kwh, "kWh", "MWh"), f"{power}, PUE {chosen.pue:g}"),
        ("carbon", _larger(plan.kilograms, "kg CO2e", "t CO2e"), f"{chosen.grid_intensity:g} kg per kWh"),
    ]


def _larger(amount: float, unit: str, thousands: str) -> str:
    return f"{_digits(amount)} {unit}" if amount < 1e4 else f"{_digits(amount / 1000)} {thousands}"


def _digits(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _long_duration(seconds: float) -> str:
    """`7200` to `2 hours`: in the largest unit of which there are at least two."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} seconds"
