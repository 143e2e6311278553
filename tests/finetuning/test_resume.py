"""A fine-tuning that is killed at any moment ends with the same bits, through the real command."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_command
import pytest
from safetensors.torch import load_file
from topic_tables import QUICK

Topics = Callable[[str, int, int], Path]


@pytest.fixture
def dropping_base(base: Path, tmp_path: Path) -> Path:
    """The base with dropout, whose random state a resumed run must restore."""
    copy = tmp_path / "base"
    copy.mkdir()
    for file in base.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.1}))
    return copy


def arguments(base: Path, train: Path, output: Path) -> list[object]:
    settings = [
        *QUICK,
        "finetune.epochs=12",
        "finetune.checkpoint_every=5",
        "finetune.log_every=1",
        "finetune.patience=null",
    ]
    return ["finetune", base, "--train", train, "--output", output, *settings]


def outcome(output: Path) -> tuple[Any, Any, list[Any]]:
    measured = ("tokens_per_second", "mfu", "memory_bytes")
    lines = (output / "finetune" / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]
    weights = {name: tensor.tolist() for name, tensor in load_file(output / "model" / "model.safetensors").items()}
    found = json.loads((output / "finetune" / "results.json").read_text())
    found.pop("seconds")
    return weights, found, rows


def test_a_killed_run_ends_with_the_same_bits(dropping_base: Path, topics: Topics, tmp_path: Path) -> None:
    train = topics("train.csv", 100, 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = tmp_path / "said.txt"
    forked_command.finish(arguments(dropping_base, train, whole), said)
    metrics = killed / "finetune" / "metrics.jsonl"
    kills = 0
    for after in (0, 8, 40):  # rows of the metrics; 0: while the baselines are trained
        process = forked_command.start(arguments(dropping_base, train, killed), said)
        waited_for = (killed / "finetune" / "tfidf.safetensors") if after == 0 else metrics
        while process.is_alive():
            if waited_for.exists() and (not after or len(waited_for.read_bytes().splitlines()) > after):
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
        process.join()
    assert kills >= 2
    torn = killed / "finetune" / ".probe.safetensors.tmp"  # what a kill in the middle of a write leaves
    torn.write_bytes(b"half")
    assert "resuming at step" in forked_command.finish(arguments(dropping_base, train, killed), said)
    assert outcome(killed) == outcome(whole)
