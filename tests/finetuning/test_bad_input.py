"""Tables and models that `neolm finetune` cannot use, or uses in part: one clear line each."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_encoders import LETTERS, VOCABULARY, tiny_encoder
from topic_tables import QUICK, write_csv

from neolm.core.errors import SettingError
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.fit import Team
from neolm.models.hf import save_model
from neolm.training.parallel_config import ParallelConfig

Topics = Callable[[str, int, int], Path]
Command = Callable[..., tuple[int, str, str]]
GOOD = [
    (f"the {word} {letter}", label) for letter in LETTERS[:20] for word, label in (("sea", "coast"), ("day", "time"))
]
PROBE = (*QUICK, "finetune.method=probe", "finetune.tfidf=false")


UNKNOWN = [("the cold", "Coast "), ("a", "coats")]


def refused(neolm_: Command, *arguments: object) -> str:
    code, _, err = neolm_("finetune", *arguments)
    assert code == 2, err
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            GOOD,
            ("--label-column", "lable"),
            "there is no column 'lable'; the columns are text, label; did you mean 'label'?",
        ),
        (
            GOOD,
            ("--text-column", "Text"),
            "there is no column 'Text'; the columns are text, label; did you mean 'text'?",
        ),
        (
            [("the sea", "coast")] * 20,
            (),
            "every training example has the label 'coast'; a classifier needs two labels",
        ),
        ([("", "coast"), (" ", "time")], (), "no row is an example"),
        ([("the sea", "NaN"), ("the day", "")], (), "there is no label"),
        (GOOD, ("--task", "regression"), "'coast' is not a number; for labels that are names use task classification"),
        (GOOD, ("--task", "pair"), "second_column must be given for task pair"),
        (GOOD, ("--label-column", "text", "--label-column", "label"), "a label under 'text' is neither 0 nor 1"),
        (GOOD, ("finetune.batch_size=99",), "finetune.batch_size: 99 is more than the"),
        (GOOD, ("--task", "clasification"), "clasification"),
        (GOOD, ("finetune.max_length=41",), "finetune.max_length: 41 is more than the model's 40 positions"),
        (GOOD, ("finetune.max_length=4",), "finetune.max_length"),
    ],
)
def test_tables_that_cannot_be_used(
    base: Path, tmp_path: Path, neolm_: Command, rows: list[tuple[str, str]], options: tuple[str, ...], message: str
) -> None:
    train = write_csv(tmp_path / "train.csv", ("text", "label"), rows)
    output = tmp_path / "run"
    named = [option for option in options if "=" not in option]
    settings = [option for option in options if "=" in option]
    said = refused(neolm_, base, "--train", train, *named, "--output", output, *settings)
    assert message in said
    assert not (output / "finetune").exists()


def test_files_that_are_not_there(base: Path, tmp_path: Path, neolm_: Command) -> None:
    assert "finetune.train: " in refused(neolm_, base, "--train", tmp_path / "no.csv", "--output", tmp_path / "run")
    assert "give a table of training examples" in refused(neolm_, base, "--output", tmp_path / "run")
    train = write_csv(tmp_path / "train.csv", ("text", "label"), GOOD)
    said = refused(neolm_, base, "--train", train, "--validation", tmp_path / "no.csv", "--output", tmp_path / "run")
    assert "finetune.validation: " in said
    assert "no such model directory" in refused(neolm_, tmp_path / "no", "--train", train, "--output", tmp_path / "run")


def test_models_that_cannot_be_fine_tuned(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train = write_csv(tmp_path / "train.csv", ("text", "label"), GOOD)
    small = tmp_path / "small"
    save_model(tiny_encoder("bert", vocab_size=20), small)
    (small / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    said = refused(neolm_, small, "--train", train, "--output", tmp_path / "run", *PROBE)
    assert "they do not belong together" in said


def said_with(neolm_: Command, base: Path, output: Path, *options: object) -> str:
    code, _, err = neolm_("finetune", base, *options, "--output", output, *PROBE)
    assert code == 0, err
    return err


def test_unknown_labels_of_the_validation_are_left_out_and_named(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train = write_csv(tmp_path / "train.csv", ("text", "label"), GOOD)
    validation = write_csv(
        tmp_path / "validation.csv", ("text", "label"), [*GOOD, ("the cold", "Coast "), ("a", "coats")]
    )
    said = said_with(neolm_, base, tmp_path / "run", "--train", train, "--validation", validation)
    assert f"{validation}: 2 examples left out: no training example has the label 'Coast ', 'coats'" in said
    only = write_csv(tmp_path / "only.csv", ("text", "label"), UNKNOWN[1:])
    found = refused(neolm_, base, "--train", train, "--validation", only, "--output", tmp_path / "other", *PROBE)
    assert "no label is one of the training part's: there 'coast', here 'coats'" in found


def test_texts_in_both_parts_are_reported(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train = write_csv(tmp_path / "train.csv", ("text", "label"), GOOD)
    rows = [("The  sea A", "coast"), ("a day", "time")]
    validation = write_csv(tmp_path / "validation.csv", ("text", "label"), rows)
    said = said_with(neolm_, base, tmp_path / "run", "--train", train, "--validation", validation)
    assert "1 of 2 texts are also in the training part" in said
    assert "scores will be too good" in said


def test_rows_without_text_or_label_are_counted(base: Path, tmp_path: Path, neolm_: Command) -> None:
    rows = [*GOOD, ("", "time"), ("the cold", ""), ("the cold", "nan")]
    train = write_csv(tmp_path / "train.csv", ("text", "label"), rows)
    said = said_with(neolm_, base, tmp_path / "run", "--train", train, "--validation", train)
    assert "1 row left out: the text is empty (first: line 42)" in said
    assert "2 rows left out: there is no label (first: line 43)" in said


def test_files_of_other_programs(base: Path, tmp_path: Path, neolm_: Command) -> None:
    lines = [f"{text},{label}" for text, label in GOOD[:30]]
    latin = tmp_path / "latin.csv"
    quoted = [f'"caf\xe9;\n{text}";{label}' for text, label in GOOD[:30]]
    latin.write_bytes("\r\n".join(["text;label", *quoted]).encode("latin-1"))
    said = said_with(neolm_, base, tmp_path / "latin", "--train", latin)
    assert "30 examples, 2 labels: 'coast' (15), 'time' (15)" in said
    assert "read as Windows-1252" in said
    excel = tmp_path / "excel.csv"
    excel.write_text("\ufeff" + "\r\n".join(["text,label", *lines]), encoding="utf-8")
    assert "header: text, label" in said_with(neolm_, base, tmp_path / "excel", "--train", excel)
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(lines), encoding="utf-8")
    options = ("--text-column", "1", "--label-column", "2", "finetune.header=false")
    assert "30 examples" in said_with(neolm_, base, tmp_path / "bare", "--train", bare, *options)


def test_one_in_a_thousand(base: Path, tmp_path: Path, neolm_: Command) -> None:
    rows = [(f"the cold {'abcdefghij'[n % 10]} of {'klmnopqrst'[n // 10 % 10]}", "normal") for n in range(998)]
    train = write_csv(tmp_path / "train.csv", ("text", "label"), [*rows, ("the sea", "rare"), ("sea water", "rare")])
    said = said_with(neolm_, base, tmp_path / "run", "--train", train)
    assert "the most frequent label has 499.0 times as many examples as the rarest" in said


def test_other_settings_do_not_overwrite_a_run(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train = topics("train.csv", 60, 1)
    said_with(neolm_, base, tmp_path / "run", "--train", train)
    said = refused(neolm_, base, "--train", train, "--output", tmp_path / "run", *PROBE, "finetune.pooling=first")
    assert "holds a run with other settings (finetune.pooling: 'mean', now 'first')" in said


def test_settings_without_effect_are_said(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train = topics("train.csv", 60, 1)
    options = (
        "--train",
        train,
        "--validation",
        train,
        "finetune.validation_share=0.3",
        "finetune.threshold_precision=0.9",
    )
    said = said_with(neolm_, base, tmp_path / "run", *options)
    assert "finetune.validation_share has no effect here, because a validation table is given" in said
    assert "finetune.threshold_precision has no effect here, because there is one label" in said
    more = ("finetune.learning_rate=0.5", "finetune.patience=9", "finetune.label_smoothing=0.1")
    said = said_with(neolm_, base, tmp_path / "probe", "--train", train, "--validation", train, *more)
    for name in ("learning_rate", "patience", "label_smoothing"):
        assert f"finetune.{name} has no effect here, because method is probe" in said


def test_weights_of_labels_are_for_one_label() -> None:
    config = FinetuneConfig(task="classification", train="t", label_column=("a", "b"), class_weights="balanced")
    assert config.ignored() == {"class_weights": "there are several labels"}


@pytest.mark.parametrize("name", ["tensor", "pipeline", "context"])
def test_parallelism_that_fine_tuning_does_not_take(name: str) -> None:
    config = FinetuneConfig(task="classification", train="t", parallel=ParallelConfig(**{name: 2}))
    with pytest.raises(SettingError, match=rf"parallel\.{name}: must be 1 in fine-tuning"):
        Team().resolved(config, 100)
