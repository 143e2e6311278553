"""Losses of classifiers and regressions: formulas, weights, and sums that add up over micro-batches."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.data.batch import Batch
from neolm.finetuning.objectives import TextObjective
from neolm.models.label_config import Problem


def batch(targets: Tensor, weights: Tensor | None = None) -> Batch:
    rows = len(targets)
    inputs = {name: torch.zeros(rows, 1) for name in ("input_ids", "attention_mask", "token_type_ids")}
    return Batch({**inputs, "targets": targets, "weights": torch.ones(rows) if weights is None else weights})


def model(logits: Tensor) -> Any:
    """Gives the logits of the rows in turn."""
    rest = iter(logits)
    return lambda input_ids, **_: torch.stack([next(rest) for _ in input_ids])


LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([0, 1, 2, 2, 1, 0])
SEVERAL = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.0, 3.0])
CASES: list[tuple[Problem, Tensor, Tensor]] = [
    ("single_label_classification", LOGITS, IDS),
    ("multi_label_classification", LOGITS, SEVERAL),
    ("regression", LOGITS[:, :1], LOGITS[:, 1]),
]


@pytest.mark.parametrize(("problem", "logits", "targets"), CASES)
def test_micro_batches_add_up_to_the_batch(problem: Problem, logits: Tensor, targets: Tensor) -> None:
    objective, whole = TextObjective(problem), batch(targets, WEIGHTS)
    total = objective(model(logits), whole)["examples"]
    assert objective.targets(whole) == {"examples": 7.75}
    parts = [
        objective(model(logits[rows]), part)["examples"]
        for rows, part in zip([slice(4), slice(4, 6)], whole.split(4), strict=True)
    ]
    torch.testing.assert_close(sum(part.total for part in parts), total.total)
    for name in total.metrics:
        torch.testing.assert_close(sum(part.metrics[name] for part in parts), total.metrics[name])


def test_one_label() -> None:
    found = TextObjective("single_label_classification")(model(LOGITS), batch(IDS, WEIGHTS))["examples"]
    torch.testing.assert_close(found.total, (WEIGHTS * F.cross_entropy(LOGITS, IDS, reduction="none")).sum())
    torch.testing.assert_close(found.metrics["accuracy"], WEIGHTS[LOGITS.argmax(1) == IDS].sum())


def test_label_smoothing() -> None:
    found = TextObjective("single_label_classification", smoothing=0.3)(model(LOGITS), batch(IDS))["examples"]
    target = F.one_hot(IDS, 3) * 0.7 + 0.1
    torch.testing.assert_close(found.total, -(target * LOGITS.log_softmax(1)).sum())


def test_the_focal_loss_of_one_label() -> None:
    found = TextObjective("single_label_classification", gamma=2.0)(model(LOGITS), batch(IDS))["examples"]
    p = LOGITS.softmax(1)[range(6), IDS]
    torch.testing.assert_close(found.total, (-((1 - p) ** 2) * p.log()).sum())


def test_the_focal_loss_of_several_labels() -> None:
    found = TextObjective("multi_label_classification", gamma=2.0)(model(LOGITS), batch(SEVERAL))["examples"]
    p = torch.where(SEVERAL > 0, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    torch.testing.assert_close(found.total, (-((1 - p) ** 2) * p.log()).mean(1).sum())


def test_several_labels() -> None:
    found = TextObjective("multi_label_classification")(model(LOGITS), batch(SEVERAL))["examples"]
    torch.testing.assert_close(found.total, F.binary_cross_entropy_with_logits(LOGITS, SEVERAL) * 6)
    torch.testing.assert_close(found.metrics["accuracy"], ((LOGITS > 0) == (SEVERAL > 0)).float().mean(1).sum())


def test_numbers() -> None:
    found = TextObjective("regression")(model(LOGITS[:, :1]), batch(LOGITS[:, 1]))["examples"]
    torch.testing.assert_close(found.total, F.mse_loss(LOGITS[:, 0], LOGITS[:, 1], reduction="sum"))
    assert not found.metrics


def test_bfloat16_logits_are_widened() -> None:
    found = TextObjective("single_label_classification")(model(LOGITS.bfloat16()), batch(IDS))["examples"]
    assert found.total.dtype == torch.float32
