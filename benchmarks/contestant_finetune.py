"""Fine-tuning with NeoLM's real training loop and data pipeline, without validation and checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from protocol import Channel, Gate
from shapes import GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY

from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.encoded_examples import EncodedExamples
from neolm.finetuning.fit import Team, fit
from neolm.finetuning.heads import head_config, with_head
from neolm.finetuning.objectives import TextObjective
from neolm.finetuning.trainable import freeze
from neolm.models.hf import load_model
from neolm.prediction.targets import Targets
from neolm.prediction.text_windows import EncodedText


def main() -> None:
    channel = Channel()
    job = channel.job
    examples = json.loads((Path(job["data"]) / "examples.json").read_text(encoding="utf-8"))
    config = FinetuneConfig.model_validate_json(
        json.dumps(
            {
                "task": "classification",
                "train": job["table"],
                "steps": 10**9,
                "batch_size": job["batch_size"],
                "device": job["device"],
                "precision": job["precision"],
                "learning_rate": LEARNING_RATE,
                "schedule": "constant",
                "weight_decay": WEIGHT_DECAY,
                "gradient_clip": GRADIENT_CLIP,
                "validate_every": 10**9,
                "checkpoint_every": 10**9,
                **job.get("finetune", {}),
            }
        )
    )
    base = load_model(job["model"], "cpu", "float32")
    targets = Targets("single_label_classification", tuple(examples["names"]))
    model = freeze(with_head(base, head_config(base.config, targets, "mean"), job["seed"]), config, job["seed"])
    texts = [EncodedText([ids], [[0] * len(ids)]) for ids in examples["input_ids"]]
    labels = torch.tensor(examples["labels"])
    windows = EncodedExamples(Path(job["table"]), range(len(texts)), texts, labels, torch.ones(len(texts)))
    Gate(channel)
    objective = TextObjective("single_label_classification")
    held_out = replace(windows, texts=texts[:1])
    fit(model, objective, windows, held_out, Path(job["directory"]), config, job["seed"], Team())


if __name__ == "__main__":
    main()
