"""Objectives: what a training minimises, as named sums whose counts are known before the forward pass.

THE loop minimises, over all micro-batches and ranks of a step together,

    sum over terms of  weight * (sum of the term) / (count of the term),

so that accumulation, data parallelism and one big batch agree, also for several means such as MLM + NSP (Devlin et al.
2019, section 3.1), whose counts differ from one micro-batch to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from neolm.data.batch import IGNORED, Batch


class Term(NamedTuple):
    """A differentiable sum over the targets of a batch."""

    total: Tensor
    metrics: Mapping[str, Tensor] = {}
    """Further sums over the same targets, for the logs. `loss` is logged in place of the total."""


class Objective(Protocol):
    """The loss of a training: one or more terms, each a sum over its targets."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each term's mean in the loss."""

    def targets(self, batch: Batch) -> Mapping[str, float]:
        """Number of targets of each term in `batch`, which is in host memory, or the sum of their weights."""

    def __call__(self, model: Any, batch: Batch) -> Mapping[str, Term]:
        """Sums of each term over `batch`, which is on the device."""


@dataclass(frozen=True)
class CausalLanguageModelling:
    """-log p(next token) in nats (Radford et al. 2018, equation 1), over all labels that are not ignored.

    `z_loss` times log^2 Z, Z the softmax's denominator, is added to the minimised loss; it keeps the logits from
    drifting (Chowdhery et al. 2022, section 5; GPT-Neo's mesh-TensorFlow has it too).
    """

    z_loss: float = 0.0
    weights: Mapping[str, float] = field(default_factory=lambda: {"next_token": 1.0})

    def targets(self, batch: Batch) -> dict[str, int]:
        """Number of labels that are not ignored."""
        return {"next_token": int((batch["labels"] != IGNORED).sum())}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The summed loss, and the z-loss apart."""
        total, entropy = model(**batch, z_loss=self.z_loss)
        metrics = {"loss": entropy, "z_loss": total.detach() - entropy} if self.z_loss else {}
        return {"next_token": Term(total, metrics)}


@dataclass(frozen=True)
class MaskedLanguageModelling:
    """Mean -log p(original token) over the predicted tokens, plus that of the sentence task (Devlin et al. 2019).

    The papers' code adds the two means. Each is over the whole step: a micro-batch with fewer pairs or predicted tokens
    than another counts for less.
    """

    sentence_weight: float | None = 1.0
    """Weight of the sentence task's mean; None: there is no such task."""

    @property
    def weights(self) -> dict[str, float]:
        """1 for `masked_tokens` and, if there is a sentence task, its weight for `sentence`."""
        return {"masked_tokens": 1.0, **({"sentence": self.sentence_weight} if self.sentence_weight else {})}

    def targets(self, batch: Batch) -> dict[str, int]:
        """Number of labels that are not ignored."""
        names = {"masked_tokens": "labels", "sentence": "sentence_labels"}
        return {term: int((batch[names[term]] != IGNORED).sum()) for term in self.weights}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The summed losses, each with the number of right predictions as `accuracy`."""
        tensors = {name: batch[name] for name in batch if name != "sentence_labels" or self.sentence_weight}
        sums = model(**tensors)
        terms = {"masked_tokens": Term(sums.masked_loss, {"accuracy": sums.masked_correct})}
        if self.sentence_weight:
            terms["sentence"] = Term(sums.sentence_loss, {"accuracy": sums.sentence_correct})
        return terms


def gradient_factors(counts: Mapping[str, float], weights: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Factor of each term's sum in the backward pass, and the divisor of the accumulated gradient.

    factor / divisor = weight / count. One term of weight 1 has a factor of exactly 1. A term without targets has
    factor 0.
    """
    divisor = max(counts.values()) or 1
    return {term: weights[term] * (divisor / count) if count else 0.0 for term, count in counts.items()}, divisor
