"""THE training loop. Pre-training, fine-tuning and alignment are (objective, data) pairs for it.

A step: refresh the working weights; for each micro-batch, add the gradient of the summed loss; divide by the global
count of targets; clip; update. So accumulation, and later data parallelism, equal one big batch by construction.
What later steps depend on is `TrainingState`, and all of it is in every checkpoint.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, closing

import torch

from neolm.core.device import forget_peak_memory, keep_freed_memory
from neolm.core.errors import InterruptedRun
from neolm.core.progress import say, task
from neolm.data.batches import Batch
from neolm.data.prefetch import Prefetcher
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import checkpoint_path, discard_after, last_checkpoint
from neolm.training.checkpoint_writer import CheckpointWriter
from neolm.training.diagnosis import explain_non_finite
from neolm.training.interruption import interruptible
from neolm.training.journal import Journal
from neolm.training.metrics import MetricsLog
from neolm.training.numerics import numerics
from neolm.training.recompute import recompute_blocks
from neolm.training.run import Outcome, Training
from neolm.training.state import Progress, TrainingState, weights_of


def train(training: Training) -> Progress:
    """Train to the end, from the last good checkpoint if there is one; returns what came of it.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite.
        InterruptedRun: Ctrl-C or SIGTERM; the state was saved.
        StorageError: the disk is full; the last good checkpoint is intact.
    """
    config, device = training.config, training.device.value
    total = config.total_steps
    if device == "cpu":
        # blocks that are computed again would leave holes, which glibc does not fill
        keep_freed_memory(2**20 if config.activation_checkpointing else 2**30)
    forget_peak_memory(device)
    with ExitStack() as stack:
        stack.enter_context(numerics(config.deterministic, config.tf32))
        state = TrainingState(training.model.to(device), config, getattr(torch, training.precision.value))
        _resume(training, state)
        module = _module(training, state)
        progress = state.progress
        log = MetricsLog(training.directory / "metrics.jsonl", progress.step, training.trackers(progress.step))
        stack.enter_context(closing(log))
        batches = stack.enter_context(closing(Prefetcher(training.data.batch, total)))
        writer = stack.enter_context(_writer(training))
        bar = stack.enter_context(task("Training", total, "steps", start=progress.step))
        interrupted = stack.enter_context(interruptible())
        journal = Journal(training, state, bar, log)
        for step in range(progress.step + 1, total + 1):
            began = time.perf_counter()
            batch = batches.batch(step)
            progress.data_seconds += time.perf_counter() - began
            learning_rate = config.learning_rate_at(step)
            outcome = _step(training, module, state, batch, step, learning_rate)
            journal.step(outcome, learning_rate, time.perf_counter() - began)
            if step % config.validate_every == 0 or step == total:
                _validate(training, module, state, journal, writer)
            if step % config.checkpoint_every == 0 or step == total or interrupted.is_set():
                writer.save("step", state.parts(), state.record())
            writer.poll()
            if interrupted.is_set() and step < total:
                writer.wait()
                raise InterruptedRun(f"stopped and saved at step {step} of {total}; the same command resumes there")
    return progress


def _step(
    training: Training, module: Decoder, state: TrainingState, batch: Batch, step: int, learning_rate: float
) -> Outcome:
    """One optimiser step, or one that is skipped."""
    config, device, weights = training.config, training.device.value, state.weights
    weights.refresh()
    parts = [part.to(device) for part in batch.split(config.micro_batch_size or len(batch.inputs))]
    factor = _loss_factor(state, parts[0])
    total = torch.zeros((), dtype=torch.float64, device=device)
    targets = torch.zeros((), dtype=torch.int64, device=device)
    sums: dict[str, torch.Tensor] = {}
    for part in parts:
        loss = training.objective(module, part)
        (loss.total if factor == 1.0 else loss.total * factor).backward()  # type: ignore[no-untyped-call]
        weights.gather()
        total += loss.value
        targets += loss.count
        for name, value in loss.metrics.items():
            sums[name] = sums[name] + value if name in sums else value
    count = int(targets)
    norm = weights.finish(count * factor, config.gradient_clip)
    mean = total.item() / max(count, 1)
    skipped = _reason_to_skip(state, mean, norm)
    if skipped is None:
        if not (math.isfinite(mean) and math.isfinite(norm)):
            documents = lambda rows: training.data.documents(step, rows)  # noqa: E731
            raise explain_non_finite(step, weights.working, training.objective, parts, documents)
        _update(state, step, learning_rate)
    metrics = {name: value.item() / max(count, 1) for name, value in sums.items()}
    B, T = batch.inputs.shape
    return Outcome(mean, norm, B, T, skipped, metrics)


def _loss_factor(state: TrainingState, part: Batch) -> float:
    """What a micro-batch's summed loss is multiplied by: 1, or for float16 its scale over the tokens summed.

    The tokens are rounded down to a power of two, so that the factor rounds nothing.
    """
    if state.scale is None:
        return 1.0
    return state.scale.value * 2.0 ** -int(math.log2(part.inputs.numel()))


def _reason_to_skip(state: TrainingState, mean: float, norm: float) -> str | None:
    """Why the gradients at hand should not move the weights; a loss or norm that no skipping mends gives none."""
    if not math.isfinite(mean):
        return None
    if math.isfinite(norm):
        if state.scale is not None:
            state.scale.passed()
        return state.spikes.reason_to_skip(norm)
    if state.scale is None or state.scale.exhausted:
        return None
    state.scale.overflowed()
    return f"a gradient overflowed float16; the loss scale is now {state.scale.value:g}"


def _update(state: TrainingState, step: int, learning_rate: float) -> None:
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate
    for _ in state.weights.hand_over():
        for optimiser in state.optimisers:
            optimiser.step()
    if state.average is not None:
        state.average.update(step)


def _validate(
    training: Training, module: Decoder, state: TrainingState, journal: Journal, writer: CheckpointWriter
) -> None:
    """Measure the validation loss, of the average too where there is one, and keep the weights of the lowest yet."""
    if not training.validation:
        return
    loss, average_loss = _measure(training, module, state), None
    if state.average is not None:
        with state.average.in_place():
            average_loss = _measure(training, module, state)
    journal.validation(loss, average_loss)
    progress = state.progress
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.best_step = loss, progress.step
        writer.save("best", {"weights": weights_of(training.model)}, state.record())


@torch.no_grad()
def _measure(training: Training, module: Decoder, state: TrainingState) -> float:
    """Nats a target on the validation batches, with the model's weights as they are."""
    state.weights.refresh()
    module.eval()
    total, targets = 0.0, 0
    for batch in training.validation:
        loss = training.objective(module, batch.to(training.device.value))
        total += loss.value.item()
        targets += int(loss.count)
    module.train()
    return total / max(targets, 1)


def _resume(training: Training, state: TrainingState) -> None:
    """Go back to the last good checkpoint; a fresh start if there is none."""
    checkpoint = last_checkpoint(training.checkpoints, "step")
    step = checkpoint.step if checkpoint else 0
    for kind in ("step", "best"):  # what lies beyond is damaged, or will be made again
        discard_after(training.checkpoints, kind, step)
    if checkpoint is None:
        return
    state.restore(checkpoint)
    progress = state.progress
    if (
        progress.best_step is not None
        and not checkpoint_path(training.checkpoints, "best", progress.best_step).is_dir()
    ):
        say(f"the best checkpoint, of step {progress.best_step}, is missing; the best of the next validations is kept")
        progress.best_loss = progress.best_step = None
    if step < training.config.total_steps:
        say(f"resuming at step {step} of {training.config.total_steps}, from {checkpoint.directory}")


def _module(training: Training, state: TrainingState) -> Decoder:
    """The module that the passes run in."""
    working = state.weights.working
    if training.config.activation_checkpointing:
        recompute_blocks(working)
    if training.compile.value == "on":
        for block in working.blocks:  # alike, so that one is compiled for all
            block.compile()
    return working.train()


def _writer(training: Training) -> CheckpointWriter:
    config = training.config
    return CheckpointWriter(
        training.checkpoints,
        keep=config.keep_checkpoints,
        keep_every=config.keep_every,
        asynchronous=config.asynchronous_checkpoints,
    )
