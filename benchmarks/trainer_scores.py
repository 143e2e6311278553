"""One fine-tuning with Trainer of Hugging Face transformers, and its logits for the examples of the dev part.

As a program it reads its job as JSON from the command line and writes `logits.json`. It runs in the peer's environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """Token ids with labels."""

    def __init__(self, part: Mapping[str, list[Any]]) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part["labels"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.part.items()}


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch that is padded to its longest text."""
    longest = max(len(example["input_ids"]) for example in examples)
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])

    def padded(name: str) -> torch.Tensor:
        return torch.tensor([[*e[name], *[0] * (longest - len(e[name]))] for e in examples])

    return {
        **{name: padded(name) for name in ("input_ids", "token_type_ids")},
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    set_seed(job["seed"])
    data = json.loads(Path(job["data"]).read_text(encoding="utf-8"))
    labels = 1 if data["names"] is None else len(data["names"])
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=labels)
    arguments = TrainingArguments(
        output_dir=job["directory"],
        num_train_epochs=job["epochs"],
        learning_rate=job["rate"],
        per_device_train_batch_size=job["batch"],
        per_device_eval_batch_size=32,
        warmup_steps=job["warmup"],
        bf16=job["precision"] == "bfloat16",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=job["seed"],
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Examples(data["train"]), data_collator=collate)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    logits = trainer.predict(Examples(data["dev"])).predictions
    (Path(job["directory"]) / "logits.json").write_text(
        json.dumps({"logits": logits.tolist(), "seconds": seconds}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
