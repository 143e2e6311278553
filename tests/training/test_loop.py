"""THE loop on a small model: accumulation, resuming, interruption, non-finite numbers."""

import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neolm.core.device import Choice
from neolm.core.errors import InterruptedRun, NonFiniteError
from neolm.data.batches import IGNORED, Batch
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import last_checkpoint
from neolm.training.config import PretrainConfig
from neolm.training.loop import Progress, Training, train
from neolm.training.losses import causal_language_modelling
from neolm.training.metrics import read_metrics

T, V = 16, 61


class Counting:
    """Batches of sequences that count up from a random start: learnable, and a function of the step."""

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        start = torch.randint(0, V, (8, 1), generator=generator)
        tokens = (start + torch.arange(T + 1)) % V
        labels = tokens[:, 1:].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORED  # uneven counts across micro-batches
        return Batch(tokens[:, :-1], labels)

    def documents(self, step: int, rows: slice = slice(None)) -> list[str]:
        return [f"document {step}.{row}" for row in range(8)[rows]]


def training(directory: Path, precision: str = "float32", dropout: float = 0.1, **settings: Any) -> Training:
    config = decoder_config(
        "gpt-neo",
        vocab_size=V,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_position_embeddings=T,
        window_size=4,
        residual_dropout=dropout,
    )
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "steps": 12,
        "sequence_length": T,
        "batch_size": 8,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "checkpoint_every": 4,
        "validate_every": 4,
        "log_every": 1,
    }
    return Training(
        model=Decoder(config).initialise(0),
        objective=causal_language_modelling,
        data=Counting(),
        validation=[Counting().batch(10_001), Counting().batch(10_002)],
        config=PretrainConfig(**(defaults | settings)),
        directory=directory,
        device=Choice("cpu", "test"),
        precision=Choice(precision, "test"),
        ceiling=1e11,
    )


def losses(directory: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(directory / "metrics.jsonl") if "loss" in row]


def numbers(directory: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock said."""
    timed = {"tokens_per_second", "mfu"}
    return [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(directory / "metrics.jsonl")]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(tmp_path: Path, precision: str) -> None:
    run = training(tmp_path, precision, dropout=0.0, steps=80)
    progress = train(run)
    found = losses(tmp_path)
    assert found[0] == pytest.approx(math.log(V), abs=0.1)
    assert found[-1] < 1.0
    assert progress.best_loss is not None
    assert progress.best_loss < 1.0
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_metrics_have_the_promised_keys(tmp_path: Path) -> None:
    train(training(tmp_path, log_every=5))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 5, 10, 12]
    assert set(steps[0]) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu"}
    assert [set(row) for row in rows if "loss" not in row] == [{"step", "validation_loss"}] * 3
    assert steps[-1]["tokens"] == 12 * 8 * T
    assert steps[0]["learning_rate"] == pytest.approx(5e-3)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_accumulation_equals_one_big_batch(tmp_path: Path, size: int) -> None:
    whole, parts = training(tmp_path / "a", dropout=0.0), training(tmp_path / "b", dropout=0.0, micro_batch_size=size)
    for run in (whole, parts):
        run.directory.mkdir()
        train(run)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("precision", "optimiser"), [("float32", "adamw"), ("bfloat16", "adamw"), ("bfloat16", "muon")]
)
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, precision: str, optimiser: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = training(tmp_path / "a", precision, optimiser=optimiser)
    train(undisturbed)

    class Interrupting(Counting):
        def batch(self, step: int) -> Batch:
            if step == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step)

    with pytest.raises(InterruptedRun, match="saved at step 7 of 12; the same command resumes"):
        train(replace(training(tmp_path / "b", precision, optimiser=optimiser), data=Interrupting()))
    torch.rand(1000)  # whatever a new process did with the random state
    resumed = training(tmp_path / "b", precision, optimiser=optimiser)
    progress = train(resumed)
    assert progress.step == 12
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(undisturbed).items())


def test_what_lies_beyond_the_resumed_step_is_discarded(tmp_path: Path) -> None:
    train(training(tmp_path, steps=4))
    checkpoints = tmp_path / "checkpoints"
    for kind in ("step", "best"):  # of a run that had come further, its last full checkpoint damaged
        shutil.copytree(checkpoints / f"{kind}-00000004", checkpoints / f"{kind}-00000099")
    (checkpoints / "step-00000099" / "weights.safetensors").unlink()
    train(training(tmp_path, steps=8))
    assert not list(checkpoints.glob("*-00000099"))
    assert {p.name for p in checkpoints.glob("step-*")} == {"step-00000004", "step-00000008"}


def test_a_finished_run_does_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = training(tmp_path)
    train(first)
    before = numbers(tmp_path)
    again = training(tmp_path)
    assert train(again).step == 12
    assert numbers(tmp_path) == before
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())


def test_the_best_weights_are_those_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    run = training(tmp_path, steps=24)
    progress = train(run)
    measured = {r["step"]: r["validation_loss"] for r in numbers(tmp_path) if "validation_loss" in r}
    best = last_checkpoint(run.checkpoints, "best")
    assert best is not None
    assert best.step == min(measured, key=lambda step: measured[step]) == progress.best_step


def test_a_nan_is_reported_with_step_documents_and_layer(tmp_path: Path) -> None:
    class Planting(Counting):
        def batch(self, step: int) -> Batch:
            if step == 6:
                with torch.no_grad():
                    run.model.blocks[1].mlp.contract.weight[0, 0] = float("nan")
            return super().batch(step)

    run = replace(training(tmp_path, micro_batch_size=4), data=Planting())
    with pytest.raises(NonFiniteError) as caught:
        train(run)
    text = str(caught.value)
    assert text.startswith("step 6: ")
    assert "layer blocks.1.mlp.contract" in text
    assert "document 6.0, document 6.1, document 6.2, document 6.3." in text
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    assert found.step == 4  # the last good one is intact
    assert losses(tmp_path)[-1] == pytest.approx(losses(tmp_path)[-1])
    assert len(losses(tmp_path)) == 5


def test_a_gradient_that_overflows_is_reported(tmp_path: Path) -> None:
    def exploding(model: Decoder, batch: Batch) -> Any:
        loss = causal_language_modelling(model, batch)
        return replace(loss, total=loss.total * 1e38)

    run = training(tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 1: .*(gradient of|output of layer|loss itself)"):
        train(replace(run, objective=exploding))


def test_every_target_masked_is_a_step_of_zero_weight(tmp_path: Path) -> None:
    class Masked(Counting):
        def batch(self, step: int) -> Batch:
            batch = super().batch(step)
            return Batch(batch.inputs, torch.full_like(batch.labels, IGNORED))

    run = replace(training(tmp_path, steps=1, weight_decay=0.0), data=Masked(), validation=[])
    before = weights(run)
    train(run)
    assert losses(tmp_path) == [0.0]
    assert all(torch.equal(before[name], value) for name, value in weights(run).items())


def test_progress_as_state() -> None:
    progress = Progress(step=3, tokens=9, best_loss=1.5, best_step=2)
    assert Progress(**progress.state()) == progress
