"""THE training loop. Pre-training, fine-tuning and alignment are (objective, data) pairs for it.

A step: refresh the working weights; for each micro-batch, add the gradient of the summed loss; divide by the global
count of targets; clip; update. So accumulation, and later data parallelism, equal one big batch by construction.
What later steps depend on is `TrainingState`, and all of it is in every checkpoint.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from neolm.core.device import Choice, keep_freed_memory, peak_memory
from neolm.core.energy import EnergyMeter
from neolm.core.errors import InterruptedRun
from neolm.core.progress import Task, count, say, task
from neolm.data.ahead import Ahead
from neolm.data.batches import Batch
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import discard_after, last_checkpoint
from neolm.training.checkpoint_writer import CheckpointWriter
from neolm.training.config import PretrainConfig
from neolm.training.diagnosis import explain_non_finite
from neolm.training.losses import Objective
from neolm.training.metrics import MetricsLog
from neolm.training.numerics import numerics
from neolm.training.recompute import recompute_blocks
from neolm.training.state import Progress, TrainingState, weights_of
from neolm.training.trackers import Tracker

NOT_COMPILED = Choice("off", "as asked")


class TrainingData(Protocol):
    """Batches as a function of the step, and where they came from."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 1; called from another thread, one step ahead."""
        ...

    def documents(self, step: int, rows: slice = ...) -> list[str]:
        """Ids of the documents behind rows of that batch."""
        ...


@dataclass(frozen=True)
class Training:
    """One training: what is trained on what, how, where, and where the results go."""

    model: Decoder
    objective: Objective
    data: TrainingData
    validation: Sequence[Batch]
    config: PretrainConfig
    directory: Path
    device: Choice
    precision: Choice
    compile: Choice = NOT_COMPILED
    ceiling: float = 0.0
    """FLOP/s of this machine's matrix products, against which MFU is measured; 0: unknown."""
    trackers: Callable[[int], Sequence[Tracker]] = lambda resume_at: ()
    """Opens what else gets the metrics, given the step that the training goes on from."""

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.directory / "checkpoints"


@dataclass(frozen=True)
class Outcome:
    """What came of one step."""

    loss: float
    """Nats a target, mean of the step's batch."""
    norm: float
    """Of the gradient, over all parameters, before clipping."""
    tokens: int
    skipped: str | None
    """Why the weights were left as they were; None where they moved."""
    metrics: dict[str, float]
    """Means a target of what the objective measured besides."""


@dataclass
class Window:
    """Tokens and seconds since the last row of the metrics."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)


def train(training: Training) -> Progress:
    """Train to the end, from the last good checkpoint if there is one; returns what came of it.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite.
        InterruptedRun: Ctrl-C or SIGTERM; the state was saved.
        StorageError: the disk is full; the last good checkpoint is intact.
    """
    config, device = training.config, training.device.value
    if device == "cpu":
        keep_freed_memory()
    total = config.total_steps
    with ExitStack() as stack:
        stack.enter_context(numerics(config.deterministic, config.tf32))
        state = TrainingState(training.model.to(device), config, getattr(torch, training.precision.value))
        _resume(training, state)
        module = _module(training, state)
        progress = state.progress
        log = MetricsLog(training.directory / "metrics.jsonl", progress.step, training.trackers(progress.step))
        stack.enter_context(closing(log))
        ahead = stack.enter_context(closing(Ahead(training.data.batch, total)))
        writer = stack.enter_context(_writer(training))
        bar = stack.enter_context(task("Training", total, "steps", start=progress.step))
        interrupted = stack.enter_context(_interruptible())
        window, meter, earlier = Window(), EnergyMeter(), progress.energy
        for step in range(progress.step + 1, total + 1):
            began = time.perf_counter()
            batch = ahead.batch(step)
            progress.data_seconds += time.perf_counter() - began
            outcome = _step(training, module, state, batch, step)
            _count(progress, window, outcome, step, time.perf_counter() - began)
            progress.energy = meter.as_json(earlier["kwh"] * 3.6e6 + meter.joules(), earlier["method"])
            _report(training, state, bar, log, outcome, window)
            if step % config.validate_every == 0 or step == total:
                _validate(training, module, state, log, writer)
            if step % config.checkpoint_every == 0 or step == total or interrupted.is_set():
                writer.save("step", state.parts(), state.record())
            writer.poll()
            if interrupted.is_set() and step < total:
                writer.wait()
                raise InterruptedRun(f"stopped and saved at step {step} of {total}; the same command resumes there")
    return progress


def _step(training: Training, module: nn.Module, state: TrainingState, batch: Batch, step: int) -> Outcome:
    """One optimiser step, or one that is skipped."""
    config, device, weights = training.config, training.device.value, state.weights
    module.train()
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
    number = int(targets)
    norm = weights.finish(number * factor, config.gradient_clip)
    mean = total.item() / max(number, 1)
    skipped = _reason_to_skip(state, mean, norm)
    if skipped is None and not (math.isfinite(mean) and math.isfinite(norm)):
        documents = lambda rows: training.data.documents(step, rows)  # noqa: E731
        raise explain_non_finite(step, weights.working, training.objective, parts, documents)
    if skipped is None:
        _update(training, state, step)
    metrics = {name: value.item() / max(number, 1) for name, value in sums.items()}
    return Outcome(mean, norm, batch.inputs.numel(), skipped, metrics)


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


def _update(training: Training, state: TrainingState, step: int) -> None:
    rate = _learning_rate(training.config, step)
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    if state.average is not None:
        state.average.update(step)


def _learning_rate(config: PretrainConfig, step: int) -> float:
    return config.learning_rate * config.learning_rate_share(config.batch_sizes.examples(step).stop)


def _count(progress: Progress, window: Window, outcome: Outcome, step: int, seconds: float) -> None:
    progress.step = step
    progress.tokens += outcome.tokens
    progress.seconds += seconds
    progress.skipped += outcome.skipped is not None
    window.tokens += outcome.tokens
    window.seconds += seconds


def _report(
    training: Training, state: TrainingState, bar: Task, log: MetricsLog, outcome: Outcome, window: Window
) -> None:
    """Move the bar, and write a row where one is due: at the first step, the last, every so many, and a skipped one."""
    config, progress = training.config, state.progress
    flops = training.model.config.flops_per_token(config.sequence_length)
    mfu = window.speed * flops / training.ceiling if training.ceiling else None
    shown = {"loss": f"{outcome.loss:.3f}", "tok/s": count(window.speed)}
    bar.advance(1, **shown, **({"MFU": f"{mfu:.0%}"} if mfu is not None else {}))
    due = progress.step in (1, config.total_steps) or progress.step % config.log_every == 0
    if outcome.skipped is not None:
        say(f"step {progress.step} skipped: {outcome.skipped}")
    elif not due:
        return
    progress.last = {
        "step": progress.step,
        "loss": outcome.loss,
        "learning_rate": _learning_rate(config, progress.step),
        "grad_norm": outcome.norm if math.isfinite(outcome.norm) else None,
        "tokens": progress.tokens,
        "tokens_per_second": round(window.speed, 1),
        "mfu": None if mfu is None else round(mfu, 4),
        "memory_bytes": peak_memory(training.device.value),
        **outcome.metrics,
        **({"batch_size": len(config.batch_sizes.examples(progress.step))} if config.batch_ramp_start else {}),
        **({"loss_scale": state.scale.value} if state.scale else {}),
        **({"skipped": outcome.skipped} if outcome.skipped else {}),
    }
    log.write(**progress.last)
    window.tokens, window.seconds = 0, 0.0


def _validate(
    training: Training, module: nn.Module, state: TrainingState, log: MetricsLog, writer: CheckpointWriter
) -> None:
    """Measure the validation loss, of the average too where there is one, and keep the weights of the lowest yet."""
    if not training.validation:
        return
    progress = state.progress
    row = {"validation_loss": _measure(training, module, state)}
    if state.average is not None:
        with state.average.in_place():
            row["average_validation_loss"] = _measure(training, module, state)
    log.write(step=progress.step, **row)
    loss = row["validation_loss"]
    averaged = f", of the average {row['average_validation_loss']:.4f}" if state.average is not None else ""
    say(f"step {progress.step}: validation loss {loss:.4f}{averaged}")
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.best_step = loss, progress.step
        writer.save("best", {"weights": weights_of(training.model)}, state.record())


@torch.no_grad()
def _measure(training: Training, module: nn.Module, state: TrainingState) -> float:
    """Nats a target on the validation batches, with the model's weights as they are."""
    state.weights.refresh()
    module.eval()
    total, targets = 0.0, 0
    for batch in training.validation:
        loss = training.objective(module, batch.to(training.device.value))
        total += loss.value.item()
        targets += int(loss.count)
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
    return working


def _writer(training: Training) -> CheckpointWriter:
    config = training.config
    return CheckpointWriter(
        training.checkpoints,
        keep=config.keep_checkpoints,
        keep_every=config.keep_every,
        asynchronous=config.asynchronous_checkpoints,
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets: the step ends, the state is saved. A second Ctrl-C stops at once."""
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
