"""Which candidate becomes the model, and what is recorded of several seeds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neolm.finetuning.candidates import Trained
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.finetune_data import FinetuneData
from neolm.finetuning.results import results
from neolm.prediction.targets import Targets
from neolm.tables.examples import Examples

N = 100
LABELS = ["a", "b"] * (N // 2)


def data(drawn: bool) -> FinetuneData:
    examples = Examples(Path("t.csv"), [f"text {n}" for n in range(N)], LABELS, range(2, N + 2))
    return FinetuneData(examples, examples, Targets("single_label_classification", ("a", "b")), drawn, {})


def candidate(name: str, wrong: list[int]) -> Trained:
    """A candidate that gives these examples the other label."""
    gold = np.array([label == "b" for label in LABELS]).astype(int)
    gold[wrong] = 1 - gold[wrong]
    return Trained(name, {"logits": torch.eye(2)[torch.from_numpy(gold)] * 3}, 1.0)


CONFIG = FinetuneConfig(task="classification", train="t.csv")


@pytest.mark.parametrize(
    ("better_on", "worse_on", "drawn", "model"),
    [
        (7, 2, False, "fine-tuned"),  # 5 more are right, and the standard error is 3
        (7, 2, True, "probe"),  # the 95% interval has zero in it
        (20, 3, True, "fine-tuned"),
        (3, 3, False, "probe"),
        (0, 20, False, "probe"),
    ],
)
def test_the_model_is_the_probe_unless_there_is_evidence(
    better_on: int, worse_on: int, drawn: bool, model: str
) -> None:
    probe = candidate("probe", list(range(30)))
    tuned = candidate("fine-tuned", [*range(better_on, 30), *range(40, 40 + worse_on)])
    assert results([probe], [tuned], data(drawn), (0.0, 1.0), CONFIG)["model"] == model


def test_a_candidate_that_gives_one_answer_is_not_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    ones = Trained("probe", {"logits": torch.eye(2)[[0] * N] * 3}, 1.0)  # right for half of the examples
    tuned = candidate("fine-tuned", list(range(50)))
    found = results([ones], [tuned], data(True), (0.0, 1.0), CONFIG)
    assert (found["model"], found["comparison"]["recommended"]) == ("fine-tuned", "fine-tuned")
    assert "probe failed: one answer to everything" in capsys.readouterr().err
    found = results([ones], [Trained("fine-tuned", ones.tensors, 1.0)], data(True), (0.0, 1.0), CONFIG)
    assert (found["model"], found["comparison"]["recommended"]) == ("probe", "probe")  # there is no other one


def test_the_best_seed_is_the_candidate_and_the_others_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    constant = Trained("fine-tuned", {"logits": torch.eye(2)[[0] * N] * 3}, 1.0)
    runs = [candidate("fine-tuned", list(range(20))), candidate("fine-tuned", list(range(5))), constant]
    found = results([candidate("probe", list(range(30)))], runs, data(False), (0.0, 1.0), CONFIG)
    assert found["run"] == 1
    assert found["scores"]["fine-tuned"]["accuracy"] == 0.95
    assert found["seeds"]["median"] == 0.8
    assert (found["seeds"]["runs"], found["seeds"]["failed"]) == (3, 1)
    assert "1 of 3 failed: they give one answer to everything" in capsys.readouterr().err


def test_a_probe_alone_has_no_seeds() -> None:
    found = results([candidate("probe", [1])], [], data(False), (0.0, 1.0), CONFIG)
    assert (found["model"], found["run"], found["seeds"]) == ("probe", 0, None)
