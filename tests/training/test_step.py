"""One optimiser step: several terms, and numbers that stay on the device until they are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import Calling, Terms, losses, numbers, plain, training, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from neolm.core.errors import NonFiniteError
from neolm.core.metrics import read_metrics
from neolm.data.batch import IGNORED, Batch
from neolm.training import passes, precision, step
from neolm.training.checkpoint import last_checkpoint
from neolm.training.loop import train
from neolm.training.objective import Term
from neolm.training.run import Parallelism, Training


class NextTokenAndNorm:
    """Two means whose counts differ between micro-batches: language modelling, and the size of even logits."""

    weights: Mapping[str, float] = {"next": 1.0, "even": 0.3}

    def targets(self, batch: Batch) -> dict[str, int]:
        counted = batch["labels"] != IGNORED
        return {"next": int(counted.sum()), "even": int((batch["input_ids"][:, 0] % 2 == 0).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        even = batch["input_ids"][:, 0] % 2 == 0
        size = model(batch["input_ids"][:, :1]).squeeze(1).square().mean(dim=1)
        return {
            "next": plain(model, batch)["next_token"],
            "even": Term((size * even).sum(), {"share": even.sum()}),
        }


@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_of_two_terms_equals_one_big_batch(tmp_path: Path, size: int) -> None:
    runs = {}
    for name, micro in (("whole", None), ("parts", size)):
        (tmp_path / name).mkdir()
        runs[name] = replace(
            training(tmp_path / name, dropout=0.0, micro_batch_size=micro), objective=NextTokenAndNorm()
        )
        train(runs[name])
    whole, parts = (numbers(tmp_path / name) for name in runs)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), abs=1e-5)
    for first, second in zip(whole, parts, strict=True):
        assert first == pytest.approx(second, abs=1e-4)
    first_row, validation = whole[0], next(row for row in whole if "validation_loss" in row)
    expected = first_row["next_loss"] + 0.3 * first_row["even_loss"]
    assert first_row["loss"] == pytest.approx(expected, rel=1e-12)
    assert first_row["even_share"] == 1.0
    assert {"validation_next_loss", "validation_even_loss", "validation_even_share"} < validation.keys()
    for name, value in weights(runs["whole"]).items():
        torch.testing.assert_close(value, weights(runs["parts"])[name], atol=2e-4, rtol=1e-3)


def deferred(directory: Path, on: bool = True, **settings: Any) -> Training:
    directory.mkdir(exist_ok=True)
    return replace(training(directory, **settings), parallelism=Parallelism(deferred=on))


SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16, muon": {"precision": "bfloat16", "optimiser": "muon", "micro_batch_size": 3},
    "EMA, no bias correction": {"ema_decay": 0.9, "bias_correction": False},
    "lamb, no bias correction": {"optimiser": "lamb", "bias_correction": False, "no_decay": ("norm", "bias")},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_reading_later_changes_no_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    runs = []
    for on in (False, True):
        runs.append(deferred(tmp_path / str(on), on, log_every=5, **settings))
        train(runs[-1])
    assert numbers(runs[0].directory) == numbers(runs[1].directory)
    first, second = (weights(run) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimiser", ["muon", "lamb"])
def test_the_numbers_are_read_only_when_they_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    class Reads(TorchDispatchMode):
        """Fails where a number leaves the device."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    read_at: list[int] = []

    class Watched(step.OptimiserStep):
        def run(self, number: int, batch: Batch, learning_rate: float) -> Any:
            with Reads():
                return super().run(number, batch, learning_rate)

        def _read(self, result: step.StepResult) -> Any:
            read_at.append(self._state.progress.step + 1)
            return super()._read(result)

    class Constant:
        weights: Mapping[str, float] = {"size": 1.0}

        def targets(self, batch: Batch) -> dict[str, int]:
            return {"size": len(batch)}

        def __call__(self, model: nn.Module, batch: Batch) -> Terms:
            return {"size": Term(model(batch["input_ids"]).square().sum())}

    monkeypatch.setattr("neolm.training.loop.OptimiserStep", Watched)
    settings = {"optimiser": optimiser, "log_every": 5, "validate_every": 4, "checkpoint_every": 6}
    train(replace(deferred(tmp_path, **settings), objective=Constant()))
    assert read_at == [1, 4, 5, 6, 8, 10, 12]


def test_the_loss_scale_of_float16_is_that_of_the_mean_over_a_micro_batch(tmp_path: Path) -> None:
    seen: list[Mapping[str, float]] = []

    class Watched(passes.GradientAccumulation):
        def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> passes.Sums:
            seen.append(factors)
            return super().run(parts, factors)

    run = training(tmp_path, "float16", steps=1, micro_batch_size=3, loss_scale=4096.0)
    train(replace(run, parallelism=Parallelism(passes=Watched)))
    assert seen == [{"next_token": 4096.0 / 32}]  # 3 sequences of 16 tokens, rounded down to a power of two


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_nan_that_is_read_later_is_explained_with_the_weights_of_its_step(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    before: list[dict[str, torch.Tensor]] = []

    def planted(model: Any, batch: Batch) -> Terms:
        if not batch.examples[0].startswith("6."):
            return plain(model, batch)
        before.append(weights(run))
        hook = model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        try:
            return plain(model, batch)
        finally:
            hook.remove()

    run = deferred(tmp_path, log_every=100, validate_every=100, **settings)
    run = replace(run, objective=Calling(planted))
    with pytest.raises(NonFiniteError) as caught:
        train(run)
    text = str(caught.value)
    assert text.startswith("step 6: ")
    assert "layer blocks.1." in text
    assert "document 6.0, " in text
    assert all(torch.equal(value, before[0][name]) for name, value in weights(run).items())
    found = last_checkpoint(run.checkpoints, "step")
    assert found is not None
    assert found.step == 4
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("optimiser", ["muon", "lamb"])
def test_apples_gpus_need_no_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str) -> None:
    class Narrow(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(found):
                assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, func
            return found

    assert passes.sum_dtype(torch.device("mps")) == torch.float32
    for module in (passes, precision):
        monkeypatch.setattr(module, "sum_dtype", lambda device: torch.float32)
    with Narrow():
        train(deferred(tmp_path, optimiser=optimiser, ema_decay=0.9))
    assert losses(tmp_path)[-1] < 4.2
