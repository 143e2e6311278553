"""Training with NeoLM's real training loop and data pipeline, without validation and checkpoints.

Only this file of the benchmarks depends on NeoLM's training interface.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from protocol import Channel, Gate
from validation import validation_loss

from neolm.core.device import Choice, choose_compile
from neolm.data.batch import Batch
from neolm.data.batches import TrainingBatches
from neolm.data.prefetch import Prefetcher
from neolm.data.shards import TokenShards
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.loop import train
from neolm.training.objective import CausalLanguageModelling
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Training


def main() -> None:
    channel = Channel()
    job = channel.job
    data = Path(job["data"])
    model = build_model(job["shape"], job.get("model", {}), job["seed"])

    def evaluate() -> float:
        model.eval()
        loss = validation_loss(model, data / "validation-00000.bin", job["shape"]["sequence_length"])
        model.train()
        return loss

    Gate(channel, evaluate, data_wait=measure_data_wait())
    train_with_neolm(model, data, job)


def build_model(shape: Mapping[str, Any], more: Mapping[str, Any], seed: int) -> Decoder:
    """Return a new model of `shape`; `more` are further fields of its configuration."""
    fields = {
        "hidden_size": shape["hidden_size"],
        "num_layers": shape["num_layers"],
        "num_heads": shape["num_heads"],
        "vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["context"],
        "window_size": shape["window_size"],
    }
    return Decoder(decoder_config(shape["family"], **{**fields, **more})).initialise(seed)


def measure_data_wait() -> Callable[[], float]:
    """Return a function that returns the seconds for which the loop has waited for data so far."""
    waited = 0.0
    read = Prefetcher.batch

    def timed(self: Prefetcher, step: int) -> Batch:
        nonlocal waited
        began = time.perf_counter()
        batch = read(self, step)
        waited += time.perf_counter() - began
        return batch

    Prefetcher.batch = timed
    return lambda: waited


def train_with_neolm(model: Decoder, data: Path, job: Mapping[str, Any]) -> None:
    """Train `model` on the shards in `data`, without validation and checkpoints, until the gate ends the process."""
    shape = job["shape"]
    settings = {
        "sequence_length": shape["sequence_length"],
        "batch_size": shape["batch_size"],
        "activation_checkpointing": shape["activation_checkpointing"],
        "device": job["device"],
        "precision": job["precision"],
        "validate_every": 10**9,
        "checkpoint_every": 10**9,
        **job["pretrain"],
    }
    config = PretrainConfig.model_validate_json(json.dumps(settings))
    torch.manual_seed(job["seed"])
    shards = TokenShards(data, "train", shape["vocab_size"])
    train(
        Training(
            model=model,
            objective=CausalLanguageModelling(),
            data=TrainingBatches(shards, config.sequence_length, config.batch_sizes, job["seed"]),
            validation=(),
            config=config,
            directory=Path(job["directory"]),
            device=Choice(job["device"], "requested"),
            precision=Choice(job["precision"], "requested"),
            compile=choose_compile(config.compile, job["device"], job["precision"]),
        )
    )


if __name__ == "__main__":
    main()
