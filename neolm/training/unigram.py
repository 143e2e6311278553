"""The unigram entropy of a text, and the alarm about a training that does not get below it.

The unigram entropy, -sum p log p over the frequencies p of the tokens, is the loss of a model that has learnt how
frequent tokens are and nothing else. A training with a learning rate that is too high stays there for good, post-norm
models such as BERT and ALBERT above all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.data.shards import TokenShards
from neolm.data.token_counts import token_counts
from neolm.training.config import TrainConfig
from neolm.training.objective import Objective

FIRST_STEP = 200  # of the alarm
RECENT = 50  # steps whose losses are averaged
MARGIN = 0.02  # of the entropy: a loss this close is at it, and one that falls by more within `RECENT` steps is falling


def unigram_entropy(shards: TokenShards, vocab_size: int) -> float:
    """Entropy, in nats, of the frequencies of the tokens of a split; of a sample where the split is large."""
    return entropy(token_counts(shards, vocab_size))


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy, in nats, of the frequencies of tokens that occur so often (V,)."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class UnigramAlarm:
    """Watches the losses of an objective's first term, at the steps at which they are read from the device."""

    def __init__(self, entropy: float | None, objective: Objective, config: TrainConfig) -> None:
        """`entropy` is that of the tokens that the term predicts, in nats; None: there is no alarm."""
        self._entropy, self._config = entropy, config
        first, *others = objective.weights
        self._key = f"{first}_loss" if others else "loss"
        self._losses: deque[tuple[int, float]] = deque()
        self._first = 0.0
        self._raised = False

    def observe(self, step: int, means: Mapping[str, Any]) -> str | None:
        """Take the means of a step, named as in the metrics; return a line for the user, at most once in a training."""
        loss = means.get(self._key)
        if self._entropy is None or self._raised or loss is None or not math.isfinite(loss):
            return None
        self._first = self._first or loss
        self._losses.append((step, loss))
        while self._losses[0][0] <= step - 2 * RECENT:
            self._losses.popleft()
        recent = fmean(value for number, value in self._losses if number > step - RECENT)
        before = [value for number, value in self._losses if number <= step - RECENT]
        margin = MARGIN * self._entropy
        above = recent > self._entropy + margin
        warm = self._config.batch_sizes.steps_for(self._config.warmup_examples)
        enough = margin / 4 if step < warm else margin  # small learning rates give small progress
        falls = recent < self._first and bool(before) and fmean(before) - recent > enough
        if step < FIRST_STEP or recent < self._entropy - margin or falls:
            return None
        self._raised = True
        return self._line(step, recent, above, warm)

    def _line(self, step: int, loss: float, above: bool, warm: int) -> str:
        config = self._config
        others = " or ".join(name for name in ("adamw", "lamb", "muon") if name != config.optimiser)
        return (
            f"step {step}: the loss of {loss:.2f} (mean of {RECENT} steps) is {'above' if above else 'at'} the unigram "
            f"entropy of the text, {self._entropy:.2f} nats: so far, the model has "
            f"{'not even' if above else 'only'} learnt how frequent tokens are. "
            f"{f'The warm-up ends at step {warm}; if this lasts, try' if step < warm else 'Try'} "
            f"a lower learning_rate (now {config.learning_rate:g}"
            f"{'; a higher one if the loss falls smoothly but slowly' if above else ''}), a longer warm-up (now {warm} "
            "steps; post-norm models such as BERT and ALBERT need one), "
            f"optimiser={others} (now {config.optimiser}), or, for an encoder, model.initialisation=informed"
        )
