"""Objectives of heads that read every token: tags of words, and begin and end of a span (Devlin et al. 2019, 4.2, 5.3).

Shapes: B windows, T tokens, K tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from neolm.data.batch import IGNORED, Batch
from neolm.training.objective import Term

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TagObjective:
    """Mean cross-entropy over the tokens that have a tag, of all windows of a step."""

    @property
    def weights(self) -> Mapping[str, float]:
        """One term, `tags`."""
        return {"tags": 1.0}

    def targets(self, batch: Batch) -> dict[str, float]:
        """Number of tokens that have a tag."""
        return {"tags": int((batch["targets"] != IGNORED).sum())}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The summed loss, and the number of right tags."""
        logits = model(**{name: batch[name] for name in INPUTS}).float()  # (B, T, K)
        targets = batch["targets"]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return {"tags": Term(loss, {"accuracy": (logits.argmax(dim=2) == targets).sum()})}


@dataclass(frozen=True)
class SpanObjective:
    """Mean over the windows of a step of the cross-entropies of begin and end, each over the tokens of the window."""

    @property
    def weights(self) -> Mapping[str, float]:
        """One term, `spans`."""
        return {"spans": 1.0}

    def targets(self, batch: Batch) -> dict[str, float]:
        """Number of windows."""
        return {"spans": len(batch)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The summed loss, and the number of windows in which begin and end are right."""
        logits = model(**{name: batch[name] for name in INPUTS}).float()  # (B, T, 2)
        logits = logits.masked_fill(batch["attention_mask"].unsqueeze(2) == 0, torch.finfo(torch.float32).min)
        loss = F.cross_entropy(logits, batch["targets"], reduction="sum") / 2
        right = (logits.argmax(dim=1) == batch["targets"]).all(dim=1)
        return {"spans": Term(loss, {"accuracy": right.sum()})}
