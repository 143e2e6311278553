"""Objectives of classifiers and regressions of texts: weighted means over the examples of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.data.batch import Batch
from neolm.models.label_config import Problem
from neolm.models.token_batches import text_inputs
from neolm.training.objective import Term


@dataclass(frozen=True)
class TextObjective:
    """Cross-entropy of one label, or of each of several labels, or squared error of a number.

    The loss is the mean over the examples, each with its weight. `gamma` is the exponent of the focal loss (Lin et al.
    2017, equation 4), (1 - p)^gamma * -log p for the probability p of what is right. A batch may have `hidden`, the
    hidden states after the first `frozen_layers`.
    """

    problem: Problem
    gamma: float = 0.0
    smoothing: float = 0.0
    frozen_layers: int = 0

    @property
    def weights(self) -> Mapping[str, float]:
        """One term, `examples`."""
        return {"examples": 1.0}

    def targets(self, batch: Batch) -> dict[str, float]:
        """Sum of the weights of the examples."""
        return {"examples": float(batch["weights"].sum(dtype=torch.float64))}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The weighted sum of the losses, and of what is right (`accuracy`; of several labels, the share of them)."""
        inputs: dict[str, Any] = {name: batch[name] for name in text_inputs(model)}
        if "hidden" in batch:
            layers = range(self.frozen_layers, model.config.num_layers)
            inputs |= {"hidden": batch["hidden"], "layers": layers}
        logits = model(**inputs).float()
        targets, weights = batch["targets"], batch["weights"]
        losses, right = self._losses(logits, targets)
        metrics = {} if right is None else {"accuracy": (weights * right).sum().detach()}
        return {"examples": Term((weights * losses).sum(), metrics)}

    def _losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Loss and share of right answers of each example, (B,)."""
        if self.problem == "regression":
            return (logits[:, 0] - targets).square(), None
        if self.problem == "single_label_classification":
            losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.smoothing)
            if self.gamma:
                chance = logits.softmax(dim=1).gather(1, targets[:, None])[:, 0]
                losses = losses * (1 - chance) ** self.gamma
            return losses, (logits.argmax(dim=1) == targets).float()
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # (B, K)
        if self.gamma:
            each = each * (1 - torch.exp(-each)) ** self.gamma
        return each.mean(dim=1), ((logits > 0) == targets.bool()).float().mean(dim=1)
