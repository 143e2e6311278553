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
from neolm.scaling.mesh_search import MOST_DEVICES, Place, check_mesh, fewest_devices, search
from neolm.scaling.mesh_table import mesh_rows, search_text, time_rows
from neolm.scaling.plan import PF_DAY, Assumptions, Plan, make_plan
from neolm.training.memory import FRAMEWORK_BYTES
from neolm.training.memory_check import FreeMemory, free_memory_on, misfit
from neolm.training.memory_mesh import estimate_mesh, micro_batches_of
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
        InputError: the model or the training is too large to calculate with, or cannot be divided by the mesh.
    """
    plan = config.parallel
    devices = chosen.devices or plan.needed
    check_mesh(model, config, devices)
    chosen = chosen.model_copy(update={"devices": devices})
    target, device, here = target_of(config, chosen)
    place = Place(device, target.precision, chosen.efficiency, chosen.node)
    try:
        time = place.time(model, config, devices)
        of_step = config.batch_size * config.sequence_length * model.flops_per_token(config.sequence_length)
        mfu = of_step / (devices * device.flops * time.seconds)
        counts = parameter_count(model), parameter_count(model, False)
        size = make_plan(model, counts, config, device, chosen, mfu)
        machines = (target, here) if devices == 1 else (target,)
        fits = {each: _verdict(model, config, each, devices) for each in dict.fromkeys(machines)}
        smaller = () if fits[target][0] == "fits" or chosen.accelerator is None else _smallest(model, config, place)
        return [
            *_size(model, config, size),
            *(mesh_rows(model, config, devices, chosen.node) if devices > 1 else ()),
            *_memory(model, config, target, devices),
            *((each.title, *verdict) for each, verdict in fits.items()),
            *smaller,
            *(time_rows(time, place) if devices > 1 else ()),
            *_cost(size, device, chosen),
        ]
    except (OverflowError, RuntimeError) as error:  # torch raises the second for sizes beyond 64 bits
        raise InputError(f"plan: the training is too large to calculate with ({error})") from None


def search_table(model: DecoderConfig | EncoderConfig, config: PretrainConfig, chosen: Assumptions) -> str:
    """The fastest meshes of `chosen.devices` devices that fit, and why the others do not.

    Raises:
        InputError: no accelerator is given.
    """
    if chosen.accelerator is None:
        raise InputError("plan: --search needs --accelerator, since the memory and the links of a device decide")
    target, device, _ = target_of(config, chosen)
    precision = "bfloat16" if target.precision == "float16" else target.precision
    devices = chosen.devices or 1
    found = search(model, config, devices, Place(device, precision, chosen.efficiency, chosen.node))
    return search_text(found, devices, device, precision)


def target_of(config: PretrainConfig, chosen: Assumptions) -> tuple[Target, Accelerator, Target]:
    """The device of the training for its memory and for its speed, and this machine."""
    here = _this_machine(config)
    if chosen.accelerator is None:
        target, device = here, _measure(here, measure=chosen.device_tflops is None)
    else:
        device = ACCELERATORS[chosen.accelerator]
        precision = "bfloat16" if config.precision == "auto" else config.precision
        target = Target(device.title, "cuda", precision, FreeMemory(device.memory))
    if config.parallel.shard > 1 and target.precision == "float16":
        target = replace(target, precision="bfloat16")  # which is as wide; float16 cannot be sharded
    if chosen.device_tflops is not None:
        device = replace(device, flops=chosen.device_tflops * 1e12, flops_source="given")
    if chosen.watts is not None:
        device = replace(device, watts=chosen.watts, watts_source="given")
    if chosen.link_bandwidth is not None:
        device = replace(device, link=chosen.link_bandwidth * 1e9, bandwidth_source="given")
    if chosen.network_bandwidth is not None:
        device = replace(device, network=chosen.network_bandwidth * 1e9, bandwidth_source="given")
    return target, device, here


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


def _memory(model: DecoderConfig | EncoderConfig, config: PretrainConfig, target: Target, devices: int) -> list[Row]:
    estimate, stage = estimate_mesh(model, config, target.precision, target.device, devices)
    micro_batch, _ = micro_batches_of(config, devices)
    settings = f"{target.precision}, micro-batch of {micro_batch:,}"
    settings += ", activation checkpointing" if config.activation_checkpointing else ""
    if config.precision == "float16" != target.precision:
        settings += "; float16 cannot be sharded, so choose pretrain.precision=bfloat16"
    who = "one device without sharding" if devices == 1 else "each device"
    if config.parallel.pipeline > 1:
        who = f"a device of stage {stage + 1} of {config.parallel.pipeline}, the fullest"
    parts = [
        ("weights", estimate.weights, "each part at its largest; not all exist at the same time"),
        ("gradients", estimate.gradients, ""),
        ("optimiser", estimate.optimiser, "state of the optimiser"),
        ("average", estimate.average, "exponential moving average of the weights"),
        ("gathered", estimate.gathered, "whole weights of embeddings, head and two blocks at a time"),
        ("activations", estimate.activations, "with the logits and what the loss computes from them"),
        ("buffer", estimate.buffer, "largest communication buffer: gradients that are added up, in float32"),
        ("batches", estimate.batches, "token ids"),
        ("copies", estimate.copies, "of the state, for asynchronous checkpoints"),
    ]
    host = ("  host", gibibytes(estimate.host), "host memory, in addition: copies for checkpoints, batches")
    return [
        ("memory", gibibytes(estimate.total), f"of {who}, peak in {estimate.moment}; {settings}"),
        *((f"  {name}", gibibytes(size), remark) for name, size, remark in parts if size),
        ("  minimum", gibibytes(estimate.state), "weights, gradients and optimiser"),
        *([] if target.device == "cpu" else [host]),
        ("  framework", gibibytes(FRAMEWORK_BYTES), "host memory, in addition: Python and torch"),
    ]


def _verdict(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, target: Target, devices: int
) -> tuple[str, str]:
    problem = misfit(model, config, target.precision, target.device, target.free, devices)
    if problem is not None:
        return "too small", problem
    need = estimate_mesh(model, config, target.precision, target.device, devices)[0].total
    return "fits", f"{gibibytes(need)} of {gibibytes(target.free.device)} of free memory"


def _smallest(model: DecoderConfig | EncoderConfig, config: PretrainConfig, place: Place) -> list[Row]:
    """The smallest mesh that fits."""
    place = replace(place, precision="bfloat16") if place.precision == "float16" else place
    found = fewest_devices(model, config, place)
    if found is None:
        return [("would fit", "nowhere", f"not on {MOST_DEVICES:,} devices either, by any mesh")]
    devices, mesh = found
    need = f"{gibibytes(mesh.memory.total)} each"
    return [
        ("would fit", f"{devices} devices", f"{need}, the smallest power of two: --devices {devices} {mesh.settings}")
    ]


def _cost(plan: Plan, device: Accelerator, chosen: Assumptions) -> list[Row]:
    speed = f"{chosen.devices:,} x {device.title}, {_digits(device.flops / 1e12)} TFLOP/s ({device.flops_source})"
    power = f"{device.watts:g} W each ({device.watts_source})"
    return [
        (
            "time",
            _long_duration(plan.seconds),
            f"{speed}, MFU {plan.mfu:.3g} ({'given' if chosen.mfu else 'estimated'})",
        ),
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
