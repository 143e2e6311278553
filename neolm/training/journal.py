"""Progress bar, rows of `metrics.jsonl` and counters of a running training."""

from __future__ import annotations

import math
from typing import Any

from neolm.core.device import peak_memory
from neolm.core.energy import EnergyMeter
from neolm.core.metrics import read_metrics
from neolm.core.progress import Task, count, say
from neolm.training.metrics import MetricsLog
from neolm.training.run import Training
from neolm.training.state import TrainingState
from neolm.training.step import Outcome, StepResult
from neolm.training.unigram import UnigramAlarm


class Journal:
    """Counts steps in the progress of `state`, shows them on `bar` and writes rows to `log`."""

    def __init__(self, training: Training, state: TrainingState, bar: Task, log: MetricsLog) -> None:
        self._training, self._state, self._bar, self._log = training, state, bar, log
        self._meter, self._earlier = EnergyMeter(), state.progress.energy
        self._tokens, self._seconds = 0, 0.0  # since the last row
        self._shown: dict[str, str] = {}
        self._slowest: list[int | None] = []  # ranks that were named
        self._alarm = UnigramAlarm(training.unigram_entropy, training.objective, training.config)
        for row in read_metrics(log.path):  # of the steps before a resume
            self._alarm.observe(row["step"], row)

    def due(self, step: int) -> bool:
        """Whether `step` has a row in the metrics."""
        config = self._training.config
        return step in (1, config.total_steps) or step % config.log_every == 0

    def step(self, result: StepResult, learning_rate: float, seconds: float) -> None:
        """Record a finished step, which took `seconds`."""
        progress = self._state.progress
        progress.step += 1
        progress.tokens += result.tokens
        progress.seconds += seconds
        self._tokens += result.tokens
        self._seconds += seconds
        kwh, method = self._earlier["kwh"], self._earlier["method"]
        progress.energy = self._meter.as_json(kwh * 3.6e6 + self._meter.joules(), method)
        outcome = result.outcome
        if outcome is None:
            self._bar.advance(1, **self._shown)
            return
        speed = self._tokens / max(self._seconds, 1e-9)
        mfu = speed * self._training.flops_per_token / self._training.ceiling if self._training.ceiling else None
        self._shown = {"loss": f"{outcome.loss:.3f}", "tok/s": count(speed)}
        self._shown |= {"MFU": f"{mfu:.0%}"} if mfu is not None else {}
        self._bar.advance(1, **self._shown)
        warning = self._alarm.observe(progress.step, outcome.means)
        if warning is not None:
            say(warning + self._training.diagnosis(self._state.weights.working))
        if outcome.skipped is not None:
            progress.skipped += 1
            say(f"step {progress.step} skipped: {outcome.skipped}")
        elif not self.due(progress.step):
            return
        progress.last = self._row(outcome, learning_rate, speed, mfu)
        self._log.write(**progress.last)
        self._tokens, self._seconds = 0, 0.0

    def validation(self, means: dict[str, float], average: dict[str, float] | None, others: dict[str, float]) -> None:
        """Record a validation after the last step, of the weights and of their EMA if there is one.

        `others` are losses of further validations by name.
        """
        progress, meter = self._state.progress, self._training.parallelism.meter
        row: dict[str, Any] = {f"validation_{name}": value for name, value in means.items()}
        row |= {f"average_validation_{name}": value for name, value in (average or {}).items()}
        row |= {f"{name}_validation_loss": loss for name, loss in others.items()}
        if meter is not None and meter.last is not None:
            row |= {"communication_share": round(meter.last.share, 4), "slowest_rank": meter.last.slowest}
            if self._slowest[-1:] != [meter.last.slowest]:  # the first time, and when it is another one
                self._slowest.append(meter.last.slowest)
                say(meter.last.about())
        self._log.write(step=progress.step, **row)
        averaged = "" if average is None else f", of the average {average['loss']:.4f}"
        further = "".join(f", {name} {loss:.4f}" for name, loss in others.items())
        say(f"step {progress.step}: validation loss {means['loss']:.4f}{averaged}{further}")

    def _row(self, outcome: Outcome, learning_rate: float, speed: float, mfu: float | None) -> dict[str, Any]:
        config, progress, scale = self._training.config, self._state.progress, self._state.scale
        sequences = len(config.batch_sizes.examples(progress.step))
        return {
            "step": progress.step,
            "loss": outcome.loss,
            "learning_rate": learning_rate,
            "grad_norm": outcome.norm if math.isfinite(outcome.norm) else None,
            "tokens": progress.tokens,
            "tokens_per_second": round(speed, 1),
            "mfu": None if mfu is None else round(mfu, 4),
            "memory_bytes": peak_memory(self._training.device.value),
            **{name: value for name, value in outcome.means.items() if name != "loss"},
            **({"batch_size": sequences} if config.batch_sizes.start else {}),
            **({"loss_scale": scale.value} if scale else {}),
            **({"skipped": outcome.skipped} if outcome.skipped else {}),
        }
