"""The stages `pretrain` and `model`."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from neolm.models.model_config import ModelConfig
from neolm.training import pretrain as stage
from neolm.training import pretrain_task
from neolm.training.pretrain_config import PretrainConfig

MODEL = ModelConfig(family="gpt2", hidden_size=16, num_layers=1, num_heads=2)


def config(**settings: Any) -> PretrainConfig:
    small = {"steps": 4, "sequence_length": 16, "batch_size": 2, "validate_every": 2, "device": "cpu"}
    return PretrainConfig(**{**small, **settings})


def test_a_lost_best_checkpoint_is_reported(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(steps=6, validate_every=1, learning_rate=20.0, warmup_steps=6, optimiser="muon")  # diverges
    counts = stage.pretrain(run_directory, MODEL, settings, seed=1).counts
    assert counts["best_step"] < 6
    for directory in (run_directory / "pretrain" / "checkpoints").glob("best-*"):
        shutil.rmtree(directory)
    assert stage.build_model(run_directory, settings).counts["step"] == 6
    said = capsys.readouterr().err
    assert f"the best checkpoint, of step {counts['best_step']}, is missing or damaged" in said
    assert "the weights of step 6 are used" in said


def test_without_a_validation_the_last_step_is_the_best(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain_task, "validation_batches", lambda *arguments: [])
    assert stage.pretrain(run_directory, MODEL, config(), seed=1).counts["best_step"] is None
    stage.build_model(run_directory, config())
    assert "no validation loss was measured: the weights of step 4 are used" in capsys.readouterr().err


def test_kept_kernels_are_limited_before_the_first_product(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(limit, raising=False)
    found = []

    def measure(*arguments: object) -> float:
        found.append(os.environ.get(limit))
        return 1e9

    monkeypatch.setattr(stage, "matrix_ceiling", measure)
    stage.pretrain(run_directory, MODEL, config(), seed=1)
    assert found == ["256"]
