"""Pretraining of encoders with NeoLM's real training loop and data pipeline, without validation and checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from contestant_neolm import measure_data_wait
from encoder_data import architecture, pretrain_config, segment_batches
from protocol import Channel, Gate
from shapes import GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY

from neolm.core.device import Choice
from neolm.models.encoder import Encoder
from neolm.training.loop import train
from neolm.training.pretrain_task import objective
from neolm.training.run import Training


def main() -> None:
    channel = Channel()
    job = channel.job
    config = pretrain_config(
        job,
        device=job["device"],
        precision=job["precision"],
        optimiser="adamw",
        schedule="constant",
        warmup_steps=0,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        gradient_clip=GRADIENT_CLIP,
        validate_every=10**9,
        checkpoint_every=10**9,
    )
    model = Encoder(architecture(job["shape"])).initialise(job["seed"])
    torch.manual_seed(job["seed"])
    Gate(channel, data_wait=measure_data_wait())
    train(
        Training(
            model=model,
            objective=objective(model.config, config),
            data=segment_batches(job),
            validation=(),
            config=config,
            directory=Path(job["directory"]),
            device=Choice(job["device"], "requested"),
            precision=Choice(job["precision"], "requested"),
        )
    )


if __name__ == "__main__":
    main()
