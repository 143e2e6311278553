"""Switches of torch around a training."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from neolm.models.model_config import ModelConfig
from neolm.training import pretrain as stage
from neolm.training.pretrain_config import PretrainConfig


def test_the_switches_are_set_before_the_first_product(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_directory: Path
) -> None:
    """cuBLAS reads its workspace setting at its first product, which is that of the speed measurement."""
    seen: list[Any] = []

    def measure(device: str, dtype: torch.dtype) -> float:
        seen.append((os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.get_float32_matmul_precision()))
        return 1e9

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(stage, "matrix_ceiling", measure)
    model = ModelConfig(family="gpt2", hidden_size=16, num_layers=1, num_heads=2)
    config = PretrainConfig(steps=1, sequence_length=16, batch_size=2, deterministic=True, tf32=True, device="cpu")
    stage.pretrain(run_directory, model, config, seed=1)
    assert seen == [(":4096:8", "high")]
