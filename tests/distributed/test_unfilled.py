"""A divided model is never whole in any process: each writes its part of the weights, one parameter at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchrun_command import small_recipe, torchrun

from neolm.core.metrics import read_metrics
from neolm.models.config import decoder_config
from neolm.models.stored_model import build, build_unfilled
from neolm.pipeline import run
from neolm.training.state import fill

SCRIPT = Path(__file__).parents[1] / "unfilled_ranks.py"


def growth(axis: str, size: int) -> float:
    process = torchrun(axis, size, script=SCRIPT)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return float(printed)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "gpt-neox"])
def test_the_weights_are_those_of_a_whole_model(family: str) -> None:
    config = decoder_config(family, vocab_size=61, hidden_size=16, num_layers=2, num_heads=2)
    expected, model = build(config).initialise(5), build_unfilled(config)
    with torch.device("meta"):
        shapes = build(config)
    fill(model, shapes.initial_weights(5))
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert (model.head.weight is model.embedding.weight) == (family != "gpt-neox")


@pytest.mark.parametrize("axis", ["tensor", "pipeline", "shard"])
def test_parts_and_averages_are_those_of_the_whole_model(axis: str) -> None:
    assert growth(axis, 16) > 0  # the ranks compare all values


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["tensor", "pipeline", "shard"])
def test_no_process_holds_the_whole_model(axis: str) -> None:
    """51M parameters, of which a process has half; the largest parameter is 8% of them."""
    assert growth(axis, 720) < 0.8


@pytest.mark.parametrize(
    "plan",
    ["tensor=2", pytest.param("shard=2", marks=pytest.mark.slow), pytest.param("pipeline=2", marks=pytest.mark.slow)],
)
def test_a_base_is_read_in_parts(tmp_path: Path, plan: str) -> None:
    recipe = small_recipe(tmp_path, learning_rate=1e-2)
    base, places = run(recipe), [tmp_path / name for name in ("one more", "two")]
    settings = [
        f"base={base / 'model'}",
        "model=null",
        "tokenizer=null",
        "pretrain.steps=6",
        "pretrain.learning_rate=1e-4",
    ]
    run(recipe, [*settings, f"output={places[0]}"])
    process = torchrun("run", recipe, *settings, f"output={places[1]}", f"pretrain.parallel.{plan}")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    first, second = (
        [row["loss"] for row in read_metrics(place / "pretrain" / "metrics.jsonl") if "loss" in row] for place in places
    )
    assert first == pytest.approx(second, abs=1e-5)
    start = [row["loss"] for row in read_metrics(base / "pretrain" / "metrics.jsonl") if "loss" in row]
    assert first[0] < start[0] - 0.1
