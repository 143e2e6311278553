"""Fine-tuning over several processes: the losses and models of one process, and mistakes that are said once."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from task_ranks import CASES, tune, write_files
from torchrun_command import TESTS, mistake, torchrun, worker

from neolm.core.files import read_json
from neolm.core.metrics import read_metrics
from neolm.core.ranks import OneRank
from neolm.pipeline import run

SETTINGS = [
    *("finetune.epochs=8", "finetune.batch_size=7", "finetune.precision=float32", "finetune.learning_rate=2e-3"),
    *("finetune.log_every=1", "finetune.checkpoint_every=5", "finetune.patience=null", "finetune.tfidf=false"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("files")
    write_files(place)
    return place


def losses(directory: Path) -> list[float]:
    files = sorted(directory.rglob("metrics.jsonl"))
    return [value for file in files for row in read_metrics(file) for name, value in row.items() if "loss" in name]


def small_files(directory: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the candidates, and of the checkpoints of the end."""
    files = [path for path in directory.rglob("*.safetensors") if "checkpoints" not in path.parts]
    return {path.relative_to(directory).as_posix(): load_file(path) for path in files}


def the_model(directory: Path) -> dict[str, torch.Tensor]:
    """Its tensors without the biases of keys, which change no output: Adam makes large steps of their rounding."""
    found = load_file(directory / "model" / "model.safetensors")
    return {name: tensor for name, tensor in found.items() if not name.endswith("key.bias")}


def assert_close(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name in found.keys() - {"seconds"}:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shard", "cases"),
    [
        (2, ["lora", "search", "instruct"]),
        *(pytest.param(shard, [*CASES], marks=pytest.mark.slow) for shard in (1, 2)),
    ],
)
def test_tasks_are_trained_as_by_one_process(place: Path, tmp_path: Path, shard: int, cases: list[str]) -> None:
    process = torchrun(place, tmp_path / "two", shard, *cases, script=TESTS / "task_ranks.py")
    for case in cases:
        tune(case, place, tmp_path / "one", OneRank())
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    for case in cases:
        one, two = (tmp_path / ranks / case / "finetune" for ranks in ("one", "two"))
        assert losses(two) == pytest.approx(losses(one), abs=1e-5), case
        measured = {key for file in two.rglob("metrics.jsonl") for row in read_metrics(file) for key in row}
        assert CASES[case].get("method") == "probe" or "communication_share" in measured  # they trained together
        files = small_files(one)
        assert small_files(two).keys() == files.keys()
        for name, tensors in small_files(two).items():
            assert_close(tensors, files[name])
        found, expected = (read_json(directory / "results.json") for directory in (two, one))
        assert found["model"] == expected["model"], case
        assert found.get("search") == expected.get("search"), case
        assert read_json(two / "manifest.json")["counts"]["ranks"] == 2


def test_a_killed_run_goes_on_in_one_process(place: Path, tmp_path: Path) -> None:
    given = [str(place / "base"), "--task", "tokens", "--train", str(place / "tags.jsonl")]
    process = torchrun("finetune", *given, "--output", tmp_path / "two", *SETTINGS, "finetune.parallel.shard=2")
    os.kill(worker(process, tmp_path / "two" / "finetune" / "checkpoints"), signal.SIGKILL)
    section = {"task": "tokens", "train": given[-1]}
    recipe = {"seed": 1, "base": given[0], "finetune": section}
    run(recipe | {"output": str(tmp_path / "one")}, SETTINGS)
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert not (tmp_path / "two" / "model").exists()
    run(recipe | {"output": str(tmp_path / "two")}, SETTINGS)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert_close(the_model(tmp_path / "two"), the_model(tmp_path / "one"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["finetune.batch_size=1"], r"finetune\.batch_size: a batch of 1 cannot be divided among 2 processes"),
        (["finetune.train=nothing.csv"], r".*nothing\.csv"),
    ],
)
def test_a_mistake_is_said_once(place: Path, tmp_path: Path, settings: list[str], line: str) -> None:
    given = [str(place / "base"), "--train", str(place / "table.csv"), "--output", str(tmp_path / "bad")]
    assert re.match(line, mistake("finetune", *given, *SETTINGS, *settings))
