"""Data that the model itself produces, and frozen models beside an objective."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import Calling, Counting, Terms, at_step, numbers, plain, training, weights
from torch import nn

from neolm.core.errors import InterruptedRun, NonFiniteError
from neolm.data.batch import Batch
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import last_checkpoint
from neolm.training.loop import train
from neolm.training.objective import Term
from neolm.training.run import Parallelism


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Rollouts:
    """Batches that depend on the weights; a stored one is returned again, as after a kill."""

    def __init__(self) -> None:
        self.stored: dict[int, Batch] = {}
        self.requested: list[int] = []

    def rollout(self, step: int, model: nn.Module) -> Batch:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.requested.append(step)
        if step not in self.stored:
            batch = Counting().batch(step)
            likeliest = model(batch["input_ids"]).argmax(-1)
            self.stored[step] = Batch({**batch, "labels": likeliest}, batch.examples)
        return self.stored[step]

    def documents(self, examples: Sequence[str]) -> list[str]:
        return [f"rollout {example}" for example in examples]


def test_rollouts_are_requested_in_turn_with_the_current_weights(tmp_path: Path) -> None:
    data = Rollouts()
    run = replace(training(tmp_path, "bfloat16", steps=6), data=data)
    before = weights(run)
    seen: list[torch.Tensor] = []

    def objective(model: Decoder, batch: Batch) -> Terms:
        seen.append(batch["labels"])
        return plain(model, batch)

    train(replace(run, objective=Calling(objective), validation=[]))
    assert data.requested == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(labels, data.stored[step]["labels"]) for step, labels in enumerate(seen, start=1))
    first = Decoder(run.model.config)
    first.load_state_dict({**before, "head.weight": before["embedding.weight"]})
    again = Rollouts()
    with torch.no_grad():
        again.rollout(1, first.to(torch.bfloat16).eval())
    assert torch.equal(again.stored[1]["labels"], data.stored[1]["labels"])


def test_a_run_on_rollouts_resumes_bit_for_bit(tmp_path: Path) -> None:
    runs = {}
    for name in ("undisturbed", "resumed"):
        (tmp_path / name).mkdir()
        data = Rollouts()
        if name == "resumed":
            with pytest.raises(InterruptedRun):
                train(replace(training(tmp_path / name), data=data, objective=at_step(6, interrupt)))
            assert data.requested == [1, 2, 3, 4, 5, 6]
        runs[name] = replace(training(tmp_path / name), data=data)
        train(runs[name])
    assert numbers(tmp_path / "undisturbed") == numbers(tmp_path / "resumed")
    first, second = (weights(run) for run in runs.values())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_nan_on_rollouts_is_reported_at_its_step(tmp_path: Path) -> None:
    def plant() -> None:
        with torch.no_grad():
            run.model.norm.weight[0] = float("nan")

    run = replace(training(tmp_path, log_every=100), data=Rollouts(), objective=at_step(3, plant), validation=[])
    with pytest.raises(NonFiniteError, match=r"step 3: .* The batch came from rollout 3\.0"):
        train(replace(run, parallelism=Parallelism(deferred=True)))


def test_frozen_models_are_placed_but_not_trained_and_not_saved(tmp_path: Path) -> None:
    reference = nn.Linear(4, 4)
    before = reference.weight.detach().clone()

    def objective(model: Decoder, batch: Batch) -> Terms:
        assert reference.weight.dtype == torch.bfloat16
        assert not reference.training
        penalty = reference(model.norm.weight[:4]).square().sum()
        return {"next_token": Term(plain(model, batch)["next_token"].total + penalty)}

    run = replace(training(tmp_path, "bfloat16", steps=4), objective=Calling(objective), frozen=[reference])
    train(run)
    assert torch.equal(reference.weight, before.bfloat16())
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    assert found.tensors("weights").keys() == weights(run).keys()
