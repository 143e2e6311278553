"""`neolm finetune --task choice` through the real commands; the head against transformers."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import tiny_encoder
from tiny_models import tiny_decoder
from topic_tables import QUICK, write_csv

import neolm
from neolm.finetuning.choice_task import ChoiceExamples, ChoiceObjective
from neolm.models.hf import save_model
from neolm.tables.choices import Choice
from neolm.tokenizer.tokenizer import train_tokenizer

Command = Callable[..., tuple[int, str, str]]
SETTINGS = (*QUICK[1:], "finetune.epochs=20", "finetune.learning_rate=3e-3")
PAIRS = {"sea": "water", "day": "clock"}


def questions(path: Path, count: int, seed: int) -> Path:
    """The option that goes with the word of the context, among others."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        name = draw.choice([*PAIRS])
        options = ["cold", *PAIRS.values()]
        draw.shuffle(options)
        context = f"{'the ' * draw.randrange(3)}{name} is"
        rows.append((context, *options, "ABC"[options.index(PAIRS[name])]))
    return write_csv(path, ("text", "A", "B", "C", "label"), rows)


def test_options_are_learnt(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train, validation = questions(tmp_path / "train.csv", 80, 1), questions(tmp_path / "validation.csv", 30, 2)
    output = tmp_path / "run"
    code, _, err = neolm_(
        "finetune", base, "--task", "choice", "--train", train, "--validation", validation, "--output", output,
        *SETTINGS, "finetune.pooling=first", "finetune.abstain_error=0.5",
    )  # fmt: skip
    assert code == 0, err
    assert "finetune: temperature " in err
    assert "no answer below a probability of" in err
    assert "80 questions with 3 options; answers are letters" in err
    found = json.loads((output / "finetune" / "results.json").read_text())
    assert found["scores"]["fine-tuned"]["accuracy"] > 0.9
    assert found["scores"]["place"]["accuracy"] < 0.6
    assert found["scores"]["overlap"]["accuracy"] < 0.6
    loaded = transformers.AutoModelForMultipleChoice.from_pretrained(output / "model")
    assert type(loaded).__name__ == "BertForMultipleChoice"
    (one,) = neolm.predict(output, [("the sea is", ["clock", "water"])])  # type: ignore[list-item]
    assert (one["label"], one["choice"]) == ("water", 2)
    assert neolm_("predict", output, "--input", validation, "--output", tmp_path / "out.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    right = sum(row["choice"] == "ABC".index(row["given_label"]) + 1 for row in rows) / len(rows)
    assert right == found["scores"]["fine-tuned"]["accuracy"]
    code, out, _ = neolm_("evaluate", output, "--input", validation)
    assert code == 0
    assert f"accuracy  {right:.4f}" in out
    code, out, _ = neolm_("predict", output, "the day is", "cold", "clock")
    assert out.startswith("clock\n")
    settings = json.loads((output / "model" / "prediction.json").read_text())
    code, out, _ = neolm_("predict", output, "the day is", "cold", "clock", "--set", "temperature=1", "--json")
    plain = json.loads(out)["probabilities"]
    scaled = neolm.predict(output, [("the day is", ["cold", "clock"])])[0]["probabilities"]  # type: ignore[list-item]
    logit, other = (math.log(one[1] / one[0]) for one in (plain, scaled))
    assert other == pytest.approx(logit / settings["temperature"], rel=1e-4)
    code, out, _ = neolm_("predict", output, "the day is", "cold", "clock", "--set", "abstain_below=1", "--json")
    assert (json.loads(out)["label"], json.loads(out)["choice"]) == (None, None)
    page = (output / "report.html").read_text()
    assert "most frequent place" in page
    assert "takes the right option for" in page
    assert "another option" in page


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_head_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    model = tiny_encoder(family, head="choice", pooler=True, pooling="first", spread=0.3)
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)

    def window(length: int) -> tuple[list[int], list[int]]:
        return torch.randint(1, 97, (length,), generator=generator).tolist(), [0] * 3 + [1] * (length - 3)

    lengths = [(9, 5, 12), (4, 7), (10, 10, 6)]
    windows = [[window(length) for length in row] for row in lengths]
    answers = (2, 1, 0)
    choices = [Choice("", ("",) * len(row), f"row {n}", answers[n]) for n, row in enumerate(windows)]
    data = ChoiceExamples(windows, choices)
    batch = data.batch([0, 1, 2])
    assert batch["attention_mask"].sum(dim=2).tolist() == [[9, 5, 12], [4, 7, 0], [10, 10, 6]]
    found = ChoiceObjective()(model, batch)["choices"]
    expected, right = torch.zeros(()), 0
    with torch.no_grad():
        for number, row in enumerate(windows):
            one = ChoiceExamples([row], [choices[number]]).batch([0])
            inputs = {name: one[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
            logits = theirs(**inputs).logits
            expected += torch.nn.functional.cross_entropy(logits, one["targets"], reduction="sum")
            right += int(logits.argmax() == one["targets"][0])
    torch.testing.assert_close(found.total, expected, atol=1e-5, rtol=1e-5)
    assert found.metrics["accuracy"] == right
    assert [*data.places([1])] == ["row 1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("finetune.method=probe",), "a probe reads one vector of a text"),
        (("--option-column", "D"), "there is no column 'D'"),
        (("--label-column", "A"), "no row is a question with options and an answer"),
    ],
)
def test_wrong_settings(base: Path, tmp_path: Path, neolm_: Command, changes: Any, message: str) -> None:
    train = questions(tmp_path / "train.csv", 12, 1)
    if "--label-column" in changes:
        train = write_csv(tmp_path / "t.csv", ("text", "A", "B", "C", "label"), [("x", "y", "z", "", "w")] * 3)
        changes = ()
    code, _, err = neolm_(
        "finetune", base, "--task", "choice", "--train", train, "--output", tmp_path / "run", *changes
    )
    assert code == 2
    assert message in err.splitlines()[-1]


def test_a_decoder_is_refused(tmp_path: Path, neolm_: Command) -> None:
    tokenizer = train_tokenizer(iter(["the sea is water and the day is cold"] * 3), 270)
    save_model(tiny_decoder("gpt2", 64, vocab_size=270), tmp_path / "decoder")
    tokenizer.save(tmp_path / "decoder")
    train = questions(tmp_path / "train.csv", 12, 1)
    code, _, err = neolm_(
        "finetune", tmp_path / "decoder", "--task", "choice", "--train", train, "--output", tmp_path / "run"
    )
    assert code == 2
    assert "is a decoder" in err.splitlines()[-1]
