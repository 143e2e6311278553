"""Promise 8: a hundred steps of each family give the losses that are stored here.

A change that should not move numbers does not move these; one that should says so, and stores new ones:
`python tests/exactness/test_golden_losses.py` prints them. The tolerance leaves room for another processor's
rounding, which training amplifies; a changed initialisation, schedule, mask or order moves them far more.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoder import encoder_training, text_like_tokens, write_corpus

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
# As published, but for the sizes: BERT's Adam with NSP; ALBERT's LAMB with SOP, n-grams and shared layers.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"segments": {"task": "nsp"}, "bias_correction": False},
    "albert": {
        "segments": {"task": "sop"},
        "masking": {"max_ngram": 3},
        "optimiser": "lamb",
        "bias_correction": False,
        "learning_rate": 2e-2,
        "short_length": 24,
        "short_steps": 50,
    },
}

# Losses at steps 1, 25, 50, 75 and 100.
GOLDEN: dict[str, list[float]] = {
    "gpt2": [4.56825, 3.70809, 3.04383, 2.70487, 2.72754],
    "gpt3": [4.56831, 3.69243, 3.026, 2.67317, 2.75607],
    "gpt-neo": [4.56736, 3.71167, 3.03628, 2.71168, 2.70881],
    "gpt-neox": [4.716, 3.15244, 2.63687, 2.39594, 2.38937],
    "gpt-neox, sequential": [4.70622, 3.75362, 3.02794, 2.61845, 2.64271],
    "bert": [5.30547, 5.21284, 5.00217, 5.00904, 5.00953],
    "albert": [5.31445, 4.93352, 4.87749, 4.98711, 5.2169],
}


def golden_run(name: str, directory: Path) -> list[float]:
    (directory / "train-00000.bin").write_bytes(text_like_tokens(20_000, VOCABULARY).tobytes())
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


def golden_encoder_run(family: str, directory: Path) -> list[float]:
    write_corpus(directory / "shards")
    settings = {"steps": 100, "micro_batch_size": 4, "warmup_steps": 10, "log_every": 25, "checkpoint_every": 1000}
    run = encoder_training(family, directory / "shards", directory, **settings, **ENCODERS[family])
    train(replace(run, validation=[]))
    return [row["loss"] for row in read_metrics(directory / "metrics.jsonl")]


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_losses(name: str, tmp_path: Path) -> None:
    assert golden_run(name, tmp_path) == pytest.approx(GOLDEN[name], abs=3e-3)


@pytest.mark.parametrize("family", ENCODERS)
def test_golden_losses_of_encoders(family: str, tmp_path: Path) -> None:
    assert golden_encoder_run(family, tmp_path) == pytest.approx(GOLDEN[family], abs=3e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for family_name in (*FAMILIES, *ENCODERS):
        with tempfile.TemporaryDirectory() as place:
            run_of = golden_encoder_run if family_name in ENCODERS else golden_run
            print(f'    "{family_name}": {[round(loss, 5) for loss in run_of(family_name, Path(place))]},')
