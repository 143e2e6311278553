"""Early stopping, what the best validation is, and learning rates that fall from layer to layer."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import training
from tiny_encoders import tiny_encoder

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import last_checkpoint
from neolm.training.loop import train
from neolm.training.optimiser import build_optimisers
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Training
from neolm.training.state import Progress

NAN = math.nan


def planted(directory: Path, measured: list[float], **settings: Any) -> Training:
    """A training that validates after each step, with these scores."""
    run = training(directory, validate_every=1, checkpoint_every=3, dropout=0.0, **settings)
    scores = dict(enumerate(measured, start=1))
    steps = iter(scores)
    return replace(run, criterion=lambda means: scores[next(steps)])


@pytest.mark.parametrize(
    ("scores", "patience", "stops", "best"),
    [
        ([5, 4, 3, 2, 1, 0], 1, 6, 6),
        ([5, 6, 4, 4, 4, 4], 1, 2, 1),  # the first that is no better
        ([5, 6, 4, 5, 5, 3], 2, 5, 3),  # two in a row; the one between them starts the count again
        ([5, 6, 4, 4, 3, 3], 2, 6, 5),  # an equal one is no better
        ([5, 6, 7, 8, 9, 9], None, 6, 1),
        ([NAN, NAN, 7, NAN, 6, 7], 3, 6, 5),  # NaN is never the best
        ([NAN, NAN, NAN, 1, 1, 1], 3, 3, None),
    ],
)
def test_patience(tmp_path: Path, scores: list[float], patience: int | None, stops: int, best: int | None) -> None:
    progress = train(planted(tmp_path, scores, steps=6, patience=patience))
    assert (progress.step, progress.best_step) == (stops, best)
    checkpoint = last_checkpoint(tmp_path / "checkpoints", "best")
    assert (checkpoint.step if checkpoint else None) == best
    final = last_checkpoint(tmp_path / "checkpoints", "step")
    assert final is not None
    assert final.step == stops


def test_the_count_survives_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [5.0, 3.0, 4.0, 4.0, 4.0, 4.0]
    whole = train(planted(tmp_path / "whole", scores, steps=6, patience=3))
    assert whole.step == 5
    train(planted(tmp_path / "parts", scores[:3], steps=3, patience=3))
    again = train(planted(tmp_path / "parts", [math.inf] * 3, steps=6, patience=3))
    # the second session's own scores are worse than 3 too: it stops after the two that were missing
    assert again.step == 5
    assert again.best_step == whole.best_step == 2
    assert "stopped at step 5: 3 validations in a row were no better than that of step 2" in capsys.readouterr().err


def test_a_training_that_has_stopped_is_not_continued(tmp_path: Path) -> None:
    first = train(planted(tmp_path, [1.0, 2.0, 2.0], steps=12, patience=2))
    again = train(planted(tmp_path, [], steps=12, patience=2))  # any validation would raise StopIteration
    assert again.step == first.step == 3


def test_checkpoints_of_older_versions_have_the_loss_as_score(tmp_path: Path) -> None:
    record = {"step": 4, "tokens": 1, "skipped": 0, "seconds": 1.0, "data_seconds": 0.0, "energy": {}, "best_loss": 2.5}
    progress = Progress(**{**record, "best_step": 4})
    assert progress.best_score is None
    assert progress.validations_since_best == 0


def factors(model: torch.nn.Module, **settings: Any) -> dict[str, float]:
    (optimiser,) = build_optimisers(model, PretrainConfig(steps=1, learning_rate=1.0, **settings))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["learning_rate_factor"] for group in optimiser.param_groups for p in group["params"]}


BUILD: dict[str, Callable[[], torch.nn.Module]] = {
    "decoder": lambda: Decoder(
        decoder_config(
            "gpt2",
            vocab_size=61,
            hidden_size=16,
            num_layers=3,
            num_heads=2,
            max_position_embeddings=16,
            tie_embeddings=False,
        )
    ),
    "encoder": lambda: tiny_encoder("bert", num_layers=3, head="sequence"),
}


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("optimiser", ["adamw", "lamb"])
def test_each_layer_learns_more_slowly_than_the_one_above_it(kind: str, optimiser: str) -> None:
    found = factors(BUILD[kind](), layer_decay=0.5, optimiser=optimiser)
    expected = {"head": 1.0, "pooler": 1.0, "blocks.2": 0.5, "blocks.1": 0.25, "blocks.0": 0.125}
    for name, factor in found.items():
        place = ".".join(name.split(".")[: 2 if ".blocks." in f".{name}" else 1]).removeprefix("trunk.")
        if "blocks" in name:
            place = "blocks." + name.split("blocks.")[1].split(".")[0]
        if "embedding" in name or "positions" in name or "token_types" in name:
            assert factor == 0.0625, name
        elif place in expected:
            assert factor == expected[place], name
    assert {0.5, 0.25, 0.125, 0.0625, 1.0} <= {*found.values()}


def test_without_layer_decay_all_learn_alike() -> None:
    assert {*factors(BUILD["encoder"]()).values()} == {1.0}


def test_layer_decay_changes_the_update(tmp_path: Path) -> None:
    runs = {
        decay: training(tmp_path / str(decay), dropout=0.0, steps=1, warmup_steps=0, layer_decay=decay)
        for decay in (1.0, 0.5)
    }
    start = {name: p.detach().clone() for name, p in runs[1.0].model.named_parameters()}
    moved = {}
    for decay, run in runs.items():
        train(run)
        moved[decay] = {n: float((p - start[n]).detach().abs().max()) for n, p in run.model.named_parameters()}
    name = next(name for name in start if "blocks.0" in name and name.endswith("weight") and start[name].dim() == 2)
    assert moved[0.5][name] == pytest.approx(0.25 * moved[1.0][name], rel=1e-3)


def test_muon_has_no_layer_decay() -> None:
    with pytest.raises(ValidationError, match="layer_decay is below 1, but muon has one learning rate"):
        PretrainConfig(steps=1, optimiser="muon", layer_decay=0.9)
