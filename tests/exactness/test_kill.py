"""Promise 5: a run killed with SIGKILL at any moment resumes bit for bit, through the real command.

Most runs are in processes that are forked with the libraries imported, since most of their time would be imports.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked_command
import pytest
from safetensors.torch import load_file
from tiny_encoders import VOCABULARY

RECIPE = """
output: {output}
seed: 3
corpus: {{source: files, path: {texts}}}
{parts}
  sequence_length: 32
  batch_size: 8
  micro_batch_size: 4
  learning_rate: 5e-3
  warmup_steps: 5
  precision: bfloat16
  checkpoint_every: 4
  validate_every: 10
  validation_sequences: 8
  log_every: 1
"""
DECODER = """
tokenizer: {vocab_size: 300}
model: {family: gpt-neo, hidden_size: 32, num_layers: 2, num_heads: 2, window_size: 16, residual_dropout: 0.1}
pretrain:
  steps: 40
"""
ENCODER = """
tokenizer: {path: VOCABULARY}
model:
  {family: albert, hidden_size: 32, embedding_size: 16, num_layers: 3, num_heads: 2, residual_dropout: 0.1,
   attention_dropout: 0.1}
pretrain:
  steps: 40
  optimiser: lamb
  bias_correction: false
  segments: {task: sop}
  masking: {max_ngram: 3}
  short_length: 16
  short_steps: 20
"""


def write_recipe(place: Path, output: Path, texts: Path, parts: str = DECODER) -> Path:
    recipe = place / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=output, texts=texts, parts=parts.strip()))
    return recipe


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "neolm", "pretrain", str(recipe)]


def finish(recipe: Path) -> str:
    """Run it to its end, and return what it says."""
    return forked_command.finish(["pretrain", recipe], recipe.with_name("said.txt"))


def metrics(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    measured = ("tokens_per_second", "mfu", "memory_bytes")  # of the machine, not of the model
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def start_and_kill(recipe: Path, output: Path, after_steps: int, delay: float) -> bool:
    """Start the run, SIGKILL it once its metrics show `after_steps` more steps; false if it finished before."""
    path = output / "pretrain" / "metrics.jsonl"
    begun = len(path.read_bytes().splitlines()) if path.exists() else 0
    process = forked_command.start(["pretrain", recipe], recipe.with_name("killed.txt"))
    while process.is_alive():
        if path.exists() and len(path.read_bytes().splitlines()) >= begun + after_steps:
            time.sleep(delay)
            process.kill()
            process.join()
            return process.exitcode != 0
        time.sleep(0.005)
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("undisturbed run")
    finish(write_recipe(place, place / "out", text_folder))
    return place / "out"


def test_a_run_killed_at_random_moments_resumes_bit_for_bit(
    undisturbed: Path, tmp_path: Path, text_folder: Path
) -> None:
    killed_and_resumed(undisturbed, tmp_path, text_folder, DECODER)


def test_an_encoder_s_run_killed_at_random_moments_resumes_bit_for_bit(tmp_path: Path, text_folder: Path) -> None:
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    parts = ENCODER.replace("VOCABULARY", str(tmp_path / "vocabulary"))
    (tmp_path / "undisturbed").mkdir()
    finish(write_recipe(tmp_path / "undisturbed", tmp_path / "whole", text_folder, parts))
    killed_and_resumed(tmp_path / "whole", tmp_path, text_folder, parts)


def killed_and_resumed(undisturbed: Path, tmp_path: Path, text_folder: Path, parts: str) -> None:
    """Kill a run at random moments, and compare its end with `undisturbed`."""
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    output = tmp_path / "killed run"
    recipe = write_recipe(tmp_path, output, text_folder, parts)
    kills, torn = 0, False
    for _ in range(4):
        kills += start_and_kill(recipe, output, chance.randint(1, 9), chance.random() * 0.05)
        checkpoints = sorted((output / "pretrain" / "checkpoints").glob("step-*"))
        if kills >= 2 and checkpoints and not torn:  # a torn checkpoint as well: the last one, cut short
            os.truncate(checkpoints[-1] / "optimiser" / "shard-00001.safetensors", 100)
            torn = True
    said = finish(recipe)
    assert torn, f"seed {seed}: the run was too quick to be killed"
    assert "resuming at step" in said
    assert metrics(output) == metrics(undisturbed), f"seed {seed}"
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (output, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours), f"seed {seed}"


def test_a_run_killed_before_training_starts_again(undisturbed: Path, tmp_path: Path, text_folder: Path) -> None:
    output = tmp_path / "out"
    recipe = write_recipe(tmp_path, output, text_folder)
    process = subprocess.Popen(command(recipe), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (output / ".lock").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    process.kill()
    process.wait()
    finish(recipe)
    assert metrics(output) == metrics(undisturbed)


def test_sigterm_saves_and_prints_how_to_resume(undisturbed: Path, tmp_path: Path, text_folder: Path) -> None:
    output = tmp_path / "out"
    recipe = write_recipe(tmp_path, output, text_folder)
    path = output / "pretrain" / "metrics.jsonl"
    process = subprocess.Popen(command(recipe), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not (path.exists() and len(path.read_bytes().splitlines()) >= 3):
        time.sleep(0.005)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command resumes there" in said.splitlines()[-1]
    assert "Traceback" not in said
    finish(recipe)
    assert metrics(output) == metrics(undisturbed)
