"""GLUE and SuperGLUE by name, from files in their official form."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import sklearn.metrics
from topic_tables import QUICK

import neolm
from neolm.core.errors import InputError
from neolm.finetuning.config import Task
from neolm.tables.benchmarks import BENCHMARKS, benchmark_file, missing_file, open_benchmark
from neolm.tables.choices import choice_columns, read_choices
from neolm.tables.examples import read_examples

Command = Callable[..., tuple[int, str, str]]
HEADS = {
    "glue/cola": "",
    "glue/sst2": "sentence\tlabel\n",
    "glue/mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
    "glue/stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
    "glue/qnli": "index\tquestion\tsentence\tlabel\n",
    "glue/rte": "index\tsentence1\tsentence2\tlabel\n",
    "glue/wnli": "index\tsentence1\tsentence2\tlabel\n",
}
ROWS = {
    "glue/cola": 'gj04\t0\t*\t"He said no.\n',
    "glue/sst2": '" a cold sea \t1\n',
    "glue/mrpc": '1\t10\t11\t" He said so .\tHe said " so .\n',
    "glue/stsb": '0\tg\tf\t2012\t1\tn\tn\t"A sea is.\tA sea.\t3.800\n',
    "glue/qnli": '0\t"What is it?\tIt is.\tentailment\n',
    "glue/rte": '0\tThe sea.\t"A sea.\tnot_entailment\n',
    "glue/wnli": '0\tThe sea.\t"A sea.\t1\n',
}
FOUND = {
    "glue/cola": ('"He said no.', None, "unacceptable"),
    "glue/sst2": ('" a cold sea ', None, "positive"),
    "glue/mrpc": ('" He said so .', 'He said " so .', "equivalent"),
    "glue/stsb": ('"A sea is.', "A sea.", "3.800"),
    "glue/qnli": ('"What is it?', "It is.", "entailment"),
    "glue/rte": ("The sea.", '"A sea.', "not_entailment"),
    "glue/wnli": ("The sea.", '"A sea.', "entailment"),
}
OBJECTS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str]]]] = {
    "superglue/boolq": ({"question": "q", "passage": "p", "label": True, "idx": 0}, [("q", "p", "true")]),
    "superglue/cb": ({"premise": "p", "hypothesis": "h", "label": "neutral"}, [("p", "h", "neutral")]),
    "superglue/rte": ({"premise": "p", "hypothesis": "h", "label": "entailment"}, [("p", "h", "entailment")]),
    "superglue/wic": (
        {"word": "w", "sentence1": "a", "sentence2": "b", "label": False},
        [("w: a", "w: b", "false")],
    ),
    "superglue/multirc": (
        {
            "passage": {
                "text": "p",
                "questions": [{"question": "q", "answers": [{"text": "x", "label": 0}, {"text": "y", "label": 1}]}],
            }
        },
        [("p", "q x", "false"), ("p", "q y", "true")],
    ),
}


def test_the_tasks_are_those_of_the_setting() -> None:
    assert {*BENCHMARKS} == {name for name in get_args(Task) if "/" in name}
    assert {*BENCHMARKS} == {*HEADS, *OBJECTS, "superglue/copa"}


@pytest.mark.parametrize("name", HEADS)
def test_glue_files(name: str, tmp_path: Path) -> None:
    folder = tmp_path / BENCHMARKS[name].folder
    folder.mkdir()
    with gzip.open(folder / "train.tsv.gz", "wb") as file:
        file.write((HEADS[name] + ROWS[name] * 3).encode())
    path = benchmark_file(name, tmp_path, "train")
    assert path == folder / "train.tsv.gz"
    assert benchmark_file(name, folder, "train") == path  # the folder of the task itself
    second = "second" if BENCHMARKS[name].pair else None
    found = read_examples(open_benchmark(name, path), "text", "label", second)
    assert len(found) == 3
    text, other, label = FOUND[name]
    assert (found.texts[2], found.labels[2]) == (text, label)
    assert (found.seconds and found.seconds[2]) == other


@pytest.mark.parametrize("name", OBJECTS)
def test_superglue_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    given, expected = OBJECTS[name]
    path.write_text(json.dumps(given) + "\n", encoding="utf-8")
    found = read_examples(open_benchmark(name, path), "text", "label", "second")
    assert list(zip(found.texts, found.seconds or [], found.labels, strict=True)) == expected


def test_copa(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    row = {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1}
    path.write_text("\n".join(json.dumps({**row, "label": label}) for label in (0, 1)), encoding="utf-8")
    table = open_benchmark("superglue/copa", path)
    (_, one) = read_choices(table, choice_columns(table, "text", (), "second"), "label").choices
    assert (one.context, one.options, one.answer, one.before) == ("p", ("a", "b"), 1, "What was the cause? ")


def test_a_missing_file_is_one_line_with_the_names(tmp_path: Path) -> None:
    (tmp_path / "QNLI").mkdir()
    (tmp_path / "QNLI" / "dev.tsv").write_text("x")
    assert benchmark_file("glue/qnli", tmp_path, "train") is None
    message = str(missing_file("glue/qnli", tmp_path))
    assert "looked for QNLI/train.tsv, also .gz, .zst, .xz, .bz2; there is only QNLI/dev.tsv" in message
    with pytest.raises(InputError, match="this is not a folder"):
        benchmark_file("glue/qnli", tmp_path / "QNLI" / "dev.tsv", "train")


def test_a_benchmark_is_scored_as_it_defines(base: Path, tmp_path: Path, neolm_: Command) -> None:
    folder = tmp_path / "glue" / "MRPC"
    folder.mkdir(parents=True)
    pairs = [("the sea", "the water", 1), ("the sea", "a clock", 0), ("the day", "a clock", 1), ("the day", "sea", 0)]
    rows = [f"{label}\t1\t2\t{'cold ' * (n % 3)}{a}\t{b}\n" for n in range(16) for a, b, label in pairs]
    (folder / "train.tsv").write_text(HEADS["glue/mrpc"] + "".join(rows), encoding="utf-8")
    held_out = [*rows[:7], "1\t1\t2\tthe sea\tsea\n"]
    (folder / "dev.tsv").write_text(HEADS["glue/mrpc"] + "".join(held_out), encoding="utf-8")
    output = tmp_path / "run"
    code, _, err = neolm_(
        "finetune", base, "--task", "glue/mrpc", "--train", tmp_path / "glue", "--output", output, *QUICK,
        "finetune.tfidf=false",
    )  # fmt: skip
    assert code == 0, err
    scores = json.loads((output / "finetune" / "results.json").read_text())["benchmark"]["scores"]
    texts = [tuple(row.rstrip("\n").split("\t")[3:]) for row in held_out]
    said = [one["label"] == "equivalent" for one in neolm.predict(output, texts)]
    gold = [row[0] == "1" for row in held_out]
    assert scores["f1"] == pytest.approx(sklearn.metrics.f1_score(gold, said))
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(gold, said))
    assert "glue/mrpc, as the benchmark defines it, of the" in err


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("glue/mnli", "must be 'classification', 'pair',"),
        ("glue/rte", "there are no training examples of glue/rte: looked for RTE/train.tsv"),
    ],
)
def test_wrong_names(base: Path, tmp_path: Path, neolm_: Command, task: str, message: str) -> None:
    code, _, err = neolm_("finetune", base, "--task", task, "--train", tmp_path, "--output", tmp_path / "run")
    assert code == 2
    assert message in err.splitlines()[-1]
