"""Time of a training step on a mesh of devices: compute, and the communication that compute does not hide.

Each device computes at a stated share of its peak. A collective operation takes what a ring algorithm sends (Thakur et
al. 2005), at the bandwidth of the slowest link: that within a node if the whole group is in it, else that of the
network, of which the members of a group in a node have as many times one device's.

- `tensor`: all-reduces of the outputs and of the gradients of the inputs of attention and MLP; nothing hides them.
- `context`: keys and values are gathered in each layer, and their gradients summed; nothing hides them.
- `shard`: weights are gathered before the forward and the backward pass of each micro-batch, and its gradients summed
  in float32, with those of other copies of the model; what takes longer than compute is not hidden.
- `copies` without `shard`: gradients are summed once a step, after the passes; nothing hides it.
- `pipeline`: hidden states and their gradients are sent; nothing hides it. Devices wait while the pipeline fills and
  empties (Narayanan et al. 2021).

Left out: latencies, protocols and other traffic of the network, the optimiser's step, validations and checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.scaling.accelerators import Accelerator
from neolm.training.memory_mesh import elements, micro_batches_of, weights_of_share
from neolm.training.memory_share import Share
from neolm.training.pipeline_layers import pipeline_layers
from neolm.training.pipeline_schedule import idle_share
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.rank_grid import DATA, RankGrid

ORDER = ("tensor", "context", "shard", "copies", "pipeline")  # from neighbours outwards


@dataclass(frozen=True)
class Traffic:
    """What each device sends in a step for one kind of communication."""

    kind: str
    what: str
    bytes: float
    seconds: float
    exposed: float
    """Seconds for which the device does not compute."""
    across: bool
    """Whether nodes send to each other."""


@dataclass(frozen=True)
class StepTime:
    """Estimated time of a step of full size."""

    compute: float
    """Seconds in which the busiest device computes."""
    idle: float
    """Share of the time in which each device waits while its pipeline fills and empties."""
    traffic: tuple[Traffic, ...]
    seconds: float


def step_time(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    precision: str,
    device: Accelerator,
    devices: int,
    efficiency: float,
    node: int,
) -> StepTime:
    """Estimate the time of a step by `config.parallel` on `devices` devices, of which `node` are in each node."""
    plan, (size, micro_batches) = config.parallel, micro_batches_of(config, devices)
    layers = [sum(map(len, chunks)) for chunks in pipeline_layers(model, plan.pipeline, plan.chunks)]
    length, recomputes = config.sequence_length, config.activation_checkpointing
    head = model.model_copy(update={"num_layers": 0}).flops_per_token(length)
    layer = (model.flops_per_token(length) - head) / model.num_layers * (4 / 3 if recomputes else 1)
    costs = [layer * own + head * (stage == len(layers) - 1) for stage, own in enumerate(layers)]
    tokens = size * length / plan.context  # of a micro-batch on a device
    compute = micro_batches * tokens * max(costs) / plan.tensor / (device.flops * efficiency)
    traffic = tuple(_traffic(model, config, 4 if precision == "float32" else 2, device, devices, node, compute, layers))
    idle = idle_share(plan.pipeline, plan.chunks, micro_batches)
    inside = sum(each.exposed for each in traffic if each.kind in ("tensor", "context", "shard"))
    after = sum(each.exposed for each in traffic if each.kind in ("copies", "pipeline"))
    return StepTime(compute, idle, traffic, (compute + inside) / (1 - idle) + after)


def _traffic(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    width: int,
    device: Accelerator,
    devices: int,
    node: int,
    compute: float,
    stages: list[int],
) -> list[Traffic]:
    plan, (size, micro_batches) = config.parallel, micro_batches_of(config, devices)
    grid, layers, again = plan.grid(devices), max(stages), int(config.activation_checkpointing)
    own = model.model_copy(update={"num_layers": layers}) if plan.pipeline > 1 else model
    weights = weights_of_share(own, Share(True, plan.pipeline == 1, plan.tensor))
    hidden = size * config.sequence_length // plan.context * model.hidden_size * width  # of a micro-batch
    parts = plan.shard * plan.context if plan.shard > 1 else 1
    copies = grid.size(DATA) * plan.context // parts
    rounds = micro_batches if parts > 1 else 1
    keys = 2 * hidden / plan.tensor
    gathered = width * (2 * weights.elements() - elements(weights.rest)) + 4 * weights.elements()
    sums = 2 * (plan.tensor - 1) / plan.tensor
    amounts = {
        "tensor": (plan.tensor, micro_batches * (layers * (4 + 2 * again) + 1) * sums * hidden),
        "context": (plan.context, micro_batches * layers * (2 + again) * (plan.context - 1) * keys),
        "shard": (parts, micro_batches * (parts - 1) / parts * gathered),
        "copies": (copies, rounds * 2 * (copies - 1) / copies * 4 * weights.elements() / parts),
        "pipeline": (plan.pipeline, micro_batches * plan.chunks * min(2, plan.pipeline - 1) * hidden),
    }
    found, room = [], compute
    for kind, (members, sent) in amounts.items():
        if members > 1:
            bandwidth, across = _bandwidth(grid, kind, members, device, node)
            seconds = sent / bandwidth if bandwidth else 0.0
            exposed = seconds
            if parts > 1 and kind in ("shard", "copies"):
                exposed, room = max(0.0, seconds - room), max(0.0, room - seconds)
            found.append(Traffic(kind, WHAT[kind], sent, seconds, exposed, across))
    return found


WHAT = {
    "tensor": "activations and their gradients, added up",
    "context": "keys and values, gathered; their gradients, added up",
    "shard": "weights, gathered; gradients, added up",
    "copies": "gradients, added up over copies of the model",
    "pipeline": "hidden states and their gradients, from stage to stage",
}


def _bandwidth(grid: RankGrid, kind: str, members: int, device: Accelerator, node: int) -> tuple[float, bool]:
    """Bytes per second of each device in a group of `members`, and whether the group is in several nodes."""
    stride = 1
    for axis in ORDER[: ORDER.index(kind)]:
        stride *= grid.sizes[axis]
    if kind == "shard":
        stride = grid.sizes["tensor"]  # context is divided with it
    if kind == "pipeline" and stride < node:
        return device.link, False
    if stride * members <= node:
        return device.link, False
    return min(device.network * max(1, node // stride) if kind != "pipeline" else device.network, device.link), True
