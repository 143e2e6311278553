"""`neolm predict` over several processes writes the bytes of one process."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_encoders import write_classifier
from torchrun_command import mistake, rank_of, torchrun

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("a classifier"))


def table(path: Path, count: int, without: Sequence[int] = ()) -> Path:
    """Texts, of which those of the rows `without` are missing."""
    texts = [None if n in without else "the " * (n % 5) + "sea is cold" for n in range(count)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def test_the_file_is_that_of_one_process(model: Path, tmp_path: Path, neolm_: Command) -> None:
    source, one, two = table(tmp_path / "in.jsonl", 150, [3, 90]), tmp_path / "one.csv", tmp_path / "two.csv"
    process = torchrun("predict", model, "--input", source, "--output", two, "--batch-size", 8)
    code, _, expected = neolm_("predict", model, "--input", source, "--output", one, "--batch-size", 8)
    assert code == 2  # of the rows without a text
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert printed == ""
    assert two.read_bytes() == one.read_bytes()
    assert [line for line in said.splitlines() if line.startswith("predict:")] == expected.splitlines()[-1:]
    assert "exitcode  : 1" not in said


def test_a_killed_prediction_goes_on_in_one_process(model: Path, tmp_path: Path, neolm_: Command) -> None:
    source, one, two = table(tmp_path / "in.jsonl", 3000), tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    process = torchrun("predict", model, "--input", source, "--output", two, "--batch-size", 4)
    journal, deadline = two.with_name(".two.jsonl.journal"), time.monotonic() + 300
    while not journal.exists() or journal.stat().st_size < 10_000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(rank_of(process, 1), signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert not two.exists()
    code, _, said = neolm_("predict", model, "--input", source, "--output", two, "--batch-size", 4)
    assert code == 0
    assert "rows were done before; resuming at row" in said
    assert neolm_("predict", model, "--input", source, "--output", one, "--batch-size", 4)[0] == 0
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("rows", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_rows_than_processes(model: Path, tmp_path: Path, neolm_: Command, rows: int) -> None:
    source = tmp_path / "in.csv"
    source.write_text("\n".join(["text", *["the sea is cold"] * rows]) + "\n")
    process = torchrun("predict", model, "--input", source, "--batch-size", 1, ranks=3)
    code, expected, reason = neolm_("predict", model, "--input", source, "--batch-size", 1)
    printed, said = process.communicate(timeout=300)
    assert printed == expected
    assert (process.returncode == 0) == (code == 0), said
    assert reason.splitlines()[-1] in said.splitlines()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--input", "nothing.csv"], "nothing.csv: there is no such file"),
        (["the sea"], "predict: several processes need files: give --input TABLE, or start it without torchrun"),
    ],
)
def test_a_mistake_is_said_once(model: Path, given: list[str], line: str) -> None:
    assert mistake("predict", model, *given) == line
