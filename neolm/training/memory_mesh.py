"""Estimate of the memory of each process of a training on several devices.

The activations of a process are counted by running the passes of its share of the model on fake tensors
(`neolm.training.memory_share`). What is added here is how long weights and gradients exist, which depends on the plan:

- `shard` = 1: master weights, their working copy and the gradients of the share all exist; the sum over copies of the
  model is taken in buckets (`neolm.distributed.data_parallel`).
- `shard` above 1 (FSDP2): a part of the rows of each parameter, of its gradient and of its optimiser state. The weights
  outside of the blocks are whole from the forward to the end of the backward pass, those of two blocks at a time; the
  gradients of a block are copied to a float32 buffer, which exists until the next block's is made.
- `pipeline` above 1 (1F1B): the first of p stages holds p micro-batches between their passes, the last one holds one.

Left out, besides what `neolm.training.memory` leaves out: buffers of NCCL and gloo.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain

import torch

from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.training.lamb import MAX_ELEMENTS as LAMB_ELEMENTS
from neolm.training.loop import own_blocks
from neolm.training.memory import (
    MemoryEstimate,
    estimate_memory,
    extrapolate_passes,
    line,
    with_checkpoints,
)
from neolm.training.memory_share import END, HELD, OPTIMISER, STATE, Share, run_optimiser, run_passes, shared_network
from neolm.training.memory_step import (
    BACKWARD,
    CHECKPOINT,
    EMBEDDING,
    FORWARD,
    LOSS,
    START,
    UPDATE,
    Step,
)
from neolm.training.muon import MAX_STACKED_ELEMENTS
from neolm.training.parallel_config import ParallelConfig
from neolm.training.pipeline_layers import pipeline_layers
from neolm.training.pipeline_schedule import MICRO_BATCHES, most_in_flight
from neolm.training.precision import MAX_BUCKET_ELEMENTS
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.rank_grid import DATA

REDUCE = "the sum of the embedding's gradient over processes"
BUCKET_ELEMENTS = 2**23  # of `neolm.distributed.data_parallel`
Shapes = tuple[torch.Size, ...]


@dataclass(frozen=True)
class Weights:
    """Shapes of the parameters of a share."""

    blocks: tuple[Shapes, ...]
    """Of each block that shares no parameter with others."""
    rest: Shapes
    head: int
    """Elements of the head's matrix."""
    embedding: int
    """Elements of the embeddings that only the embeddings have."""

    def elements(self, shard: int = 1) -> int:
        """Elements in one of `shard` processes that divide the rows of each parameter."""
        return elements([*chain(*self.blocks), *self.rest], shard)

    def gathered_by(self, optimiser: str) -> int:
        """Elements that each process gathers at once for an optimiser that needs whole matrices."""
        shapes = Counter(shape for shape in chain(*self.blocks, self.rest))
        if optimiser == "lamb":  # weights and steps
            return 2 * max(min(LAMB_ELEMENTS, self.elements()), *map(math.prod, shapes))
        alike = {math.prod(shape): number for shape, number in shapes.items() if len(shape) == 2}
        stacks = (size * min(number, max(1, MAX_STACKED_ELEMENTS // size)) for size, number in alike.items())
        return max(stacks) if optimiser == "muon" else 0


def elements(shapes: Sequence[torch.Size], shard: int = 1) -> int:
    """Elements of the rows that the first of `shard` processes has of each tensor."""
    return sum(-(-shape[0] // shard) * math.prod(shape[1:]) for shape in shapes)


@lru_cache(maxsize=256)
def weights_of_share(model: DecoderConfig | EncoderConfig, share: Share) -> Weights:
    """The parameters of `share`, whose layers are those of `model`."""
    repeated = model.num_layers if isinstance(model, DecoderConfig) else 1
    with torch.device("meta"):
        network = shared_network(model.model_copy(update={"num_layers": 1}) if repeated > 1 else model, share)
    own = own_blocks(network)
    inside = {id(parameter) for block in own for parameter in block.parameters()}
    named = {name: p for name, p in network.named_parameters() if id(p) not in inside}
    head = getattr(getattr(network, "head", None), "weight", None)
    embedding = named["embedding.weight"]
    return Weights(
        tuple(tuple(parameter.shape for parameter in block.parameters()) for block in own) * repeated,
        tuple(parameter.shape for parameter in named.values()),
        0 if head is None else head.numel(),
        0 if head is embedding else embedding.numel(),
    )


def micro_batches_of(config: PretrainConfig, ranks: int) -> tuple[int, int]:
    """Sequences of a micro-batch, and micro-batches of a step, in the process that has the most of them."""
    batch = -(-config.batch_size // config.parallel.grid(ranks).size(DATA))
    parts = MICRO_BATCHES * config.parallel.pipeline if config.parallel.pipeline > 1 else 1
    size = min(config.micro_batch_size or -(-batch // parts), batch)
    return size, -(-batch // size)


def estimate_stage(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str, ranks: int, stage: int
) -> MemoryEstimate:
    """Estimate the memory of a process of `stage`, from 0, in a training by `config.parallel` on `ranks` devices."""
    plan, (size, micro_batches) = config.parallel, micro_batches_of(config, ranks)
    data = plan.grid(ranks).size(DATA)
    config = config.model_copy(update={"batch_size": -(-config.batch_size // data)})
    share = Share(stage == 0, stage == plan.pipeline - 1, plan.tensor, plan.context)
    if plan.pipeline > 1:
        layers = pipeline_layers(model, plan.pipeline, plan.chunks)[stage]
        model = model.model_copy(update={"num_layers": sum(map(len, layers))})
    cpu = device == "cpu"
    fixed = config.model_copy(
        update={"batch_size": 1, "micro_batch_size": 1, "asynchronous_checkpoints": False, "parallel": ParallelConfig()}
    )
    run = partial(run_passes, config=fixed, precision=precision, cpu=cpu, share=share)
    passes = extrapolate_passes(run, model, config, size, -(-config.sequence_length // plan.context))
    in_flight = min(most_in_flight(plan.pipeline, plan.chunks, micro_batches, stage), micro_batches * plan.chunks)
    held = max(in_flight - plan.chunks, 0) * passes[HELD] // plan.chunks
    training = _Training(
        {name: most + held for name, most in passes.items()},
        weights_of_share(model, share),
        *_optimiser(model, fixed, cpu, replace(share, context=1), plan.shard > 1 or plan.tensor > 1),
        config.ema_decay is not None,
        4 if precision == "float32" else 2,
        micro_batches > 1,
        data * plan.context,
        cpu,
    )
    step, gathered, buffer = training.replicated() if plan.shard == 1 else training.sharded(plan.shard * plan.context)
    estimate = with_checkpoints(step, max(passes[FORWARD], passes[LOSS]) + held, model, config, cpu)
    return replace(estimate, gathered=gathered, buffer=buffer)


def estimate_mesh(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str, ranks: int
) -> tuple[MemoryEstimate, int]:
    """Estimate the memory of each process of a training on `ranks` devices, and name the stage that takes the most."""
    if ranks == 1:
        return estimate_memory(model, config, precision, device), 0
    numbers = range(config.parallel.pipeline)
    estimates = {number: estimate_stage(model, config, precision, device, ranks, number) for number in numbers}
    worst = max(estimates, key=lambda number: estimates[number].total)
    return estimates[worst], worst


def least_memory(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> int:
    """Bytes that a process of the first stage needs at least: weights, gradients and one number of optimiser state."""
    plan = config.parallel
    if plan.pipeline > 1:
        layers = pipeline_layers(model, plan.pipeline, plan.chunks)[0]
        model = model.model_copy(update={"num_layers": sum(map(len, layers))})
    parts = plan.shard * plan.context if plan.shard > 1 else 1
    return 12 * weights_of_share(model, Share(True, plan.pipeline == 1, plan.tensor)).elements(parts)


def _optimiser(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, cpu: bool, share: Share, divided: bool
) -> tuple[int, int]:
    """Bytes of the optimiser's state for all of a share, and the most that its step takes besides."""
    whole = replace(share, tensor=1)  # LAMB and Muon need whole matrices, which they gather if they are divided
    gathered = 4 * weights_of_share(model, whole).gathered_by(config.optimiser) if divided else 0
    run = partial(run_optimiser, config=config, cpu=cpu)
    stacked = MAX_STACKED_ELEMENTS // model.hidden_size**2 if config.optimiser == "muon" else 0
    few = [stacked + 1, stacked + 2]
    if not isinstance(model, DecoderConfig) or model.num_layers <= few[-1]:
        few = [model.num_layers]
    models = [model.model_copy(update={"num_layers": layers}) for layers in few]
    states = [run(each, share=share)[STATE] for each in models]
    return line(few, states, model.num_layers), run(models[-1], share=whole)[OPTIMISER] + gathered


@dataclass(frozen=True)
class _Training:
    """What determines the memory of a step of one process."""

    passes: Mapping[str, int]
    """Bytes of the activations at each moment."""
    weights: Weights
    state: int
    """Bytes of the optimiser's state for all weights."""
    temporary: int
    """The most that the optimiser's step takes besides."""
    averages: bool
    width: int
    """Bytes of a number in the passes."""
    several: bool
    """Whether there are several micro-batches."""
    summed: int
    """Processes whose gradients are added up."""
    cpu: bool

    def _first_and_last(self) -> tuple[int, int]:
        """Activations when the backward pass is in the first and in the last block."""
        return self.passes[f"{BACKWARD} of block 0"], self.passes[f"{BACKWARD} of block -1"]

    def replicated(self) -> tuple[Step, int, int]:
        """A step in which all weights, gradients and optimiser state exist; no gathered weights; the largest buffer."""
        weights, width = self.weights, self.width
        whole, (first, last) = weights.elements(), self._first_and_last()
        masters = 4 * whole
        working = 0 if width == 4 else width * whole
        average = masters * self.averages
        kept = masters + working + self.state + average
        base = kept + masters * self.several  # with the gradients of earlier micro-batches, in float32
        grows = 0 if self.several and width == 4 else width  # what a gradient takes when it exists
        end = base + grows * (whole - weights.embedding)  # of the passes through the blocks
        block = elements(weights.blocks[0]) if weights.blocks else 0  # whose gradients `first` has already
        largest = max(math.prod(shape) for shape in chain(*weights.blocks, weights.rest))
        buffer = 4 * max(min(BUCKET_ELEMENTS, whole), largest) if self.summed > 1 else 0
        update = masters + max(buffer, self.temporary)
        if self.several and working:
            update = max(update, masters + working)  # when the last micro-batch's gradients are added
        elif working and buffer:  # a bucket in float32 and its parts, beside what is left of the gradients
            update = max(update, working + 2 * buffer, masters + buffer + width * buffer // 4)
        elif working:
            update = working + 4 * min(MAX_BUCKET_ELEMENTS, whole) + self.temporary
        moments = {
            START: base,
            FORWARD: base + self.passes[FORWARD],
            LOSS: base + self.passes[LOSS],
            BACKWARD: max(base + grows * weights.head + last, end - grows * block + first),
            EMBEDDING: end + self.passes[EMBEDDING],
            UPDATE: kept + update,
            CHECKPOINT: kept,
        }
        return (
            Step(moments, masters, working, width * whole if not self.several else masters, self.state, average),
            0,
            buffer,
        )

    def sharded(self, shard: int) -> tuple[Step, int, int]:
        """A step by FSDP2 over `shard` processes; bytes of the gathered weights; the largest buffer."""
        weights, width = self.weights, self.width
        own, (first, last) = weights.elements(shard), self._first_and_last()
        masters, state = 4 * own, round(self.state * own / weights.elements())
        average = masters * self.averages
        kept = masters + state + average
        block = shard * max((elements(shapes, shard) for shapes in weights.blocks), default=0)
        rest = shard * elements(weights.rest, shard)
        base = kept + masters * self.several
        # with several copies of the model, the sums of a micro-batch exist until its end, beside those of earlier ones
        grows = masters if not self.several or self.summed > shard else 0
        two = width * (rest + 2 * block)
        end_of_last, end_of_first = (self.passes[f"{END} of block {number}"] for number in (-1, 0))
        end = max(end_of_last, end_of_first + grows)
        backward = base + width * (rest + weights.head)
        sent = 4 * block  # the gradients of the block before, in float32
        gloo = int(self.cpu)  # copies what it sends
        received = width * (1 + gloo) + (width / shard if width < 4 else 0)  # bytes of a weight that is being gathered
        reduced = 4 * (1 + gloo) + 4 / shard  # bytes of a gradient that is being added up
        moments = {
            START: base + round((width + received) * rest),
            FORWARD: base + two + self.passes[FORWARD],
            LOSS: base + width * (rest + block) + self.passes[LOSS],
            BACKWARD: backward
            + max(
                2 * width * block + max(last, first + sent + grows),
                round((width + received) * block) + sent + end,
                round((width + reduced) * block) + end,
            ),
            EMBEDDING: backward + sent + grows + self.passes[EMBEDDING],
            REDUCE: base + round(max(width + 4, reduced) * rest) + grows,
            UPDATE: kept + masters + self.temporary,
            CHECKPOINT: kept,
        }
        return Step(moments, masters, 0, masters, state, average), two, 4 * max(block, rest)
