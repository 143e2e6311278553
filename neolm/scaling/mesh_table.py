"""Rows of `neolm plan` about a mesh of devices, and the result of `neolm plan --search`, as text."""

from __future__ import annotations

from neolm.core.progress import gibibytes, table
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.scaling.accelerators import Accelerator
from neolm.scaling.mesh_search import Place, Search
from neolm.scaling.mesh_time import StepTime
from neolm.training.memory_mesh import micro_batches_of
from neolm.training.pipeline_layers import pipeline_layers
from neolm.training.pretrain_config import PretrainConfig

Row = tuple[str, str, str]


def mesh_rows(model: DecoderConfig | EncoderConfig, config: PretrainConfig, devices: int, node: int) -> list[Row]:
    """How the devices divide the model and the batch."""
    plan, sizes = config.parallel, config.parallel.grid(devices).sizes
    axes = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
    rows = [("mesh", f"{devices:,} devices", f"{axes}; nodes of {node}")]
    if plan.pipeline > 1:
        layers = [sum(map(len, chunks)) for chunks in pipeline_layers(model, plan.pipeline, plan.chunks)]
        counts = ", ".join(map(str, layers)) if len(layers) <= 8 else f"{min(layers)} to {max(layers)}"
        rows.append(("  stages", f"{plan.pipeline}", f"with {counts} layers, the first also with the embeddings"))
    if plan.shard > 1:
        differs = "FSDP2 divides weights and gradients too, and gathers weights for each micro-batch"
        rows.append(("  shard", f"{plan.shard}", f"{differs}; ZeRO-1 divides the optimiser's state alone"))
    size, micro_batches = micro_batches_of(config, devices)
    rows.append(("  micro-batches", f"{micro_batches:,}", f"of {size:,} sequences, of each device in a step"))
    return rows


def time_rows(time: StepTime, place: Place) -> list[Row]:
    """Communication and time of a step."""
    device = place.device
    links = f"{device.link / 1e9:g} GB/s in a node, {device.network / 1e9:g} GB/s between nodes"
    source = f"{links}: {device.bandwidth_source}" if device.link else "its time is not counted: no bandwidth is known"
    total = sum(each.bytes for each in time.traffic)
    rows = [("communication", gibibytes(total), f"sent by a device in a step; {source}")]
    for each in time.traffic:
        where = "between nodes" if each.across else "in a node"
        hidden = "" if each.exposed == each.seconds else f", of which compute hides {each.seconds - each.exposed:.3g} s"
        rows.append((f"  {each.kind}", gibibytes(each.bytes), f"{each.what}: {each.seconds:.3g} s {where}{hidden}"))
    exposed = sum(each.exposed for each in time.traffic)
    waits = time.seconds - time.compute - exposed
    if time.idle:
        rows.append(("bubble", f"{time.idle:.1%}", "of the time, while the pipeline fills and empties"))
    parts = f"compute {time.compute:.3g} s at {place.efficiency:g} of the peak, with recomputation"
    parts += f"; communication {exposed:.3g} s" + (f"; waiting {waits:.3g} s" if time.idle else "")
    return [*rows, ("step", f"{time.seconds:.3g} s", parts)]


def search_text(found: Search, devices: int, device: Accelerator, precision: str) -> str:
    """The best meshes as a table, and a sentence about the others."""
    reasons = dict(found.failed)
    slow = reasons.pop("memory", 0)
    named = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
    about = (
        f"{found.tried:,} combinations of mesh, micro-batch and activation checkpointing were timed, in {precision}."
    )
    about += f" Meshes that cannot be: {named}." if named else ""
    if not found.best:
        return f"No mesh of {devices:,} x {device.title} fits: {slow:,} combinations need more memory. {about}"
    about += f" {slow:,} that would be faster need more than {gibibytes(device.memory)}." if slow else ""
    rows = [("step", "memory", "bubble", "settings")]
    for each in found.best:
        time = each.time
        rows.append((f"{time.seconds:.3g} s", gibibytes(each.memory.total), f"{time.idle:.1%}", each.settings))
    return f"{table(rows)}\n{about}"
