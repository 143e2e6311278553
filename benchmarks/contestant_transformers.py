"""Training with Hugging Face transformers: in a plain loop, optionally compiled, or with Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from plain_loop import train_with_plain_loop, windows
from protocol import Channel, Gate
from shapes import BETAS, EPSILON, GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    channel = Channel()
    job = channel.job
    torch.manual_seed(job["seed"])
    model = build_model(job["shape"])
    Gate(channel)
    if job["loop"] == "trainer":
        train_with_trainer(model, job)
        return
    model.to(job["device"], torch.bfloat16 if job["weights"] == "bfloat16" else None)
    if job["shape"]["activation_checkpointing"]:
        model.gradient_checkpointing_enable()
    called = torch.compile(model) if job["compile"] else model

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return called(input_ids=batch[:, :-1], labels=batch[:, :-1], use_cache=False).loss

    train_with_plain_loop(model, loss, job)


def build_model(shape: Mapping[str, Any]) -> PreTrainedModel:
    """Return a new model of `shape`, without dropout."""
    sizes = {
        "vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["context"],
        "hidden_size": shape["hidden_size"],
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if shape["family"] == "gpt-neo":
        return GPTNeoForCausalLM(
            GPTNeoConfig(
                **sizes,
                num_layers=shape["num_layers"],
                num_heads=shape["num_heads"],
                attention_types=[[["global", "local"], shape["num_layers"] // 2]],
                window_size=shape["window_size"],
            )
        )
    sizes |= {"num_hidden_layers": shape["num_layers"], "num_attention_heads": shape["num_heads"]}
    if shape["family"] == "gpt-neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=4 * shape["hidden_size"]))
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The job's tokens as a dataset for Trainer."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.windows = windows(job)[:, :-1].contiguous()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def train_with_trainer(model: PreTrainedModel, job: Mapping[str, Any]) -> None:
    """Train `model` with transformers' Trainer until the gate ends the process."""
    cpu = job["device"] == "cpu"
    arguments = TrainingArguments(
        output_dir=job["directory"],
        max_steps=10**9,
        per_device_train_batch_size=job["shape"]["batch_size"],
        gradient_checkpointing=job["shape"]["activation_checkpointing"],
        bf16=job["precision"] == "bfloat16",
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=GRADIENT_CLIP,
        torch_compile=job["compile"],
        save_strategy="no",
        eval_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
    )
    Trainer(model=model, args=arguments, train_dataset=Windows(job)).train()


if __name__ == "__main__":
    main()
