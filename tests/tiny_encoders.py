"""Tiny encoders whose output depends on the whole input."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.models.hf import save_model

WORDS = ["the", "sea", "water", "day", "clock", "cold", "and", "of", "is", "was", "in", ".", ",", "?", "##s", "##ing"]
LETTERS = list(string.ascii_lowercase)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def tiny_encoder(family: str, seed: int = 0, spread: float = 0.2, **fields: Any) -> Encoder:
    """Return a model with two layers of 32 channels (or `fields`) and random numbers in all of its parameters."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 97, "max_position_embeddings": 40}
    narrow = {"embedding_size": 16} if family == "albert" else {}
    quiet = {"residual_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
    model = Encoder(encoder_config(family, **{**sizes, **narrow, **quiet, **fields}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + centre)
    return model.eval()


def padded_batch(vocab_size: int, lengths: list[int], width: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens, token types and mask (B, T) of sequences with these lengths, padded to `width` on the right."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), width)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {
        "input_ids": torch.randint(vocab_size, shape, generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, shape, generator=generator),
    }


def write_encoder(directory: Path, seed: int = 0, pooling: str | None = "mean", normalize: bool = True) -> Path:
    """A tiny BERT with a WordPiece vocabulary; `pooling` (mean, cls, max) writes sentence-transformers' files."""
    save_model(tiny_encoder("bert", seed, vocab_size=len(VOCABULARY), spread=0.3), directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    if pooling is not None:
        steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
        folders = ["", *(f"{number}_{step}" for number, step in enumerate(steps) if number)]
        modules = [
            {"idx": number, "name": str(number), "path": folder, "type": f"sentence_transformers.models.{step}"}
            for number, (folder, step) in enumerate(zip(folders, steps, strict=True))
        ]
        write_json(directory / "modules.json", modules)
        name = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
        flags = {f"pooling_mode_{other}": other == name for other in ("cls_token", "mean_tokens", "max_tokens")}
        write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})
    return directory


def write_classifier(directory: Path, prediction: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """A tiny BERT with the head of a classifier of texts, and its `prediction.json` if there are settings."""
    head = {"head": "sequence", "num_labels": 3, "pooling": "mean", "pooler": False, **fields}
    save_model(tiny_encoder("bert", vocab_size=len(VOCABULARY), spread=0.4, **head), directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    if prediction is not None:
        write_json(directory / "prediction.json", {"task": "classification", **prediction})
    return directory


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
