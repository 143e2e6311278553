"""Training on an NVIDIA GPU."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import Calling, Terms, losses, plain, training, weights

from neolm.core.device import Choice
from neolm.core.errors import NonFiniteError
from neolm.data.batch import Batch
from neolm.training import step
from neolm.training.loop import train
from neolm.training.run import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

RECIPE = """
output: {output}
corpus: {{source: files, path: {texts}}}
tokenizer: {{vocab_size: 300}}
model: {{family: gpt-neo, hidden_size: 32, num_layers: 2, num_heads: 2, window_size: 16, residual_dropout: 0.1}}
pretrain:
  {{steps: 40, sequence_length: 32, batch_size: 8, micro_batch_size: 4, learning_rate: 5e-3, warmup_steps: 5,
  device: cuda, precision: bfloat16, deterministic: true, compile: false, checkpoint_every: 4, validate_every: 10,
  validation_sequences: 8, log_every: 3}}
"""


def on_gpu(directory: Path, precision: str = "float32", **settings: Any) -> Training:
    directory.mkdir(exist_ok=True)
    return replace(training(directory, precision, **settings), device=Choice("cuda", "test"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
def test_it_learns_as_on_a_cpu(tmp_path: Path, precision: str, optimiser: str) -> None:
    settings = {"dropout": 0.0, "optimiser": optimiser, "steps": 40, "micro_batch_size": 3}
    train(on_gpu(tmp_path / "gpu", precision, **settings))
    (tmp_path / "cpu").mkdir()
    train(training(tmp_path / "cpu", **settings))
    first, second = losses(tmp_path / "gpu"), losses(tmp_path / "cpu")
    assert first[0] == pytest.approx(second[0], abs=1e-4 if precision == "float32" else 2e-2)
    assert first[-1] == pytest.approx(second[-1], abs=0.3)


@pytest.mark.parametrize("optimiser", ["lamb", "muon"])
def test_the_host_waits_only_for_logged_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str) -> None:
    class Watched(step.OptimiserStep):
        def run(self, number: int, batch: Batch, learning_rate: float) -> Any:
            torch.cuda.set_sync_debug_mode("error" if number > 3 else "default")  # the first steps load kernels
            try:
                return super().run(number, batch, learning_rate)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr("neolm.training.loop.OptimiserStep", Watched)
    train(on_gpu(tmp_path, "bfloat16", optimiser=optimiser, log_every=5, micro_batch_size=4, ema_decay=0.9))


def test_a_nan_is_explained_at_the_next_log(tmp_path: Path) -> None:
    def planted(model: Any, batch: Batch) -> Terms:
        if not batch.examples[0].startswith("6."):
            return plain(model, batch)
        before.append(weights(run))
        hook = model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        try:
            return plain(model, batch)
        finally:
            hook.remove()

    before: list[dict[str, torch.Tensor]] = []
    run = replace(on_gpu(tmp_path, log_every=100, validate_every=100), objective=Calling(planted))
    with pytest.raises(NonFiniteError, match=r"step 6: .*layer blocks\.1"):
        train(run)
    assert all(torch.equal(value, before[0][name]) for name, value in weights(run).items())


def result(output: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    measured = ("tokens_per_second", "mfu", "memory_bytes")
    rows = [json.loads(line) for line in (output / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in measured} for row in rows]
    return kept, load_file(output / "model" / "model.safetensors")


def test_deterministic_runs_are_equal_and_a_killed_one_resumes_bit_for_bit(tmp_path: Path, text_folder: Path) -> None:
    outputs = []
    for name in ("first", "second", "killed"):
        recipe, output = tmp_path / f"{name}.yaml", tmp_path / name
        recipe.write_text(RECIPE.format(output=output, texts=text_folder))
        command = [sys.executable, "-m", "neolm", "pretrain", str(recipe)]
        if name == "killed":
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            checkpoints = output / "pretrain" / "checkpoints"
            while process.poll() is None and not list(checkpoints.glob("step-*")):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() != 0
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(result(output))
    (rows, tensors), *others = outputs
    for other_rows, other_tensors in others:
        assert other_rows == rows
        assert all(torch.equal(other_tensors[name], tensor) for name, tensor in tensors.items())
