"""The command line under torchrun: the same run, resumed after a kill, and mistakes that are said once."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torchrun_command import mistake, small_recipe, torchrun, worker

from neolm.core.errors import SettingError
from neolm.core.metrics import read_metrics
from neolm.data.batch_sizes import BatchSizes
from neolm.pipeline import run
from neolm.training.parallel_config import ParallelConfig, check_ranks


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small_recipe(tmp_path_factory.mktemp("a run")))


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(output / "pretrain" / "metrics.jsonl") if "loss" in row]


def test_a_killed_rank_comes_back_and_nothing_changes(one: Path) -> None:
    output = one.with_name("two")
    settings = [str(one.with_name("recipe.yaml")), f"output={output}", "pretrain.parallel.shard=2"]
    process = torchrun("pretrain", *settings, restarts=1)
    os.kill(worker(process, output / "pretrain" / "checkpoints"), signal.SIGKILL)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed == f"{output / 'model'}\n"
    assert re.search(r"resuming at step \d+ of 30|pretrain: up to date", said), said
    assert losses(output) == pytest.approx(losses(one), abs=1e-5)
    assert json.loads((output / "pretrain" / "manifest.json").read_text())["counts"]["ranks"] == 2


@pytest.mark.slow  # torchrun waits 30 s for the rank before it kills it
@pytest.mark.parametrize("plan", ["shard=1", "shard=2", "tensor=2", "pipeline=2"])
def test_a_rank_that_stops_answering_is_named(one: Path, plan: str) -> None:
    output = one.with_name(f"stopped with {plan}")
    settings = [
        str(one.with_name("recipe.yaml")),
        f"output={output}",
        "pretrain.parallel.timeout=8",
        f"pretrain.parallel.{plan}",
    ]
    process = torchrun("pretrain", *settings, "pretrain.steps=100000")
    child = worker(process, output / "pretrain" / "checkpoints")
    os.kill(child, signal.SIGSTOP)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.kill(child, signal.SIGKILL)
            process.kill()
    lines = [text for text in said.splitlines() if text.startswith("neolm:")]
    assert lines[0].startswith("neolm: rank 1 ended or cannot be reached"), said
    assert lines[0].endswith("The same command resumes from the last checkpoint")
    assert list((output / "pretrain" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["pretrain.parallel.shard=3"], "pretrain.parallel.shard: shard 3 is 3 processes, which do not divide the 2 "),
        (
            ["pretrain.parallel.shard=2", "pretrain.parallel.tensor=2"],
            "pretrain.parallel.shard: shard 2 x tensor 2 is 4",
        ),
        (["pretrain.stepz=1"], ".*pretrain.stepz"),
        (
            ["study.cells.a.model.num_layers=1"],
            "study: its trainings run in one process each",
        ),
    ],
)
def test_a_mistake_is_said_once(one: Path, settings: list[str], line: str) -> None:
    found = mistake("pretrain", one.with_name("recipe.yaml"), f"output={one.with_name('bad')}", *settings)
    assert re.match(line, found)
    assert not one.with_name("bad").exists()


def test_other_commands_run_in_one_process(one: Path) -> None:
    environment = os.environ | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    command = [sys.executable, "-m", "neolm", "chat", str(one / "model")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("neolm: neolm chat runs in one process, not in 2: start it without torchrun.")


def test_settings_that_the_ranks_cannot_follow(one: Path) -> None:
    with pytest.raises(SettingError, match=r"parallel\.shard: shard 2 needs 2 processes: start with torchrun"):
        run(one.with_name("recipe.yaml"), ["pretrain.parallel.shard=2", f"output={one.with_name('none')}"])
    with pytest.raises(SettingError, match="a batch of 2 cannot be divided among 3 processes"):
        check_ranks(ParallelConfig(), BatchSizes(16, start=2, ramp=64), 3)
