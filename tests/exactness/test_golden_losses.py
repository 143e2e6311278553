"""Promise 8: a hundred steps of each family give the losses that are stored here.

A change that should not move numbers does not move these; one that should says so, and stores new ones:
`python tests/exactness/test_golden_losses.py` prints them. The tolerance leaves room for another processor's
rounding, which training amplifies; a changed initialisation, schedule, mask or order moves them far more.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neolm.core.device import Choice
from neolm.data.batches import TrainingBatches
from neolm.data.shards import TokenShards
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.loop import train
from neolm.training.metrics import read_metrics
from neolm.training.objective import CausalLanguageModelling
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Training

VOCABULARY, SEQUENCE = 96, 48

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt3": {"max_position_embeddings": 64},
    "gpt-neo": {"window_size": 16},
    "gpt-neox": {"rotary_fraction": 0.5},
    "gpt-neox, sequential": {"rotary_fraction": 0.5, "parallel_residual": False},
}

# Losses at steps 1, 25, 50, 75 and 100.
GOLDEN: dict[str, list[float]] = {
    "gpt2": [4.56825, 3.70809, 3.04383, 2.70487, 2.72754],
    "gpt3": [4.56831, 3.69243, 3.026, 2.67317, 2.75607],
    "gpt-neo": [4.56736, 3.71167, 3.03628, 2.71168, 2.70881],
    "gpt-neox": [4.716, 3.15244, 2.63687, 2.39594, 2.38937],
    "gpt-neox, sequential": [4.70622, 3.75362, 3.02794, 2.61845, 2.64271],
}


def text_like_tokens(count: int) -> np.ndarray:
    """Tokens with something to learn, the same everywhere: three likely successors each, and echoes of 20 back."""
    generator = np.random.default_rng(20210321)
    table = generator.integers(0, VOCABULARY, size=(VOCABULARY, 3))
    choices, echoes = generator.integers(0, 3, size=count), generator.random(count) < 0.3
    tokens = [1]
    for position in range(1, count):
        echo = echoes[position] and position >= 20
        tokens.append(tokens[position - 20] if echo else int(table[tokens[-1], choices[position]]))
    return np.array(tokens, dtype="<u2")


def golden_run(name: str, directory: Path) -> list[float]:
    (directory / "train-00000.bin").write_bytes(text_like_tokens(20_000).tobytes())
    family = name.partition(",")[0]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": SEQUENCE,
    }
    config = PretrainConfig(
        steps=100,
        sequence_length=SEQUENCE,
        batch_size=8,
        micro_batch_size=4,
        learning_rate=5e-3,
        warmup_steps=10,
        log_every=25,
        checkpoint_every=1000,
    )
    run = Training(
        model=Decoder(decoder_config(family, **(settings | FAMILIES[name]))).initialise(7),
        objective=CausalLanguageModelling(),
        data=TrainingBatches(TokenShards(directory, "train", VOCABULARY), SEQUENCE, config.batch_sizes, seed=7),
        validation=[],
        config=config,
        directory=directory,
        device=Choice("cpu", "golden losses are of the CPU"),
        precision=Choice("float32", "golden losses are of float32"),
    )
    train(run)
    return [row["loss"] for row in read_metrics(directory / "metrics.jsonl")]


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_losses(name: str, tmp_path: Path) -> None:
    assert golden_run(name, tmp_path) == pytest.approx(GOLDEN[name], abs=3e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for family_name in FAMILIES:
        with tempfile.TemporaryDirectory() as place:
            print(f'    "{family_name}": {[round(loss, 5) for loss in golden_run(family_name, Path(place))]},')
