"""One optimiser step: passes, gradient norm, update; and the reading of its numbers from the device.

On a CPU each step reads its loss and norm at once, and a step with a non-finite one is not taken. On other devices a
read makes the host wait, so it is done only when the numbers are needed. A flag on the device then records the first
non-finite step, and the optimisers change nothing from that step on; the next read explains it. float16 and spike
skipping decide on the host whether the weights move, so they read every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neolm.core.errors import NonFiniteError
from neolm.data.batch import Batch
from neolm.training.checkpoint import named_checkpoints
from neolm.training.diagnosis import explain_non_finite
from neolm.training.objective import gradient_factors
from neolm.training.passes import Sums, read_sums
from neolm.training.run import RolloutData, Training
from neolm.training.state import TrainingState


@dataclass(frozen=True)
class Outcome:
    """The numbers of one step, on the host."""

    means: dict[str, float]
    """`loss` and the metrics of the objective, means over the targets of the step."""
    norm: float
    """Global gradient norm before clipping."""
    skipped: str | None = None
    """Why the weights were not updated; None if they were."""

    @property
    def loss(self) -> float:
        """Weighted sum of the terms' means."""
        return self.means["loss"]

    @property
    def finite(self) -> bool:
        """Whether loss and gradient norm are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@dataclass
class StepResult:
    """What one step read and measured."""

    tokens: int
    """Tokens read, over all ranks."""
    counts: dict[str, float]
    """Targets of each term, over all ranks."""
    sums: Sums
    norm: Tensor
    outcome: Outcome | None = None
    """None until the numbers are read from the device."""


class OptimiserStep:
    """Runs the optimiser steps of a training."""

    def __init__(self, training: Training, state: TrainingState, module: nn.Module) -> None:
        self._training, self._state, self._world = training, state, training.parallelism.world
        self.passes = training.parallelism.passes(module, training.objective, state.weights)
        device = training.device.value
        self._first_failure = torch.zeros((), dtype=torch.int32, device=device)  # its step
        self._failed = torch.zeros((), device=device)
        deferred = training.parallelism.deferred
        self._deferred = device != "cpu" if deferred is None else deferred
        if state.scale is not None or state.spikes.multiple is not None or isinstance(training.data, RolloutData):
            self._deferred = False
        for optimiser in state.optimisers if self._deferred else ():
            optimiser.found_inf = self._failed  # type: ignore[attr-defined]

    def run(self, step: int, batch: Batch, learning_rate: float) -> StepResult:
        """Take step `step` with this rank's `batch`.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite.
        """
        training, state = self._training, self._state
        objective, weights = training.objective, state.weights
        weights.refresh()
        parts = self._parts(batch)
        targets = objective.targets(batch)
        *counted, tokens = self._world.sum([*targets.values(), batch.tokens])
        counts = dict(zip(targets, counted, strict=True))
        factors, divisor = gradient_factors(counts, objective.weights)
        scale = self._loss_scale(parts[0])
        sums = self.passes.run(parts, {term: factor * scale for term, factor in factors.items()})
        norm = weights.finish(divisor * scale, training.config.gradient_clip)
        result = StepResult(int(tokens), counts, sums, norm)
        if self._deferred:
            failed = ~(norm.isfinite() & sums.finite())
            self._first_failure.masked_fill_(failed & (self._first_failure == 0), step)
            self._failed.copy_(self._first_failure > 0)
            self._update(step, learning_rate)
            return result
        outcome, _ = self._read(result)
        skipped = self._reason_to_skip(outcome)
        if skipped is None:
            if not outcome.finite:
                raise self._explain(step, batch)
            self._update(step, learning_rate)
        result.outcome = replace(outcome, skipped=skipped)
        return result

    def read(self, result: StepResult) -> Outcome:
        """Return the numbers of the last step, read from the device if they were not yet.

        Raises:
            NonFiniteError: since the last read, a loss or its gradient was NaN or infinite.
        """
        if result.outcome is None:
            result.outcome, first_failure = self._read(result)
            if first_failure:
                raise self._explain(first_failure, self._training.batch(first_failure))
        return result.outcome

    def _read(self, result: StepResult) -> tuple[Outcome, int]:
        """The numbers of a step, and the first step that failed (0: none), in one transfer from the device."""
        sums, (norm, first_failure) = read_sums(result.sums, self._world, [result.norm, self._first_failure])
        means = result.sums.means(sums, result.counts, self._training.objective.weights)
        return Outcome(means, norm), int(first_failure)

    def _parts(self, batch: Batch) -> list[Batch]:
        training = self._training
        size = training.config.micro_batch_size or -(-len(batch) // training.parallelism.micro_batches)
        return [part.to(training.device.value) for part in batch.split(size)]

    def _loss_scale(self, part: Batch) -> float:
        """Factor of the summed loss: 1, or for float16 its loss scale over the tokens of a micro-batch.

        The tokens are rounded down to a power of two, so that the factor rounds nothing. The factor is the same on all
        ranks, whose gradients are summed.
        """
        scale = self._state.scale
        return 1.0 if scale is None else scale.value * 2.0 ** -int(math.log2(self._world.most(part.tokens)))

    def _reason_to_skip(self, outcome: Outcome) -> str | None:
        """Why the weights should not be updated; None too for a non-finite number that skipping cannot help."""
        state = self._state
        if outcome.finite:
            if state.scale is not None:
                state.scale.passed()
            return state.spikes.reason_to_skip(outcome.norm)
        if not math.isfinite(outcome.loss) or state.scale is None or state.scale.exhausted:
            return None
        state.scale.overflowed()
        return f"a gradient overflowed float16; the loss scale is now {state.scale.value:g}"

    def _update(self, step: int, learning_rate: float) -> None:
        state = self._state
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * group.get("learning_rate_factor", 1.0)
        for _ in state.weights.hand_over():
            for optimiser in state.optimisers:
                optimiser.step()
        if state.average is not None:
            state.average.update(step)

    def _explain(self, step: int, batch: Batch) -> NonFiniteError:
        training = self._training
        working, documents = self._state.weights.working, training.data.documents
        saved = max(named_checkpoints(training.checkpoints, "step"), default=0)
        advice = f"The last checkpoint is of step {saved}; " if saved else "No checkpoint was written; "
        advice += "a lower learning_rate" + (" or precision=float32" if training.precision.value != "float32" else "")
        together = training.parallelism.together
        parts = self._parts(batch)
        return explain_non_finite(
            step, working, training.objective, parts, documents, f"{advice} may help", self._world, together
        )
