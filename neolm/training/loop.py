"""THE training loop. Pre-training, fine-tuning and alignment are (objective, data) pairs for it.

A step: refresh the working weights; for each micro-batch, add the gradient of the summed loss; divide by the global
count of targets; clip; update. So accumulation, and later data parallelism, equal one big batch by construction.
Everything that later steps depend on is in the checkpoint: weights, optimiser, random state, step, best loss.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from neolm.core.device import Choice, keep_freed_memory
from neolm.core.errors import InterruptedRun
from neolm.core.progress import Task, count, say, task
from neolm.data.batches import Batch
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import (
    Checkpoint,
    discard_after,
    last_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from neolm.training.config import PretrainConfig
from neolm.training.diagnosis import explain_non_finite
from neolm.training.losses import Objective
from neolm.training.metrics import MetricsLog
from neolm.training.optimiser import build_optimisers, optimiser_tensors, restore_optimisers
from neolm.training.precision import WorkingCopy


class TrainingData(Protocol):
    """Batches as a function of the step, and where they came from."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 1."""
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
    ceiling: float = 0.0
    """FLOP/s of this machine's matrix products, against which MFU is measured; 0: unknown."""

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.directory / "checkpoints"


@dataclass
class Progress:
    """What a run knows of itself; goes into every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    last: dict[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {key: value for key, value in vars(self).items() if key != "last"}


def train(training: Training) -> Progress:
    """Train to the end, from the last good checkpoint if there is one; returns what came of it.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or infinite.
        InterruptedRun: Ctrl-C or SIGTERM; the state was saved.
        StorageError: the disk is full; the last good checkpoint is intact.
    """
    if training.device.value == "cpu":
        keep_freed_memory()
    config, model = training.config, training.model.to(training.device.value)
    weights = WorkingCopy(model, getattr(torch, training.precision.value))
    optimisers = build_optimisers(model, config)
    progress = _resume(training, model, optimisers)
    module: Any = torch.compile(weights.working) if config.compile is True else weights.working
    log = MetricsLog(training.directory / "metrics.jsonl", resume_at=progress.step)
    total = config.total_steps
    try:
        with task("Training", total, "steps", start=progress.step) as bar, _interruptible() as interrupted:
            for step in range(progress.step + 1, total + 1):
                began = time.perf_counter()
                rate = config.learning_rate * config.learning_rate_share(config.batch_sizes.examples(step).stop)
                loss, norm, tokens = _step(training, module, weights, optimisers, rate, step)
                progress.step, progress.tokens = step, progress.tokens + tokens
                progress.seconds += time.perf_counter() - began
                _report(training, progress, bar, log, loss, rate, norm, tokens / (time.perf_counter() - began))
                if step % config.validate_every == 0 or step == total:
                    _validate(training, module, weights, progress, log)
                if step % config.checkpoint_every == 0 or step == total or interrupted.is_set():
                    _save(training, optimisers, progress)
                if interrupted.is_set() and step < total:
                    raise InterruptedRun(f"stopped and saved at step {step} of {total}; the same command resumes there")
    finally:
        log.close()
    return progress


def _step(
    training: Training,
    module: nn.Module,
    weights: WorkingCopy,
    optimisers: Sequence[torch.optim.Optimizer],
    rate: float,
    step: int,
) -> tuple[float, float, int]:
    """One optimiser step; returns (loss in nats per token, gradient norm before clipping, tokens)."""
    config, device = training.config, training.device.value
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["lr"] = rate
    module.train()
    weights.refresh()
    batch = training.data.batch(step)
    parts = [part.to(device) for part in batch.split(config.micro_batch_size or config.batch_size)]
    total = torch.zeros((), dtype=torch.float64, device=device)
    targets = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        loss = training.objective(module, part)
        loss.total.backward()  # type: ignore[no-untyped-call]
        weights.gather()
        total += loss.total.detach()
        targets += loss.count
    number = int(targets)
    norm = weights.finish(number, config.gradient_clip)
    mean = total.item() / max(number, 1)
    if not (math.isfinite(mean) and math.isfinite(norm)):
        documents = lambda rows: training.data.documents(step, rows)  # noqa: E731
        raise explain_non_finite(step, weights.working, training.objective, parts, documents)
    for optimiser in optimisers:
        optimiser.step()
    return mean, norm, batch.inputs.numel()


def _report(
    training: Training,
    progress: Progress,
    bar: Task,
    log: MetricsLog,
    loss: float,
    rate: float,
    norm: float,
    speed: float,
) -> None:
    """Move the bar, and write a row where one is due."""
    config = training.config
    flops = training.model.config.flops_per_token(config.sequence_length)
    mfu = speed * flops / training.ceiling if training.ceiling else None
    shown = {"loss": f"{loss:.3f}", "tok/s": count(speed)} | ({"MFU": f"{mfu:.0%}"} if mfu is not None else {})
    bar.advance(1, **shown)
    if progress.step in (1, config.total_steps) or progress.step % config.log_every == 0:
        progress.last = {
            "step": progress.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": progress.tokens,
            "tokens_per_second": round(speed, 1),
            "mfu": None if mfu is None else round(mfu, 4),
        }
        log.write(**progress.last)


@torch.no_grad()
def _validate(training: Training, module: nn.Module, weights: WorkingCopy, progress: Progress, log: MetricsLog) -> None:
    """Measure the validation loss, and keep the weights if it is the lowest yet."""
    if not training.validation:
        return
    weights.refresh()
    module.eval()
    total, targets = 0.0, 0
    for batch in training.validation:
        loss = training.objective(module, batch.to(training.device.value))
        total += loss.total.item()
        targets += int(loss.count)
    mean = total / max(targets, 1)
    log.write(step=progress.step, validation_loss=mean)
    say(f"step {progress.step}: validation loss {mean:.4f}")
    if progress.best_loss is None or mean < progress.best_loss:
        progress.best_loss, progress.best_step = mean, progress.step
        weights_only = {"weights": _weights(training.model)}
        save_checkpoint(training.checkpoints, "best", weights_only, progress.state(), keep=1)


def _save(training: Training, optimisers: Sequence[torch.optim.Optimizer], progress: Progress) -> None:
    files = {
        "weights": _weights(training.model),
        "optimiser": optimiser_tensors(optimisers),
        "random": random_state(),
    }
    save_checkpoint(training.checkpoints, "step", files, progress.state(), training.config.keep_checkpoints)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters by name, a tied one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into `model`."""
    tensors = checkpoint.tensors("weights")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def _resume(training: Training, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Go back to the last good checkpoint; a fresh start if there is none."""
    checkpoint = last_checkpoint(training.checkpoints, "step")
    step = checkpoint.step if checkpoint else 0
    for kind in ("step", "best"):  # what lies beyond is damaged, or will be made again
        discard_after(training.checkpoints, kind, step)
    if checkpoint is None:
        return Progress()
    load_weights(model, checkpoint)
    restore_optimisers(optimisers, checkpoint.tensors("optimiser"))
    restore_random_state(checkpoint.tensors("random"))
    if step < training.config.total_steps:
        say(f"resuming at step {step} of {training.config.total_steps}, from {checkpoint.directory}")
    return Progress(**checkpoint.state)


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
