"""`neolm finetune --task span` and `--task tokens`, through the real commands; scores recomputed from predictions."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from topic_tables import QUICK, write_csv
from torch.nn import functional as F

import neolm
from neolm.data.batch import IGNORED, Batch
from neolm.finetuning.token_objectives import SpanObjective, TagObjective
from neolm.finetuning.window_examples import Window, WindowExamples

Command = Callable[..., tuple[int, str, str]]
SETTINGS = (*QUICK[1:], "finetune.epochs=25", "finetune.learning_rate=3e-3")
FILLING = ["the", "cold", "of", "is", "was", "in"]


def run(neolm_: Command, *arguments: object) -> str:
    code, out, err = neolm_(*arguments)
    assert code == 0, err
    return out + err


def filling(draw: random.Random, least: int, most: int) -> list[str]:
    return [draw.choice(FILLING) for _ in range(draw.randrange(least, most))]


def tagged(path: Path, count: int, seed: int) -> Path:
    """Texts in which `sea` and `water` are of a COAST, and `clock` is a TIME."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        words, tags = filling(draw, 1, 4), []
        tags = ["O"] * len(words)
        for name, tag in draw.sample([(["sea", "water"], "COAST"), (["clock"], "TIME")], draw.randrange(1, 3)):
            words += [*name, *filling(draw, 1, 3)]
            tags += [f"B-{tag}", *[f"I-{tag}"] * (len(name) - 1)]
            tags += ["O"] * (len(words) - len(tags))
        lines.append(json.dumps({"tokens": words, "tags": tags}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def questions(path: Path, count: int, seed: int) -> Path:
    """What is cold? The word before `was cold`; without it, there is no answer."""
    draw, paragraphs = random.Random(seed), []
    for number in range(count):
        thing = draw.choice(["sea", "water", "day", "clock"])
        before = " ".join(["the", "of", "in"][: draw.randrange(3)])
        answered = number % 4 > 0
        context = " ".join(f"{before} {thing} was {'cold' if answered else 'in'} .".split())
        answers = [{"text": thing, "answer_start": context.index(thing)}] if answered else []
        qas = [{"id": str(number), "question": "is cold ?", "answers": answers, "is_impossible": not answered}]
        paragraphs.append({"context": context, "qas": qas})
    data = [{"title": f"t{n}", "paragraphs": [one]} for n, one in enumerate(paragraphs)]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


def test_entities_are_learnt(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train, validation = tagged(tmp_path / "train.jsonl", 80, 1), tagged(tmp_path / "validation.jsonl", 30, 2)
    output = tmp_path / "run"
    said = run(
        neolm_, "finetune", base, "--task", "tokens", "--train", train, "--validation", validation, "--output", output,
        *SETTINGS,
    )  # fmt: skip
    assert f"{train}: 80 texts of" in said
    found = json.loads((output / "finetune" / "results.json").read_text())
    assert found["scores"]["lookup"]["f1"] == 1.0  # each word has one tag here
    assert found["scores"]["fine-tuned"]["f1"] > 0.9
    assert found["interval"]["low"] <= found["interval"]["value"] == found["scores"]["fine-tuned"]["f1"]
    loaded = transformers.AutoModelForTokenClassification.from_pretrained(output / "model")
    assert loaded.config.id2label == dict(enumerate(["O", "B-COAST", "I-COAST", "B-TIME", "I-TIME"]))
    (one,) = neolm.predict(output, "the sea water is cold")
    assert [(e["label"], e["text"]) for e in one["entities"]] == [("COAST", "sea water")]
    assert run(neolm_, "predict", output, "--input", validation, "--output", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    gold, guess = [row["given_tags"] for row in rows], [row["tags"] for row in rows]
    right = sum(sum(a == b for a, b in zip(one, other, strict=True)) for one, other in zip(gold, guess, strict=True))
    assert right / sum(map(len, gold)) > 0.9


def test_answers_are_learnt(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train, validation = questions(tmp_path / "train.json", 100, 1), questions(tmp_path / "validation.json", 40, 2)
    output = tmp_path / "run"
    said = run(
        neolm_, "finetune", base, "--task", "span", "--train", train, "--validation", validation, "--output", output,
        *SETTINGS, "finetune.max_question_tokens=8",
    )  # fmt: skip
    assert "75 have an answer, 25 have none" in said
    found = json.loads((output / "finetune" / "results.json").read_text())
    assert found["scores"]["no-answer"]["f1"] == 0.25
    assert found["scores"]["fine-tuned"]["f1"] > 0.8
    assert found["scores"]["fine-tuned"]["unanswerable_questions"] == 10
    assert found["prediction"]["null_threshold"] is not None
    stored = json.loads((output / "model" / "prediction.json").read_text())
    assert stored["null_threshold"] == found["prediction"]["null_threshold"]
    assert stored["max_question_tokens"] == 8
    pairs = [("is cold ?", "the sea was cold ."), ("is cold ?", "the sea was in .")]
    one, none = neolm.predict(output, pairs)
    assert (one["answer"], one["start"], one["end"]) == ("sea", 4, 7)
    assert none["answer"] == ""
    transformers.AutoModelForQuestionAnswering.from_pretrained(output / "model")


def test_a_validation_part_is_drawn(base: Path, tmp_path: Path, neolm_: Command) -> None:
    quick = (*SETTINGS, "finetune.epochs=1", "finetune.validation_share=0.2")
    said = run(
        neolm_, "finetune", base, "--task", "tokens", "--train", tagged(tmp_path / "t.jsonl", 40, 1), "--output",
        tmp_path / "tags", *quick,
    )  # fmt: skip
    assert "of 40 texts are drawn for validation" in said
    said = run(
        neolm_, "finetune", base, "--task", "span", "--train", questions(tmp_path / "q.json", 40, 1), "--output",
        tmp_path / "spans", *quick, "finetune.max_question_tokens=8",
    )  # fmt: skip
    assert "of 40 questions are for validation" in said


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("span", {"version": "v2.0", "data": []}, "question"),
        ("tokens", {"tokens": ["sea"], "tags": ["O"]}, "there is no entity to learn"),
        ("tokens", {"tokens": ["sea"]}, "no text is labelled"),
    ],
)
def test_files_that_cannot_be_learnt_from(
    base: Path, tmp_path: Path, neolm_: Command, task: str, content: Any, message: str
) -> None:
    train = tmp_path / ("train.json" if task == "span" else "train.jsonl")
    train.write_text("\n".join([json.dumps(content)] * (1 if task == "span" else 20)), encoding="utf-8")
    code, _, err = neolm_(
        "finetune", base, "--task", task, "--train", train, "--validation", train, "--output", tmp_path / "run"
    )
    assert code == 2, err
    assert message in err.splitlines()[-1]


def test_an_unlabelled_file_is_not_learnt_from(base: Path, tmp_path: Path, neolm_: Command) -> None:
    qas = [{"id": "1", "question": "is cold ?", "answers": []}]  # as in the test files of competitions
    data = {"data": [{"title": "t", "paragraphs": [{"context": "the sea was cold", "qas": qas}]}]}
    train = tmp_path / "test.json"
    train.write_text(json.dumps(data), encoding="utf-8")
    code, _, err = neolm_("finetune", base, "--task", "span", "--train", train, "--output", tmp_path / "run")
    assert code == 2
    assert "no question has an answer" in err


def test_unknown_tags_of_the_validation_are_refused(base: Path, tmp_path: Path, neolm_: Command) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"tokens": ["sea"], "tags": ["B-PLACE"]}), encoding="utf-8")
    train = tagged(tmp_path / "train.jsonl", 20, 1)
    code, _, err = neolm_(
        "finetune", base, "--task", "tokens", "--train", train, "--validation", other, "--output", tmp_path / "run"
    )
    assert code == 2
    assert "the training texts do not have the tag 'B-PLACE'" in err


def test_settings_of_other_tasks_have_no_effect(base: Path, tmp_path: Path, neolm_: Command) -> None:
    said = run(
        neolm_, "finetune", base, "--task", "tokens", "--train", tagged(tmp_path / "t.jsonl", 30, 1), "--output",
        tmp_path / "run", *QUICK, "finetune.focal_gamma=2", "finetune.null_windows=1",
    )  # fmt: skip
    assert "finetune.focal_gamma has no effect here, because task is tokens" in said
    assert "finetune.null_windows has no effect here, because task is not span" in said


def batch(targets: list[list[int]], mask: list[list[int]]) -> Batch:
    inputs = {"input_ids": torch.zeros(len(mask), len(mask[0]), dtype=torch.long), "attention_mask": torch.tensor(mask)}
    return Batch({**inputs, "token_type_ids": inputs["input_ids"], "targets": torch.tensor(targets)})


def test_the_loss_of_tags_is_the_mean_over_tagged_tokens() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    given = batch([[0, IGNORED, 3], [2, IGNORED, IGNORED]], [[1, 1, 1], [1, 1, 0]])
    objective = TagObjective()
    found = objective(lambda **_: logits, given)["tags"]
    assert objective.targets(given) == {"tags": 3}
    chosen = logits[[0, 0, 1], [0, 2, 0]]
    torch.testing.assert_close(found.total, F.cross_entropy(chosen, torch.tensor([0, 3, 2]), reduction="sum"))
    assert found.metrics["accuracy"] == (chosen.argmax(1) == torch.tensor([0, 3, 2])).sum()


def test_the_loss_of_spans_does_not_see_padding() -> None:
    logits = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1))
    given = batch([[1, 3], [0, 1]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    found = SpanObjective()(lambda **_: logits, given)["spans"]
    expected = sum(
        F.cross_entropy(logits[row : row + 1, :length, side], torch.tensor([target]))
        for row, length, targets in ((0, 4, (1, 3)), (1, 2, (0, 1)))
        for side, target in enumerate(targets)
    )
    torch.testing.assert_close(found.total, expected / 2)  # type: ignore[operator]


def test_windows_are_padded_to_the_longest() -> None:
    windows = [Window([2, 7, 3], [0, 0, 0], [IGNORED, 1, IGNORED], "a"), Window([2, 3], [0, 1], [5, 0], "b")]
    data = WindowExamples(windows)
    found = data.batch([1, 0])
    assert found["targets"].tolist() == [[5, 0, IGNORED], [IGNORED, 1, IGNORED]]
    assert found["input_ids"].tolist() == [[2, 3, 0], [2, 7, 3]]
    assert [*data.places([1])] == ["b"]


def test_tables_of_questions(base: Path, tmp_path: Path, neolm_: Command) -> None:
    rows = [("is cold ?", f"the {thing} was cold .", thing) for thing in ["sea", "water", "day", "clock"] * 8]
    train = write_csv(tmp_path / "train.csv", ("question", "context", "answer"), rows)
    run(
        neolm_, "finetune", base, "--task", "span", "--train", train, "--validation", train, "--output",
        tmp_path / "run", *SETTINGS, "finetune.epochs=12", "finetune.max_question_tokens=8",
    )  # fmt: skip
    found = json.loads((tmp_path / "run" / "finetune" / "results.json").read_text())
    assert found["prediction"]["null_threshold"] is None  # each question has an answer, as in SQuAD 1.1
    assert found["scores"]["fine-tuned"]["exact_match"] > 0.8
