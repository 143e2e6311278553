"""Pretraining of BERT and ALBERT with Hugging Face transformers in a plain loop, on padded batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from plain_loop import train_with_plain_loop
from protocol import Channel, Gate
from torch import Tensor
from transformers import AlbertConfig, AlbertForPreTraining, BertConfig, BertForPreTraining, PreTrainedModel

PADDING = {"labels": -100}  # 0 in the other tensors
NAMES = ("input_ids", "token_type_ids", "attention_mask", "labels")


def main() -> None:
    channel = Channel()
    job = channel.job
    torch.manual_seed(job["seed"])
    model = build_model(job["shape"]).to(job["device"])
    label = "sentence_order_label" if job["shape"]["family"] == "albert" else "next_sentence_label"
    Gate(channel)
    called = torch.compile(model) if job["compile"] else model

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        return called(**{name: batch[name] for name in NAMES}, **{label: batch["sentence_labels"]}).loss

    train_with_plain_loop(model, loss, job, batches(job))


def batches(job: Mapping[str, Any]) -> Iterator[Mapping[str, Tensor]]:
    """Yield the stored batches in order, and again without end.

    They are padded to their longest sequence; to the same length all, if the model is compiled.
    """
    stored = torch.load(Path(job["data"]) / "batches.pt", weights_only=True)
    if job["compile"]:
        for batch, name in itertools.product(stored, NAMES):
            missing = job["shape"]["sequence_length"] - batch[name].shape[1]
            batch[name] = torch.nn.functional.pad(batch[name], (0, missing), value=PADDING.get(name, 0))
    for batch in itertools.cycle(stored):
        yield {name: tensor.to(job["device"]) for name, tensor in batch.items()}


def build_model(shape: Mapping[str, Any]) -> PreTrainedModel:
    """Return a new model of `shape` with both pretraining heads."""
    sizes = {
        "vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["context"],
        "hidden_size": shape["hidden_size"],
        "num_hidden_layers": shape["num_layers"],
        "num_attention_heads": shape["num_heads"],
        "intermediate_size": 4 * shape["hidden_size"],
        "hidden_act": shape["activation"],
        "hidden_dropout_prob": shape["dropout"],
        "attention_probs_dropout_prob": shape["dropout"],
    }
    if shape["family"] == "albert":
        config = AlbertConfig(**sizes, embedding_size=shape["embedding_size"], classifier_dropout_prob=shape["dropout"])
        return AlbertForPreTraining(config)
    return BertForPreTraining(BertConfig(**sizes))


if __name__ == "__main__":
    main()
