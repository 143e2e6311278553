"""What people see of a training while it runs: the bar, the rows of `metrics.jsonl`, and what goes on trackers."""

from __future__ import annotations

import math
from typing import Any

from neolm.core.device import peak_memory
from neolm.core.energy import EnergyMeter
from neolm.core.progress import Task, count, say
from neolm.training.metrics import MetricsLog
from neolm.training.run import Outcome, Training
from neolm.training.state import TrainingState


class Journal:
    """Counts steps into the progress of `state`, shows them on `bar` and writes what is due to `log`."""

    def __init__(self, training: Training, state: TrainingState, bar: Task, log: MetricsLog) -> None:
        self._training, self._state, self._bar, self._log = training, state, bar, log
        self._meter, self._earlier = EnergyMeter(), state.progress.energy
        self._tokens, self._seconds = 0, 0.0  # since the last row

    def step(self, outcome: Outcome, learning_rate: float, seconds: float) -> None:
        """One more step is done, in `seconds`."""
        progress = self._state.progress
        progress.step += 1
        progress.tokens += outcome.tokens
        progress.seconds += seconds
        progress.skipped += outcome.skipped is not None
        self._tokens += outcome.tokens
        self._seconds += seconds
        kwh, method = self._earlier["kwh"], self._earlier["method"]
        progress.energy = self._meter.as_json(kwh * 3.6e6 + self._meter.joules(), method)
        speed = self._tokens / max(self._seconds, 1e-9)
        mfu = speed * self._training.flops_per_token / self._training.ceiling if self._training.ceiling else None
        shown = {"loss": f"{outcome.loss:.3f}", "tok/s": count(speed)}
        self._bar.advance(1, **shown, **({"MFU": f"{mfu:.0%}"} if mfu is not None else {}))
        if outcome.skipped is not None:
            say(f"step {progress.step} skipped: {outcome.skipped}")
        elif not self._due(progress.step):
            return
        progress.last = self._row(outcome, learning_rate, speed, mfu)
        self._log.write(**progress.last)
        self._tokens, self._seconds = 0, 0.0

    def validation(self, loss: float, average_loss: float | None) -> None:
        """The validation loss after the last step, of the weights and of their average where there is one."""
        progress = self._state.progress
        average = {} if average_loss is None else {"average_validation_loss": average_loss}
        self._log.write(step=progress.step, validation_loss=loss, **average)
        averaged = "" if average_loss is None else f", of the average {average_loss:.4f}"
        say(f"step {progress.step}: validation loss {loss:.4f}{averaged}")

    def _due(self, step: int) -> bool:
        config = self._training.config
        return step in (1, config.total_steps) or step % config.log_every == 0

    def _row(self, outcome: Outcome, learning_rate: float, speed: float, mfu: float | None) -> dict[str, Any]:
        config, progress, scale = self._training.config, self._state.progress, self._state.scale
        return {
            "step": progress.step,
            "loss": outcome.loss,
            "learning_rate": learning_rate,
            "grad_norm": outcome.norm if math.isfinite(outcome.norm) else None,
            "tokens": progress.tokens,
            "tokens_per_second": round(speed, 1),
            "mfu": None if mfu is None else round(mfu, 4),
            "memory_bytes": peak_memory(self._training.device.value),
            **outcome.metrics,
            **({"batch_size": outcome.sequences} if config.batch_sizes.start else {}),
            **({"loss_scale": scale.value} if scale else {}),
            **({"skipped": outcome.skipped} if outcome.skipped else {}),
        }
