"""Estimate of the memory that a training takes on one device, without allocating it.

One optimiser step of the real code (`OptimiserStep`, the objective, the optimisers) runs on fake tensors, and
`LiveStorages` counts the bytes of those that exist. So the estimate follows the code: nothing here knows how a layer, a
loss or an optimiser works.

A large training does not run in full size. In the passes, memory is linear in the number of layers and in the number of
sequences: they run with a few of each, and each moment of a step is extrapolated. The optimiser does not depend on the
batch: it runs without passes, on gradients that come from nowhere, for so many layers that its memory is linear too.

A device that is not the CPU is represented by torch's `meta` device, since fake CUDA tensors need a CUDA build.
Attention counts there as the memory-efficient kernel of torch, with a window too, since it is then one compiled kernel.

An encoder's sequences count as full, and as those of the longest length. If some are a few tokens shorter, the indices
of the padding can take more (6% were measured); in most trainings they are shorter by more than that, and take less.

Left out: memory that an operator frees before it returns, buffers of the matrix libraries, what an allocator loses
between tensors, what torch.compile saves, a second copy of the optimiser while a checkpoint is read, where an encoder's
sequences begin (6 bytes each), and sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from operator import attrgetter

from neolm.models.config import DecoderConfig
from neolm.models.cross_entropy import CHUNK_ELEMENTS, MIN_CHUNK_ROWS
from neolm.models.encoder_config import EncoderConfig
from neolm.models.stored_model import parameter_count
from neolm.training.memory_step import CHECKPOINT, FORWARD, LOSS, START, Step, run_step
from neolm.training.muon import MAX_STACKED_ELEMENTS
from neolm.training.pretrain_config import PretrainConfig

# Bytes of Python, torch and the libraries that both load: resident after a first small step, measured on Linux.
FRAMEWORK_BYTES = 400 * 2**20
# Tokens from which on the memory of the passes is linear; the chunks of the loss may need more.
MIN_TOKENS = 1024
# A step with more micro-batches takes no more memory.
MAX_MICRO_BATCHES = 3


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a training takes at its peak, and those of its parts, each at its own."""

    total: int
    moment: str
    """When the peak is."""
    weights: int
    """Float32 master weights, and the working copy where the passes run in another type."""
    gradients: int
    optimiser: int
    average: int
    """Exponential moving average of the weights."""
    activations: int
    """Most that a forward pass and the loss hold, with the logits and the gradients that the loss computes."""
    batches: int
    """Token ids on the device: of this step, on a CPU also of the next one and of the validation."""
    copies: int
    """Copies of the state for checkpoints that are written while the training goes on, where the device is the CPU."""
    host: int
    """Host memory where the device is not the CPU: batches and copies for checkpoints, without `FRAMEWORK_BYTES`."""
    gathered: int = 0
    """Whole weights, in the type of the passes, where each process keeps a part of them."""
    buffer: int = 0
    """Largest buffer in which gradients are added up over processes."""

    @property
    def state(self) -> int:
        """Weights, gradients and optimiser: the least that any batch size needs."""
        return self.weights + self.gradients + self.optimiser


def estimate_memory(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, precision: str, device: str
) -> MemoryEstimate:
    """Estimate the memory of a training on one `device`, named as torch names it, with passes in `precision`."""
    size = min(config.micro_batch_size or config.batch_size, config.batch_size)
    micro_batches = min(-(-config.batch_size // size), MAX_MICRO_BATCHES)
    cpu = device == "cpu"
    fixed = config.model_copy(update={"batch_size": 1, "micro_batch_size": 1, "asynchronous_checkpoints": False})
    run = partial(run_step, config=fixed, precision=precision, cpu=cpu, micro_batches=micro_batches)
    step = _extrapolate(run, model, size, config.sequence_length)
    activations = max(step.moments[FORWARD], step.moments[LOSS]) - step.moments[START]
    return with_checkpoints(step, activations, model, config, cpu)


def with_checkpoints(
    step: Step, activations: int, model: DecoderConfig | EncoderConfig, config: PretrainConfig, cpu: bool
) -> MemoryEstimate:
    """The estimate of a training whose steps are like `step`, with its batches and its copies for checkpoints."""
    # int64, of one sequence; an encoder's has token types, mask, labels and a label of the pair too
    ids = 8 * ((4 if isinstance(model, EncoderConfig) else 1) * config.sequence_length + 1)
    read_ahead = ids * (2 * config.batch_size + config.validation_sequences)
    saved = step.masters + step.optimiser + step.average
    both = saved + step.masters  # the last state and the best weights
    batches, host, copies, kept = read_ahead, 0, 0, 0
    if not cpu:  # a synchronous checkpoint, too, is copied to the host as a whole
        batches, host = 2 * ids * config.batch_size, read_ahead + (both if config.asynchronous_checkpoints else saved)
    elif config.asynchronous_checkpoints:
        copies, last = both, config.total_steps
        kept = saved * (config.checkpoint_every < last) + step.masters * (config.validate_every < last)
    moments = {name: most + batches + kept for name, most in step.moments.items()}
    moments[CHECKPOINT] += copies - kept
    fullest = max(moments, key=lambda name: moments[name])
    return MemoryEstimate(
        total=moments[fullest],
        moment=fullest.partition(" of block ")[0],
        weights=step.masters + step.working,
        gradients=step.gradients,
        optimiser=step.optimiser,
        average=step.average,
        activations=activations,
        batches=batches,
        copies=copies,
        host=host,
    )


def _extrapolate(run: partial[Step], model: DecoderConfig | EncoderConfig, sequences: int, length: int) -> Step:
    """`run` with all layers and sequences, or an extrapolation from smaller runs: four with passes, two without."""
    config = run.keywords["config"]
    layers, sizes = _samples(model, config, sequences, length)
    if len(layers) == len(sizes) == 1:
        return run(model, sequences=sequences, length=length)

    def moments(model: DecoderConfig | EncoderConfig, **size: int) -> Mapping[str, int]:
        return run(model, **size).moments

    passes = extrapolate_passes(moments, model, config, sequences, length)
    period = _layers_of_passes(model)[0]
    no_passes = config.model_copy(update={"activation_checkpointing": False})
    least = period * -(-_layers_of_optimiser(model, no_passes) // period) + model.num_layers % period
    depths = _sample(model.num_layers, least, least + period)
    states = [
        run(model.model_copy(update={"num_layers": number}), config=no_passes, sequences=0, length=0)
        for number in depths
    ]

    def state(value: Callable[[Step], int]) -> int:
        return line(depths, [value(step) for step in states], model.num_layers)

    optimiser = {name: state(lambda step, name=name: step.moments[name]) for name in states[0].moments}  # type: ignore[misc]
    passes = {name: most for name, most in passes.items() if name not in optimiser}
    rest = {field.name: state(attrgetter(field.name)) for field in fields(Step) if field.name != "moments"}
    return Step(moments=optimiser | passes, **rest)


def extrapolate_passes(
    run: Callable[..., Mapping[str, int]],
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    sequences: int,
    length: int,
) -> dict[str, int]:
    """The bytes at each moment of the passes of `run`, with all layers and sequences, from runs with few of them."""
    layers, sizes = _samples(model, config, sequences, length)
    found = {
        (number, size): run(model.model_copy(update={"num_layers": number}), sequences=size, length=length)
        for number, size in product(layers, sizes)
    }

    def full(name: str) -> int:
        by_size = [line(layers, [found[number, size][name] for number in layers], model.num_layers) for size in sizes]
        return line(sizes, by_size, sequences)

    return {name: full(name) for name in found[layers[0], sizes[0]]}


def _samples(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, sequences: int, length: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of layers and of sequences with which the passes run."""
    period, least = _layers_of_passes(model)
    layers = _sample(model.num_layers, least, least + period)
    targets = config.masking.predictions(length) if isinstance(model, EncoderConfig) else length  # of a sequence
    rows = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS // model.vocab_size)  # of a chunk of the loss
    least = max(-(-MIN_TOKENS // length), -(-rows // targets))
    return layers, _sample(sequences, least, 2 * least)


def _layers_of_passes(model: DecoderConfig | EncoderConfig) -> tuple[int, int]:
    """Kinds of layers, and a number of layers from which on the memory of the passes is linear in it."""
    if isinstance(model, DecoderConfig):
        period = len(model.attention_layers)
        return period, period + model.num_layers % period
    if not model.shares:
        return 1, 1
    # layers that share parameters add to one gradient, which the first of them in the backward pass makes
    return 1, 3 if model.groups == 1 else model.num_layers


def _layers_of_optimiser(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> int:
    """Number of layers from which on the optimiser's memory is linear in it.

    With few layers, its peak is while it works on the embedding. With few matrices, Muon's stacks are not full.
    """
    one, two = (parameter_count(model.model_copy(update={"num_layers": number})) for number in (1, 2))
    if isinstance(model, EncoderConfig) and model.shares and model.sharing == "all":
        return model.groups or 1  # of whatever depth, the model has as many parameters
    stacked = MAX_STACKED_ELEMENTS // model.hidden_size**2 if config.optimiser == "muon" else 0
    return max(2 * (2 * one - two) // (two - one), stacked) + 1


def _sample(full: int, low: int, high: int) -> tuple[int, ...]:
    """Where a quantity is measured: at two values from which it is extrapolated to `full`, or at `full` itself."""
    return (full,) if full <= high else (low, high)


def line(places: Sequence[int], values: Sequence[int], place: int) -> int:
    """The value at `place` of the line through one or two points; through one it is level."""
    slope = (values[-1] - values[0]) / max(places[-1] - places[0], 1)
    return round(values[0] + slope * (place - places[0]))
