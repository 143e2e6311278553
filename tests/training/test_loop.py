"""THE loop on a small model: accumulation, resuming, interruption, non-finite numbers."""

import math
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_training import Calling, Counting, T, Terms, V, at_step, losses, numbers, plain, scaled, training, weights

from neolm.core.device import Choice, compiler
from neolm.core.errors import InterruptedRun, NonFiniteError
from neolm.core.metrics import read_metrics
from neolm.data.batch import IGNORED, Batch
from neolm.models.decoder import Decoder
from neolm.training.checkpoint import last_checkpoint
from neolm.training.loop import recompute_blocks, train
from neolm.training.loss_scale import LossScale
from neolm.training.spikes import SpikeFilter
from neolm.training.state import Progress, load_weights


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
    keys = {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu", "memory_bytes"}
    assert all(set(row) == keys for row in steps)
    assert 10**6 < 0.99 * steps[0]["memory_bytes"] <= steps[-1]["memory_bytes"]  # the kernel counts pages inexactly
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


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, muon": {"precision": "bfloat16", "optimiser": "muon"},
    "bfloat16, lamb": {"precision": "bfloat16", "optimiser": "lamb", "no_decay": ("norm", "bias")},
    "float16, lamb": {
        **{"precision": "float16", "optimiser": "lamb", "loss_scale": 2.0**20, "loss_scale_window": 2},
        **{"bias_correction": False, "ema_decay": 0.9},
    },
    "without bias correction": {"bias_correction": False},
    "float16 with a scale that moves": {"precision": "float16", "loss_scale": 2.0**20, "loss_scale_window": 2},
    "average": {"ema_decay": 0.9},
    "spikes": {"skip_spikes": 1.0001, "steps": 24},
    "growing batches": {"batch_ramp_start": 2, "batch_ramp_tokens": 20 * T},
    "recomputed": {"activation_checkpointing": True},
    "written synchronously": {"asynchronous_checkpoints": False},
    "deterministic": {"deterministic": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = training(tmp_path / "a", **settings)
    train(undisturbed)
    total = undisturbed.config.total_steps

    with pytest.raises(InterruptedRun, match=f"saved at step {total - 5} of {total}; the same command resumes"):
        train(replace(training(tmp_path / "b", **settings), objective=at_step(total - 5, interrupt)))
    torch.rand(1000)  # whatever a new process did with the random state
    resumed = training(tmp_path / "b", **settings)
    progress = train(resumed)
    assert progress.step == total
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(undisturbed).items())
    ends = [last_checkpoint(run.checkpoints, "step") for run in (undisturbed, resumed)]
    for part in ("optimiser", "random", *(["average"] if "ema_decay" in settings else [])):
        first, second = (end.tensors(part) for end in ends if end)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_after_the_resumed_step_are_discarded(tmp_path: Path) -> None:
    train(training(tmp_path, steps=4))
    checkpoints = tmp_path / "checkpoints"
    for kind in ("step", "best"):  # of a run that had come further, its last full checkpoint damaged
        shutil.copytree(checkpoints / f"{kind}-00000004", checkpoints / f"{kind}-00000099")
    next((checkpoints / "step-00000099" / "weights").iterdir()).unlink()
    train(training(tmp_path, steps=8))
    assert not list(checkpoints.glob("*-00000099"))
    assert {p.name for p in checkpoints.glob("step-*")} == {"step-00000004", "step-00000008"}


def test_without_an_intact_checkpoint_the_training_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(training(tmp_path, steps=4))
    before = numbers(tmp_path)
    for record in (tmp_path / "checkpoints").glob("step-*/checkpoint.json"):
        record.unlink()
    capsys.readouterr()
    assert train(training(tmp_path, steps=4)).step == 4
    said = capsys.readouterr().err
    assert "there is no intact checkpoint: the training starts again\n" in said
    assert "resuming at" not in said
    assert numbers(tmp_path) == before  # the rows of the run before are replaced


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


def test_the_best_checkpoint_survives_a_kill_before_the_next_step_checkpoint(tmp_path: Path) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    run = training(tmp_path, dropout=0.0, validate_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(replace(run, objective=at_step(7, kill)))
    assert {path.name for path in run.checkpoints.iterdir()} == {"best-00000004", "best-00000006", "step-00000004"}
    worse = Counting().batch(1)
    worse = Batch({**worse, "labels": (worse["input_ids"] + V // 2) % V})  # not what the model learns
    progress = train(replace(training(tmp_path, dropout=0.0, validate_every=2), validation=[worse]))
    best = last_checkpoint(run.checkpoints, "best")
    assert best is not None
    assert progress.best_step == best.step == 4


def test_a_missing_best_checkpoint_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(training(tmp_path, steps=4))
    shutil.rmtree(tmp_path / "checkpoints" / "best-00000004")
    progress = train(training(tmp_path, steps=8))
    assert "the best checkpoint, of step 4, is missing" in capsys.readouterr().err
    assert progress.best_step == 8
    assert (tmp_path / "checkpoints" / "best-00000008").is_dir()


def test_after_a_missing_best_checkpoint_the_best_of_the_later_ones_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([1.0, 3.0, 2.0, 2.0])
    monkeypatch.setattr("neolm.training.loop._measure", lambda *arguments: {"loss": next(measured)})
    train(training(tmp_path, steps=4))
    shutil.rmtree(tmp_path / "checkpoints" / "best-00000004")
    run = training(tmp_path, steps=16)
    assert train(run).best_step == 12
    best = last_checkpoint(run.checkpoints, "best")
    assert best is not None
    assert best.step == 12


def test_a_nan_gradient_is_reported_with_the_layer_that_failed_first(tmp_path: Path) -> None:
    def objective(model: Any, batch: Batch) -> Terms:
        def spoil(module: Any, inputs: Any, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda grad: grad * float("nan"))

        hook = model.blocks[0].mlp.register_forward_hook(spoil)
        try:
            return plain(model, batch)
        finally:
            hook.remove()

    with pytest.raises(NonFiniteError, match=r"step 1: .* first in the gradient of blocks\.0\.mlp\."):
        train(replace(training(tmp_path), objective=Calling(objective)))


def test_the_speed_is_that_of_the_steps_since_the_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([tick for step in range(1, 13) for tick in (0.0, 0.0, float(step))])  # step k takes k seconds
    monkeypatch.setattr("neolm.training.loop.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    train(training(tmp_path, log_every=2))
    speed = {row["step"]: row["tokens_per_second"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row}
    tokens = 8 * T
    assert speed[1] == tokens
    assert speed[2] == tokens / 2
    assert speed[12] == pytest.approx(2 * tokens / (11 + 12), abs=0.05)


def test_a_nan_is_reported_with_step_documents_and_layer(tmp_path: Path) -> None:
    def plant() -> None:
        with torch.no_grad():
            run.model.blocks[1].mlp.contract.weight[0, 0] = float("nan")

    # Two passes a step: the NaN appears in the second half of step 6's batch.
    settings = {"micro_batch_size": 4, "asynchronous_checkpoints": False}  # so that step 4 is saved before step 6
    run = replace(training(tmp_path, **settings), objective=at_step(12, plant))
    with pytest.raises(NonFiniteError) as caught:
        train(run)
    text = str(caught.value)
    assert text.startswith("step 6: ")
    assert "layer blocks.1.mlp.contract" in text
    assert "document 6.0, document 6.1, document 6.2, document 6.3." in text
    assert text.endswith(" The last checkpoint is of step 4; a lower learning_rate may help")
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    assert found.step == 4  # the last good one is intact
    assert len(losses(tmp_path)) == 5


def test_a_gradient_that_overflows_is_reported(tmp_path: Path) -> None:
    def exploding(model: Decoder, batch: Batch) -> Terms:
        return scaled(plain(model, batch), 1e38)

    run = training(tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 1: .*(gradient of|output of layer|loss itself)") as caught:
        train(replace(run, objective=Calling(exploding)))
    assert str(caught.value).endswith(" No checkpoint was written; a lower learning_rate may help")


def test_every_target_masked_is_a_step_of_zero_weight(tmp_path: Path) -> None:
    class Masked(Counting):
        def batch(self, step: int, rows: slice = slice(None)) -> Batch:
            batch = super().batch(step, rows)
            return Batch({**batch, "labels": torch.full_like(batch["labels"], IGNORED)})

    run = replace(training(tmp_path, steps=1, weight_decay=0.0), data=Masked(), validation=[])
    before = weights(run)
    train(run)
    assert losses(tmp_path) == [0.0]
    assert all(torch.equal(before[name], value) for name, value in weights(run).items())


def test_float16_finds_a_scale_and_learns(tmp_path: Path) -> None:
    run = training(tmp_path, "float16", dropout=0.0, steps=120, loss_scale=2.0**30)
    progress = train(run)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    skipped = [row for row in rows if "skipped" in row]
    assert 0 < len(skipped) == progress.skipped < 40
    assert all("overflowed float16" in row["skipped"] for row in skipped)
    assert rows[0]["loss_scale"] > rows[-1]["loss_scale"] == run.config.loss_scale / 2 ** (len(skipped) - 1)
    exact = training(tmp_path / "exact", dropout=0.0, steps=80)
    exact.directory.mkdir()
    train(exact)
    assert rows[-1]["loss"] < 1.0
    assert losses(tmp_path / "exact")[0] == pytest.approx(rows[0]["loss"], abs=2e-3)


def test_an_overflow_at_the_lowest_scale_is_an_error(tmp_path: Path) -> None:
    def exploding(model: Decoder, batch: Batch) -> Terms:
        terms = plain(model, batch)
        return scaled(terms, 1e30, loss=terms["next_token"].total)

    run = replace(training(tmp_path, "float16", loss_scale=4.0, loss_scale_hysteresis=1), objective=Calling(exploding))
    with pytest.raises(NonFiniteError, match=r"step 3: .* No checkpoint .*or precision=float32 may help$"):
        train(run)


def test_the_loss_scale_against_numbers_by_hand() -> None:
    scale = LossScale(8.0, window=2, hysteresis=2)
    values = []
    for passed in (False, False, False, True, True, False, False, True, True, True, True):
        scale.passed() if passed else scale.overflowed()
        values.append(scale.value)
    # the first overflow is forgiven, later ones not until a window has passed
    assert values == [8, 4, 2, 2, 4, 4, 2, 2, 4, 4, 8]
    for _ in range(9):
        scale.overflowed()
    assert scale.value == 1.0
    assert scale.exhausted


def test_a_spike_is_skipped_and_logged(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def spiking(model: Decoder, batch: Batch) -> Terms:
        terms = plain(model, batch)
        if not model.training:
            return terms
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return scaled(terms, 100, loss=terms["next_token"].total) if len(seen) == 20 else terms

    run = training(tmp_path, steps=22, skip_spikes=5.0, log_every=100)
    progress = train(replace(run, objective=Calling(spiking)))
    (row,) = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "skipped" in row]
    assert row["step"] == 20
    assert re.match(r"gradient norm \S+ is more than 5 times the median of \S+", row["skipped"])
    assert progress.skipped == 1
    before, after, later = seen[19], seen[20], seen[21]  # as steps 20, 21 and 22 found them
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert not all(torch.equal(after[name], value) for name, value in later.items())
    assert progress.tokens == 22 * 8 * T


def test_a_resumed_run_knows_the_norms_of_the_steps_before(tmp_path: Path) -> None:
    train(training(tmp_path, steps=8, skip_spikes=5.0))
    run = training(tmp_path, steps=12, skip_spikes=5.0)
    train(run)
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    assert found.state["norms"] == [row["grad_norm"] for row in numbers(tmp_path) if "grad_norm" in row]


def test_norms_that_stay_large_are_no_longer_spikes() -> None:
    spikes = SpikeFilter(3.0)
    assert not any(spikes.reason_to_skip(1.0) for _ in range(100))
    skipped = [spikes.reason_to_skip(10.0) is not None for _ in range(200)]
    assert all(skipped[:60])
    assert not any(skipped[80:])


def test_the_ema_is_validated_and_saved(tmp_path: Path) -> None:
    run = training(tmp_path, steps=6, ema_decay=0.5, validate_every=6, dropout=0.0)
    states: list[dict[str, torch.Tensor]] = []

    def remembering(model: Decoder, batch: Batch) -> Terms:
        if model.training:
            states.append(weights(run))
        return plain(model, batch)

    train(replace(run, objective=Calling(remembering)))
    states.append(weights(run))
    average = states[0]
    for step, state in enumerate(states[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * value for name, value in state.items()}
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    for name, value in found.tensors("average").items():
        torch.testing.assert_close(value, average[name], atol=1e-6, rtol=1e-5)
    model = Decoder(run.model.config)
    load_weights(model, found, "average")
    total = sum(plain(model.eval(), batch)["next_token"].total.item() for batch in run.validation)
    expected = total / sum(plain.targets(batch)["next_token"] for batch in run.validation)
    (row,) = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "validation_loss" in row]
    assert row["average_validation_loss"] == pytest.approx(expected, abs=1e-5)
    assert row["average_validation_loss"] != row["validation_loss"]
    assert all(torch.equal(states[-1][name], value) for name, value in weights(run).items())


def test_batches_grow_and_the_learning_rate_follows_the_sequences(tmp_path: Path) -> None:
    run = training(
        tmp_path, steps=12, batch_ramp_start=2, batch_ramp_tokens=24 * T, warmup_tokens=8 * T, schedule="linear"
    )
    train(run)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    sizes = [row["batch_size"] for row in rows]
    assert sizes == [2, 2, 2, 2, 4, 4, 6, 6, 8, 8, 8, 8]
    assert [row["tokens"] for row in rows] == [T * sum(sizes[:n]) for n in range(1, 13)]
    read = [sum(sizes[:n]) for n in range(1, 13)]
    expected = [n / 8 if n <= 8 else 0.1 + 0.9 * (1 - (n - 8) / (read[-1] - 8)) for n in read]
    assert [row["learning_rate"] / 1e-2 for row in rows] == pytest.approx(expected)


def test_recomputing_the_blocks_changes_no_bit(tmp_path: Path) -> None:
    runs = []
    for on in (False, True):
        (tmp_path / str(on)).mkdir()
        runs.append(training(tmp_path / str(on), activation_checkpointing=on, dropout=0.2))
        train(runs[-1])
    assert losses(tmp_path / "False") == losses(tmp_path / "True")
    first, second = (weights(run) for run in runs)
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_recomputing_saves_memory(tmp_path: Path) -> None:
    def kept(recompute: bool) -> int:
        sizes: list[int] = []
        run = training(tmp_path, dropout=0.0)
        if recompute:
            recompute_blocks(run.model)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            plain(run.model, Counting().batch(1))
        return sum(sizes)

    assert kept(True) < kept(False) / 4


def test_the_z_loss_is_logged_separately(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(training(tmp_path / "a", z_loss=1e-2))
    train(training(tmp_path / "b"))
    with_z, without = (
        [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row] for name in "ab"
    )
    assert with_z[0]["loss"] == without[0]["loss"]
    assert with_z[0]["z_loss"] == pytest.approx(1e-2 * math.log(V) ** 2, rel=0.05)
    assert "z_loss" not in without[0]
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute")  # of torch itself
def test_compiled_it_learns_the_same(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
        settings = {"activation_checkpointing": name == "on", "dropout": 0.0}
        train(replace(training(tmp_path / name, **settings), compile=Choice(name, "test")))
    assert losses(tmp_path / "off") == pytest.approx(losses(tmp_path / "on"), abs=1e-4)


def test_settings_of_torch_are_restored(tmp_path: Path) -> None:
    seen = []

    def looking() -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()))

    run = training(tmp_path, deterministic=True, tf32=True)
    train(replace(run, objective=at_step(1, looking)))
    looking()
    assert seen == [(True, "high"), (False, "highest")]


def test_the_next_batch_is_read_during_a_step(tmp_path: Path) -> None:
    class Slow(Counting):
        def batch(self, step: int, rows: slice = slice(None)) -> Batch:
            time.sleep(0.05)
            return super().batch(step, rows)

    def slow(model: Decoder, batch: Batch) -> Terms:
        time.sleep(0.06)
        return plain(model, batch)

    progress = train(replace(training(tmp_path, steps=10), data=Slow(), objective=Calling(slow), validation=[]))
    assert 0.04 < progress.data_seconds < 0.25  # the first batch, not ten


def test_progress_is_restored_from_its_state() -> None:
    progress = Progress(step=3, tokens=9, best_loss=1.5, best_step=2)
    assert Progress(**progress.state()) == progress
