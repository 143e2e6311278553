"""Estimate of the memory that a training takes on one device, without allocating it.

One optimiser step of the real code (`OptimiserStep`, the objective, the optimisers) runs on fake tensors, and
`LiveStorages` counts the bytes of those that exist. So the estimate follows the code: nothing here knows how a layer, a
loss or an optimiser works.

A large training does not run in full size. In the passes, memory is linear in the number of layers and in the number of
sequences: they run with a few of each, and each moment of a step is extrapolated. The optimiser does not depend on the
batch: it runs without passes, on gradients that come from nowhere, for so many layers that its memory is linear too.

A device that is not the CPU is represented by torch's `meta` device, since fake CUDA tensors need a CUDA build.
Attention counts there as the memory-efficient kernel of torch, with a window too, since it is then one compiled kernel.

Left out: memory that an operator frees before it returns, buffers of the matrix libraries, what an allocator loses
between tensors, what torch.compile saves, a second copy of the optimiser while a checkpoint is read, and sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from neolm.core.device import Choice
from neolm.data.batch import Batch
from neolm.models.config import DecoderConfig
from neolm.models.cross_entropy import CHUNK_ELEMENTS
from neolm.models.decoder import Decoder, count_parameters
from neolm.training import loop
from neolm.training.live_storages import LiveStorages
from neolm.training.muon import MAX_STACKED_ELEMENTS
from neolm.training.objective import CausalLanguageModelling, Term
from neolm.training.passes import GradientAccumulation, Sums
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Parallelism, Training
from neolm.training.state import TrainingState
from neolm.training.step import OptimiserStep

# Bytes of Python, torch and the libraries that both load: resident after a first small step, measured on Linux.
FRAMEWORK_BYTES = 400 * 2**20
# Tokens from which on the memory of the passes is linear; the chunks of the loss may need more.
MIN_TOKENS = 1024
# A step with more micro-batches takes no more memory.
MAX_MICRO_BATCHES = 3

START, FORWARD, LOSS, BACKWARD = "the start of a micro-batch", "the forward pass", "the loss", "the backward pass"
EMBEDDING, UPDATE, CHECKPOINT = "the embedding's gradient", "the optimiser's step", "a checkpoint"


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

    @property
    def state(self) -> int:
        """Weights, gradients and optimiser: the least that any batch size needs."""
        return self.weights + self.gradients + self.optimiser


def estimate_memory(model: DecoderConfig, config: PretrainConfig, precision: str, device: str) -> MemoryEstimate:
    """Estimate the memory of a training on one `device`, named as torch names it, with passes in `precision`."""
    size = min(config.micro_batch_size or config.batch_size, config.batch_size)
    micro_batches = min(-(-config.batch_size // size), MAX_MICRO_BATCHES)
    cpu = device == "cpu"
    fixed = config.model_copy(update={"batch_size": 1, "micro_batch_size": 1, "asynchronous_checkpoints": False})
    run = partial(_run_step, config=fixed, precision=precision, cpu=cpu, micro_batches=micro_batches)
    step = _extrapolate(run, model, size, config.sequence_length)

    ids = 8 * (config.sequence_length + 1)  # int64, of one sequence
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
        activations=max(step.moments[FORWARD], step.moments[LOSS]) - step.moments[START],
        batches=batches,
        copies=copies,
        host=host,
    )


@dataclass(frozen=True)
class _Step:
    """Bytes that a step takes."""

    moments: dict[str, int]
    """The most at each moment; a checkpoint is between two steps."""
    masters: int
    working: int
    """Working copy of the master weights; 0 where there is none."""
    gradients: int
    optimiser: int
    average: int


def _extrapolate(run: partial[_Step], model: DecoderConfig, sequences: int, length: int) -> _Step:
    """`run` with all layers and sequences, or an extrapolation from smaller runs: four with passes, two without."""
    period = len(model.attention_layers)
    least = period + model.num_layers % period
    layers = _sample(model.num_layers, least, least + period)
    least = -(-max(MIN_TOKENS, CHUNK_ELEMENTS // model.vocab_size) // length)
    sizes = _sample(sequences, least, 2 * least)
    steps = {
        (number, size): run(model.model_copy(update={"num_layers": number}), sequences=size, length=length)
        for number, size in product(layers, sizes)
    }
    smallest = steps[layers[0], sizes[0]]
    if len(steps) == 1:
        return smallest

    def full(name: str) -> int:
        by_size = [
            _line(layers, [steps[number, size].moments[name] for number in layers], model.num_layers) for size in sizes
        ]
        return _line(sizes, by_size, sequences)

    no_passes = run.keywords["config"].model_copy(update={"activation_checkpointing": False})
    least = period * -(-_layers_of_optimiser(model, no_passes) // period) + model.num_layers % period
    depths = _sample(model.num_layers, least, least + period)
    states = [
        run(model.model_copy(update={"num_layers": number}), config=no_passes, sequences=0, length=0)
        for number in depths
    ]

    def state(value: Callable[[_Step], int]) -> int:
        return _line(depths, [value(step) for step in states], model.num_layers)

    optimiser = {name: state(lambda step, name=name: step.moments[name]) for name in states[0].moments}  # type: ignore[misc]
    passes = {name: full(name) for name in smallest.moments if name not in optimiser}
    rest = {field.name: state(attrgetter(field.name)) for field in fields(_Step) if field.name != "moments"}
    return _Step(moments=optimiser | passes, **rest)


def _layers_of_optimiser(model: DecoderConfig, config: PretrainConfig) -> int:
    """Number of layers from which on the optimiser's memory is linear in it.

    With few layers, its peak is while it works on the embedding. With few matrices, Muon's stacks are not full.
    """
    one, two = (count_parameters(model.model_copy(update={"num_layers": number})) for number in (1, 2))
    stacked = MAX_STACKED_ELEMENTS // model.hidden_size**2 if config.optimiser == "muon" else 0
    return max(2 * (2 * one - two) // (two - one), stacked) + 1


def _sample(full: int, low: int, high: int) -> tuple[int, ...]:
    """Where a quantity is measured: at two values from which it is extrapolated to `full`, or at `full` itself."""
    return (full,) if full <= high else (low, high)


def _line(places: Sequence[int], values: Sequence[int], place: int) -> int:
    """The value at `place` of the line through one or two points; through one it is level."""
    slope = (values[-1] - values[0]) / max(places[-1] - places[0], 1)
    return round(values[0] + slope * (place - places[0]))


@lru_cache(maxsize=256)
def _run_step(
    model: DecoderConfig,
    config: PretrainConfig,
    precision: str,
    cpu: bool,
    micro_batches: int,
    sequences: int,
    length: int,
) -> _Step:
    """Run the second step of a training on fake tensors, whose last micro-batch is of `sequences` of `length` tokens.

    The other micro-batches, and the last one too if `length` is 0, have gradients without passes.
    """
    device = "cpu" if cpu else "meta"
    config = config.model_copy(update={"micro_batch_size": max(sequences, 1), "skip_spikes": None})
    with FakeTensorMode(), LiveStorages(device) as live:
        with torch.device(device):
            decoder = Decoder(model)
        training = Training(
            model=decoder,
            objective=CausalLanguageModelling(config.z_loss),
            data=cast(Any, None),
            validation=(),
            config=config,
            directory=Path(),
            device=Choice(device, "estimate"),
            precision=Choice(precision, "estimate"),
            parallelism=Parallelism(passes=_LastPasses, deferred=True),
        )
        state = TrainingState(decoder, config, getattr(torch, precision))
        state.scale = None  # it would read numbers from the device
        module = loop._module(training, state)
        step = OptimiserStep(training, state, module)
        for optimiser in state.optimisers:
            optimiser.found_inf = None  # type: ignore[attr-defined] # which only AdamW's fused form takes
        step.run(1, _batch(1, 0), 0.0)  # makes the state of the optimisers
        state.weights.refresh()  # frees the gradients
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["fused"] = True  # on meta too, once the state is there
        _mark_passes(module, live)
        live.moments.clear()
        live.enter(CHECKPOINT)
        live.enter(UPDATE)
        step.run(2, _batch(micro_batches * max(sequences, 1), length), 0.0)
        masters, copy = _bytes(decoder.parameters()), _bytes(module.parameters())
        return _Step(
            moments=live.moments,
            masters=masters,
            working=copy if module is not decoder else 0,
            gradients=masters if micro_batches > 1 else copy,  # sums of several are in float32
            optimiser=_bytes(v for o in state.optimisers for entry in o.state.values() for v in entry.values()),
            average=_bytes(state.average.tensors.values()) if state.average else 0,
        )


class _LastPasses(GradientAccumulation):
    """Passes of the last micro-batch, if it has tokens. The others have gradients, which are new tensors."""

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """See `Passes`."""
        passes = parts[-1:] if parts[-1].tokens else ()
        for _ in range(len(parts) - len(passes)):
            for parameter in self._module.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._precision.gather()
        if passes:
            return super().run(passes, factors)
        sums = Sums()
        sums.add({term: Term(next(self._module.parameters()).new_zeros(())) for term in factors})
        return sums


def _batch(sequences: int, length: int) -> Batch:
    ids = torch.zeros(sequences, length, dtype=torch.int64, device="cpu")
    return Batch({"input_ids": ids, "labels": ids.clone()})


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _mark_passes(module: nn.Module, live: LiveStorages) -> None:
    """Divide the passes of `module` into moments; those of a block are named by its number from either end."""
    blocks = loop.blocks_of(module)
    last = len(blocks) - 1

    def enter_backward(number: int, grad: Tensor) -> None:
        if number < 0:
            live.enter(EMBEDDING)
        else:
            live.enter(f"{BACKWARD} of block {number}", f"{BACKWARD} of block {number - last - 1}")

    def before_block(number: int, block: nn.Module, args: Any) -> None:
        args[0].register_hook(partial(enter_backward, number - 1))

    def after_blocks(block: nn.Module, args: Any, output: Tensor) -> None:
        live.enter(LOSS)
        output.register_hook(partial(enter_backward, last))  # type: ignore[no-untyped-call]

    def before_passes(module: nn.Module, args: Any) -> None:
        live.enter(START)
        live.enter(FORWARD)

    module.register_forward_pre_hook(before_passes)
    last_to_come = next(module.parameters())  # of the input embedding
    last_to_come.register_post_accumulate_grad_hook(lambda _: live.enter(UPDATE))  # type: ignore[no-untyped-call]
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(before_block, number))
    blocks[-1].register_forward_hook(after_blocks)
