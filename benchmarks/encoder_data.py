"""Data of the encoder benchmarks: token shards of real text, and the batches that all contestants train on.

As a program it reads its job as JSON from the command line, prepares the shards with NeoLM's pipeline unless they are
up to date, and writes `batches.pt` (a list of dictionaries of tensors) and `facts.json` for the other contestants.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import neolm
from neolm.data.segment_batches import SegmentBatches
from neolm.data.shards import TokenShards
from neolm.models.encoder_config import EncoderConfig, encoder_config
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.training.pretrain_config import PretrainConfig


def main() -> None:
    job = json.loads(sys.argv[1])
    shape, directory = job["shape"], Path(job["data"])
    neolm.run(
        {
            "output": job["store"],
            "corpus": {"source": "files", "path": job["text"]},
            "tokenizer": {"kind": "wordpiece", "vocab_size": shape["vocab_size"]},
            "model": {"family": shape["family"]},
            "pretrain": {"steps": 1},  # only asks for shards
        },
        until="shards",
    )
    data, config = segment_batches(job), pretrain_config(job)
    stored = [dict(data.batch(step)) for step in range(1, job["steps"] + 1)]
    torch.save(stored, directory / "batches.pt")
    tokens = [int(batch["attention_mask"].sum()) for batch in stored]
    predictions = config.masking.predictions(config.sequence_length) / config.sequence_length
    facts = {
        "tokens": tokens,
        "padding": 1 - sum(tokens) / sum(batch["input_ids"].numel() for batch in stored),
        "flops_per_token": architecture(shape).flops_per_token(config.sequence_length, predictions),
    }
    (directory / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def architecture(shape: Mapping[str, Any]) -> EncoderConfig:
    """The model of `shape`, with both pretraining heads."""
    return encoder_config(
        shape["family"],
        hidden_size=shape["hidden_size"],
        embedding_size=shape["embedding_size"],
        num_layers=shape["num_layers"],
        num_heads=shape["num_heads"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["context"],
        activation=shape["activation"],
        residual_dropout=shape["dropout"],
        attention_dropout=shape["dropout"],
        classifier_dropout=shape["dropout"],
    )


def pretrain_config(job: Mapping[str, Any], **more: Any) -> PretrainConfig:
    """The settings of the training of a job: masks and sentence task as published; `more` are further settings."""
    shape = job["shape"]
    albert = shape["family"] == "albert"
    settings = {
        "steps": 10**9,
        "sequence_length": shape["sequence_length"],
        "batch_size": shape["batch_size"],
        "masking": {"max_ngram": 3 if albert else 1},
        "segments": {"task": "sop" if albert else "nsp"},
        **more,
    }
    return PretrainConfig.model_validate_json(json.dumps(settings))


def segment_batches(job: Mapping[str, Any]) -> SegmentBatches:
    """The training batches of a job, from its shards."""
    config, store = pretrain_config(job), Path(job["store"])
    shards = TokenShards(store / "shards", "train", load_tokenizer(store / "tokenizer").size)
    settings = config.lengths, config.batch_sizes, job["seed"], config.masking, config.segments
    return SegmentBatches(shards, load_tokenizer(store / "tokenizer"), *settings)


if __name__ == "__main__":
    main()
