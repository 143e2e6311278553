"""Frozen parameters in THE loop: they stay as they are, cost no state, and a run with them resumes bit for bit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import T, V, at_step, losses, numbers, training, weights

from neolm.core.errors import InputError, InterruptedRun
from neolm.models.adapters import add_lora, lora_layers
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import last_checkpoint
from neolm.training.ema import ExponentialMovingAverage
from neolm.training.loop import train
from neolm.training.optimiser import build_optimisers
from neolm.training.precision import MixedPrecision
from neolm.training.run import Training
from neolm.training.state import TrainingState, load_weights

FROZEN = ("embedding", "positions", "blocks.0")
OPTIMISERS = [{}, {"optimiser": "muon"}, {"optimiser": "lamb"}, {"bias_correction": False}]


def partly_frozen(directory: Path, precision: str = "float32", **settings: Any) -> Training:
    """A training with weight decay, whose embeddings and first block are frozen."""
    directory.mkdir(exist_ok=True)
    run = training(directory, precision, **{"weight_decay": 0.5, **settings})
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", OPTIMISERS, ids=str)
def test_frozen_parameters_stay_bit_for_bit(tmp_path: Path, precision: str, settings: dict[str, Any]) -> None:
    run = partly_frozen(tmp_path, precision, **settings)
    before = weights(run)
    train(run)
    for name, value in weights(run).items():
        assert torch.equal(value, before[name]) is name.startswith(FROZEN), name
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


@pytest.mark.parametrize("settings", OPTIMISERS, ids=str)
def test_they_have_no_state(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = partly_frozen(tmp_path, **settings)
    trained = {id(p) for p in run.model.parameters() if p.requires_grad}
    optimisers = build_optimisers(run.model, run.config)
    groups = [group["params"] for optimiser in optimisers for group in optimiser.param_groups]
    assert sorted(id(p) for members in groups for p in members) == sorted(trained)
    state = TrainingState(run.model, run.config, torch.bfloat16)
    for parameter in state.weights.working.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    state.weights.gather()
    state.weights.finish(1.0, None)
    seen = []
    for _ in state.weights.hand_over():
        seen += [id(p) for p in run.model.parameters() if p.grad is not None]
    assert sorted(seen) == sorted(trained)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9, "final": "average"}], ids=str)
def test_a_run_resumes_bit_for_bit_also_without_its_base(
    tmp_path: Path, precision: str, settings: dict[str, Any]
) -> None:
    undisturbed = partly_frozen(tmp_path / "a", precision, **settings)
    train(undisturbed)
    killed = partly_frozen(tmp_path / "b", precision, **settings)
    with pytest.raises(InterruptedRun):
        train(replace(killed, objective=at_step(7, lambda: os.kill(os.getpid(), signal.SIGINT))))
    resumed = partly_frozen(tmp_path / "b", precision, **settings)
    resumed.model.initialise(99)  # what is frozen comes from the checkpoint too
    train(resumed)
    assert numbers(tmp_path / "b") == numbers(tmp_path / "a")
    expected = weights(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    if settings:
        for run in (undisturbed, resumed):
            checkpoint = last_checkpoint(run.checkpoints, "step")
            assert checkpoint is not None
            load_weights(run.model, checkpoint, "average")
        found = weights(resumed)
        for name, value in weights(undisturbed).items():
            assert torch.equal(value, found[name]), name
            assert torch.equal(value, expected[name]) is name.startswith(FROZEN), name


def test_a_frozen_parameter_in_the_type_of_the_passes_is_not_copied(tmp_path: Path) -> None:
    model = partly_frozen(tmp_path).model
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    precision = MixedPrecision(model, torch.bfloat16)
    precision.refresh()
    for (name, own), working in zip(model.named_parameters(), precision.working.parameters(), strict=True):
        assert working.dtype == torch.bfloat16
        assert (own.data_ptr() == working.data_ptr()) is name.startswith(FROZEN), name
        assert working.requires_grad == own.requires_grad


def test_an_average_has_no_copy_of_a_frozen_parameter(tmp_path: Path) -> None:
    model = partly_frozen(tmp_path).model
    average = ExponentialMovingAverage(model, 0.5)
    for name, parameter in model.named_parameters():
        assert (average.tensors[name].data_ptr() == parameter.data_ptr()) is name.startswith(FROZEN), name


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    run = partly_frozen(tmp_path)
    run.model.head.weight.data = run.model.head.weight.data.clone()
    run.model.norm.weight.data = run.model.norm.weight.data.half()
    with pytest.raises(InputError, match=r"norm\.weight is torch\.float16; what is trained must be float32"):
        TrainingState(run.model, run.config, torch.bfloat16)
    run.model.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train: all parameters of the model are frozen"):
        TrainingState(run.model, run.config, torch.float32)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", OPTIMISERS[:3], ids=str)
def test_adapters_are_trained_and_the_model_is_not(tmp_path: Path, precision: str, settings: dict[str, Any]) -> None:
    run = training(tmp_path, precision, dropout=0.0, **{"steps": 30, "weight_decay": 0.1, **settings})
    add_lora(run.model, 2, 4.0, 0.1, ("query", "value", "output", "expand", "contract"))
    before = weights(run)
    train(run)
    changed = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * 2 * 5
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert all(len(layer.lora_a) == len(layer.parts) for layer in lora_layers(run.model).values())


def test_lamb_scales_an_adapter_as_one_matrix() -> None:
    config = decoder_config(
        "gpt-neo", vocab_size=V, hidden_size=16, num_layers=1, num_heads=2, max_position_embeddings=T
    )
    model = add_lora(Decoder(config), rank=2)
    settings = training(Path(), optimiser="lamb").config
    (optimiser,) = build_optimisers(model, settings)
    assert {group["blocks"] for group in optimiser.param_groups} == {1}
