"""The unigram entropy of shards, and the alarm about a training that stays there."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import V, training

from neolm.data import token_counts
from neolm.data.shards import TokenShards
from neolm.models.model_config import ModelConfig
from neolm.training import pretrain as stage
from neolm.training.config import TrainConfig
from neolm.training.loop import train
from neolm.training.objective import CausalLanguageModelling, Objective
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.unigram import UnigramAlarm, unigram_entropy

ENTROPY = 6.93


def shards(directory: Path, *files: list[int]) -> TokenShards:
    for number, tokens in enumerate(files):
        (directory / f"train-{number:05d}.bin").write_bytes(np.array(tokens, "<u2").tobytes())
    return TokenShards(directory, "train", 300)


def test_the_entropy_by_hand(tmp_path: Path) -> None:
    found = unigram_entropy(shards(tmp_path, [7] * 4 + [9], [299, 299, 11]), 300)
    assert found == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8))


def test_the_entropy_of_a_large_split_is_that_of_a_sample_from_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0).zipf(1.5, size=60_000) % 200
    draws[30_000:] += 64  # the second half has other tokens
    read: list[int] = []
    split = shards(tmp_path, draws[:25_000].tolist(), draws[25_000:].tolist())
    whole = unigram_entropy(split, 300)
    monkeypatch.setattr(token_counts, "MAX_TOKENS", 20_000)
    monkeypatch.setattr(split, "read", lambda start, size: read.append(size) or TokenShards.read(split, start, size))
    assert unigram_entropy(split, 300) == pytest.approx(whole, abs=0.05)
    assert sum(read) <= 20_000


class TwoTerms(CausalLanguageModelling):
    """Terms as of BERT, of which the first is watched."""

    def __init__(self) -> None:
        super().__init__(weights={"masked_tokens": 1.0, "next_sentence": 1.0})


def first_line(losses: list[float], key: str = "loss", entropy: float | None = ENTROPY, **settings: Any) -> str | None:
    """What the alarm says about `losses`, of the steps from 1 on."""
    config = TrainConfig(**{"steps": 10_000, "warmup_steps": 100, **settings})
    objective: Objective = CausalLanguageModelling() if key == "loss" else TwoTerms()
    alarm = UnigramAlarm(entropy, objective, config)
    said = [line for step, loss in enumerate(losses, 1) if (line := alarm.observe(step, {key: loss})) is not None]
    assert len(said) <= 1
    return said[0] if said else None


def noisy(loss: float, steps: int, slope: float = 0.0) -> list[float]:
    generator = random.Random(1)
    return [loss - slope * step + generator.gauss(0, 0.1) for step in range(steps)]


@pytest.mark.parametrize("loss", [6.85, 6.93, 7.02])
def test_a_loss_at_the_entropy_is_reported_at_step_200(loss: float) -> None:
    line = first_line(noisy(loss, 1000), optimiser="lamb", learning_rate=0.00176)
    assert line is not None
    assert line.startswith(f"step 200: the loss of {loss:.1f}"[:-1])
    assert "is at the unigram entropy of the text, 6.93 nats: so far, the model has only learnt how frequent" in line
    assert "Try a lower learning_rate (now 0.00176), a longer warm-up (now 100 steps; post-norm models" in line
    assert "optimiser=adamw or muon (now lamb), or, for an encoder, model.initialisation=informed" in line
    assert "\n" not in line


def test_a_loss_above_the_entropy_may_need_a_higher_rate() -> None:
    line = first_line(noisy(9.0, 300, slope=1e-4))
    assert line is not None
    assert "is above the unigram entropy of the text, 6.93 nats: so far, the model has not even learnt how" in line
    assert "a lower learning_rate (now 0.0006; a higher one if the loss falls smoothly but slowly)" in line


@pytest.mark.parametrize(
    "losses",
    [
        noisy(6.93, 199),  # too early
        noisy(6.6, 1000),
        noisy(9.0, 1000, slope=0.01),  # passes the entropy at step 207
        [math.nan] * 1000,
    ],
)
def test_a_healthy_training_is_not_reported(losses: list[float]) -> None:
    assert first_line(losses) is None


def test_the_warm_up_excuses_a_loss_that_falls_slowly() -> None:
    falling = noisy(9.0, 1000, slope=0.002)
    assert "step 200: " in (first_line(falling) or "")
    assert first_line(falling, warmup_steps=2000) is None
    line = first_line(noisy(6.93, 1000), warmup_steps=2000)
    assert line is not None
    assert line.startswith("step 200: ")
    assert "The warm-up ends at step 2000; if this lasts, try a lower learning_rate" in line


def test_the_first_of_several_terms_is_watched() -> None:
    assert first_line(noisy(6.93, 300), key="masked_tokens_loss")
    assert first_line(noisy(6.93, 300), key="next_sentence_loss") is None
    assert first_line(noisy(6.93, 300), entropy=None) is None


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_bad_learning_rate_is_reported_once_also_over_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log_every: int
) -> None:
    settings = {"dropout": 0.0, "steps": 230, "validate_every": 1000, "checkpoint_every": 100, "log_every": log_every}
    for name, rate, reported in (("bad", 3.0, 1), ("good", 1e-2, 0)):
        (tmp_path / name).mkdir()
        made = training(tmp_path / name, learning_rate=rate, **settings)
        train(replace(made, unigram_entropy=math.log(V)))
        said = capsys.readouterr().err
        assert said.count("step 200: the loss of ") == said.count("unigram entropy") == reported, said
    (tmp_path / "bad" / "checkpoints" / "step-00000230").rename(tmp_path / "gone")
    resumed = training(tmp_path / "bad", learning_rate=3.0, **settings)
    train(replace(resumed, unigram_entropy=math.log(V)))  # from step 200
    said = capsys.readouterr().err
    assert "resuming at step 200" in said
    assert "unigram entropy" not in said


def test_a_pretraining_states_the_entropy_of_its_text(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = PretrainConfig(
        steps=205, sequence_length=16, batch_size=2, device="cpu", warmup_steps=10, learning_rate=1e-6, log_every=50
    )
    model = ModelConfig(family="gpt2", hidden_size=16, num_layers=1, num_heads=2)
    counts = stage.pretrain(run_directory, model, config, seed=1).counts
    entropy = unigram_entropy(TokenShards(run_directory / "shards", "train", 300), 300)
    assert counts["unigram_entropy"] == pytest.approx(entropy)
    said = capsys.readouterr().err
    assert f"; unigram entropy {entropy:.2f} nats\n" in said
    assert "step 200: the loss of " in said
