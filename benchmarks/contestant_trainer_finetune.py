"""Fine-tuning with Trainer of Hugging Face transformers, without evaluation and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from protocol import Channel, Gate
from shapes import BETAS, EPSILON, GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """Token ids with labels."""

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


class Collator:
    """Pad the texts of a batch to `length`, and cut longer ones; None: to the longest text."""

    def __init__(self, length: int | None, padding: int) -> None:
        self.length, self.padding = length, padding

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these examples."""
        length = self.length or max(len(example["input_ids"]) for example in examples)
        rows = [example["input_ids"][:length] for example in examples]
        ids = torch.tensor([[*row, *[self.padding] * (length - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(ids),
            "labels": torch.tensor([example["labels"] for example in examples]),
        }


def main() -> None:
    channel = Channel()
    job = channel.job
    torch.manual_seed(job["seed"])
    examples = json.loads((Path(job["data"]) / "examples.json").read_text(encoding="utf-8"))
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(examples["names"]))
    length = job["padding"] and min(job["padding"], job["max_length"])
    cpu = job["device"] == "cpu"
    arguments = TrainingArguments(
        output_dir=job["directory"],
        max_steps=10**9,
        per_device_train_batch_size=job["batch_size"],
        bf16=job["precision"] == "bfloat16",
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=GRADIENT_CLIP,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        seed=job["seed"],
    )
    Gate(channel)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=Examples(examples["input_ids"], examples["labels"]),
        data_collator=Collator(length, model.config.pad_token_id or 0),
    ).train()


if __name__ == "__main__":
    main()
