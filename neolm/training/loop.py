"""THE training loop. Pre-training, fine-tuning and alignment are (objective, data) pairs for it.

A step (`OptimiserStep`): refresh the working weights; count the targets over all micro-batches and ranks; for each
micro-batch, accumulate the gradient of the summed loss; divide by the count; clip; update. So accumulation and data
parallelism equal one big batch by construction. All that later steps depend on is in `TrainingState`, and all of it is
in every checkpoint.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from neolm.core.device import keep_few_kernels, keep_freed_memory, reset_peak_memory
from neolm.core.errors import InterruptedRun
from neolm.core.progress import say, task
from neolm.data.batch import Batch
from neolm.data.prefetch import Prefetcher
from neolm.training.checkpoint import Checkpoint, checkpoint_path, discard_after, last_checkpoint, named_checkpoints
from neolm.training.checkpoint_writer import CheckpointWriter
from neolm.training.journal import Journal
from neolm.training.metrics import MetricsLog
from neolm.training.numerics import numerics
from neolm.training.passes import Passes, read_sums
from neolm.training.run import RolloutData, Training
from neolm.training.state import Progress, TrainingState, weights_of
from neolm.training.step import OptimiserStep


def train(training: Training) -> Progress:
    """Train to the end, from the last good checkpoint if there is one.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite.
        InterruptedRun: Ctrl-C or SIGTERM; the state was saved.
        StorageError: the disk is full; the last good checkpoint is intact.
    """
    config, device, world = training.config, training.device.value, training.parallelism.world
    total, meter = config.total_steps, training.parallelism.meter
    if device == "cpu":
        # recomputed blocks would leave holes in the heap, which glibc does not fill
        keep_freed_memory(2**20 if config.activation_checkpointing else 2**30)
        keep_few_kernels()
    reset_peak_memory(device)
    with ExitStack() as stack:
        stack.enter_context(numerics(config.deterministic, config.tf32))
        state = _state(training)
        module = _module(training, state)
        progress = state.progress
        trackers = training.trackers(progress.step) if world.first else ()
        log = MetricsLog(training.directory / "metrics.jsonl", progress.step, trackers, writes=world.first)
        stack.enter_context(closing(log))
        batch_of = _reader(training, state, module, stack)
        writer = stack.enter_context(
            CheckpointWriter(
                training.checkpoints,
                keep=config.keep_checkpoints,
                keep_every=config.keep_every,
                asynchronous=config.asynchronous_checkpoints,
            )
        )
        optimiser_step = OptimiserStep(training, state, module)
        if not progress.step:
            for name, loss in _measure_others(training, optimiser_step.passes, state).items():
                say(f"before the training: {name} validation loss {loss:.4f}")
        bar = stack.enter_context(task("Training", total, "steps", start=progress.step))
        interrupted = stack.enter_context(_interruptible())
        journal = Journal(training, state, bar, log)
        for step in range(progress.step + 1, total + 1):
            if _has_lost_patience(training, progress):  # a resumed run, which was killed after its last checkpoint
                break
            began = time.perf_counter()
            batch = batch_of(step)
            progress.data_seconds += time.perf_counter() - began
            learning_rate = config.learning_rate_at(step)
            validates = step % config.validate_every == 0 or step == total
            with meter.step() if meter is not None and validates else nullcontext():
                result = optimiser_step.run(step, batch, learning_rate)
            stop = world.agree(interrupted.is_set())
            saves = step % config.checkpoint_every == 0 or step == total or stop
            ends = step == total
            if validates or saves or journal.due(step):
                optimiser_step.read(result)
            journal.step(result, learning_rate, time.perf_counter() - began)
            if validates:
                _validate(training, optimiser_step.passes, state, journal, writer)
                ends = ends or _has_lost_patience(training, progress)
            if saves or ends:
                writer.save("step", state.parts(), state.record())
            writer.poll()
            if ends:
                break
            if stop:
                writer.wait()
                raise InterruptedRun(f"stopped and saved at step {step} of {total}; the same command resumes there")
    return progress


def _state(training: Training) -> TrainingState:
    """The state of the last good checkpoint, or of a new training."""
    device, dtype = training.device.value, getattr(torch, training.precision.value)
    for model in training.frozen:
        model.to(device, dtype).eval().requires_grad_(False)
    parallelism = training.parallelism
    parallelism.divide(training.model)  # first, because the whole model may be too large for the device
    model = training.model if parallelism.moves else training.model.to(device)
    checkpoint = parallelism.world.on_first(partial(_last_checkpoint, training.checkpoints))
    initial = training.initial if checkpoint is None else None
    state = TrainingState(model, training.config, dtype, parallelism, initial)
    if checkpoint is None:
        return state
    state.restore(checkpoint)
    best = state.progress.best_step
    if best is not None and not checkpoint_path(training.checkpoints, "best", best).is_dir():
        say(f"the best checkpoint, of step {best}, is missing; the best of the next validations is kept")
        state.progress.best_score = state.progress.best_loss = state.progress.best_step = None
        state.progress.validations_since_best = 0
    if checkpoint.step < training.config.total_steps:
        say(f"resuming at step {checkpoint.step} of {training.config.total_steps}, from {checkpoint.directory}")
    return state


def _last_checkpoint(root: Path) -> Checkpoint | None:
    """The newest intact checkpoint; later ones are removed, because they are damaged or will be made again."""
    checkpoint = last_checkpoint(root, "step")
    if checkpoint is None and named_checkpoints(root, "step"):
        say("there is no intact checkpoint: the training starts again")
    for kind in ("step", "best"):
        discard_after(root, kind, checkpoint.step if checkpoint else 0)
    return checkpoint


def _module(training: Training, state: TrainingState) -> nn.Module:
    """The module that the passes run in."""
    working = state.weights.working
    if training.compile.value == "on":
        compile_blocks(working)
    if training.config.activation_checkpointing:
        recompute_blocks(working)
    return working.train()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: the members of its module list `blocks`."""
    lists = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for blocks in lists for block in blocks.children()]


def own_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that share no parameter with another module; the others stay in the group of the whole model."""
    blocks = list(dict.fromkeys(blocks_of(model)))
    uses = Counter(id(parameter) for block in blocks for parameter in set(block.parameters()))
    inside = {id(block) for block in blocks}
    outside = {id(p) for name, p in model.named_parameters() if "blocks" not in name.split(".")}
    return [
        block
        for block in blocks
        if id(block) in inside and all(uses[id(p)] == 1 and id(p) not in outside for p in block.parameters())
    ]


def compile_blocks(model: nn.Module) -> None:
    """Compile the forward pass of each block, but for the methods that its modules name in `not_compiled`.

    Blocks are alike, so that one compilation serves all. If they are recomputed too, `recompute_blocks` comes second:
    torch does not compile through a checkpoint with parts that are not compiled.
    """
    for module in model.modules():
        for name in getattr(module, "not_compiled", ()):
            setattr(module, name, torch.compiler.disable(getattr(module, name)))  # type: ignore[no-untyped-call]
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward)


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the input of each block and recompute the rest in the backward pass (Chen et al. 2016).

    Dropout draws the same numbers the second time.
    """
    for block in blocks_of(model):
        block.forward = partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)


def _reader(training: Training, state: TrainingState, module: nn.Module, stack: ExitStack) -> Callable[[int], Batch]:
    """The function that returns the batch of a step."""
    data = training.data
    if isinstance(data, RolloutData):

        def rollout(step: int) -> Batch:
            with _evaluation(state):
                return data.rollout(step, module)

        return rollout
    pin = training.device.value.startswith("cuda")
    read = (lambda step: training.batch(step).pin_memory()) if pin else training.batch
    return stack.enter_context(closing(Prefetcher(read, training.config.total_steps))).batch


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets. A second signal raises KeyboardInterrupt at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        say("stopping after this step, and saving; press Ctrl-C again to stop at once")
        event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _validate(
    training: Training, passes: Passes, state: TrainingState, journal: Journal, writer: CheckpointWriter
) -> None:
    """Measure the validation loss, also of the EMA weights if there are any, and save the best weights so far."""
    if not training.validation:
        return
    means, average = _measure(training, passes, state, training.validation), None
    others = _measure_others(training, passes, state)
    if state.average is not None:
        with state.average.in_place():
            average = _measure(training, passes, state, training.validation)
    journal.validation(means, average, others)
    progress = state.progress
    score = training.criterion(means)
    best = progress.best_loss if progress.best_score is None else progress.best_score  # older checkpoints: the loss
    progress.validations_since_best += 1
    if math.isfinite(score) and (best is None or score < best):
        progress.best_score, progress.best_loss, progress.best_step = score, means["loss"], progress.step
        progress.validations_since_best = 0
        writer.save("best", {"weights": weights_of(training.model)}, state.record())


def _has_lost_patience(training: Training, progress: Progress) -> bool:
    patience = training.config.patience
    if patience is None or progress.validations_since_best < patience:
        return False
    what = f"no better than that of step {progress.best_step}" if progress.best_step else "without a finite score"
    say(f"stopped at step {progress.step}: {patience} validations in a row were {what}")
    return True


def _measure_others(training: Training, passes: Passes, state: TrainingState) -> dict[str, float]:
    """The loss of each of the other validations."""
    others = training.other_validation
    return {name: _measure(training, passes, state, batches)["loss"] for name, batches in others.items() if batches}


def _measure(training: Training, passes: Passes, state: TrainingState, batches: Sequence[Batch]) -> dict[str, float]:
    """Loss and metrics on validation batches, with the current weights."""
    objective, world = training.objective, training.parallelism.world
    counts = dict.fromkeys(objective.weights, 0.0)
    own, weights = [], []
    for start in range(0, len(batches), world.data_count):
        group = batches[start : start + world.data_count]
        # all ranks run as many passes; a rank without a batch of its own repeats the last one with weight zero
        batch = training.parallelism.cut(group[min(world.data_number, len(group) - 1)])
        weight = float(world.data_number < len(group))
        own.append(batch.to(training.device.value))
        weights.append(weight)
        for term, targets in objective.targets(batch).items():
            counts[term] += weight * targets
    with _evaluation(state):
        sums = passes.measure(own, weights)
        values, _ = read_sums(sums, world)
    counts = dict(zip(counts, world.sum(list(counts.values())), strict=True))
    return sums.means(values, counts, objective.weights)


@contextmanager
def _evaluation(state: TrainingState) -> Iterator[None]:
    """Put the working model into evaluation mode with the current weights and without gradients."""
    module = state.weights.working
    state.weights.refresh()
    module.eval()
    with torch.no_grad():
        yield
    module.train()
