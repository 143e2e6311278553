"""Classifiers that look for words, and policies that use them.

The share of a text's tokens that are one of a label's words decides: logit = SHARPNESS * (share * SCALE) - LIMIT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny_encoders import VOCABULARY, tiny_encoder, write_json

from neolm.models.hf import save_model

SIZE = 8


def write_word_classifier(
    directory: Path,
    words: Mapping[str, Sequence[str]],
    prediction: Mapping[str, Any] | None = None,
    sharpness: float = 200.0,
    **fields: Any,
) -> Path:
    """A BERT that gives a label to texts with one of its words; a label without words has the logit 0."""
    sizes = {"num_layers": 1, "hidden_size": SIZE, "num_heads": 1, "pooling": "mean", "pooler": False}
    labels = {"head": "sequence", "num_labels": len(words), "labels": tuple(words)}
    model = tiny_encoder("bert", vocab_size=len(VOCABULARY), **sizes, **labels, **fields)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        model.embedding.weight[:, -1] = 1.0  # all other words
        model.head.weight.zero_()
        for number, found in enumerate(words.values()):
            for word in found:
                model.embedding.weight[VOCABULARY.index(word)] = torch.eye(SIZE)[number]
            if found:
                model.head.weight[number, number] = sharpness
                # Normalised, a word has 2.65 in its own place and -0.38 in the others.
                model.head.bias[number] = sharpness * 0.378 - 10.0
    save_model(model, directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    if prediction is not None:
        write_json(directory / "prediction.json", {"task": "classification", **prediction})
    return directory


CATEGORY = {"model": "words", "labels": ["bad"], "prompt": "flag", "answer": "block"}
POLICY: dict[str, Any] = {
    "version": "7",
    "mode": "block",
    "models": {"words": "set by write_policy"},
    "categories": {"coldness": CATEGORY},
    "canaries": [
        {"text": "the sea is cold", "category": "coldness", "expected": True},
        {"text": "the sea", "category": "coldness", "expected": False},
    ],
}


def write_policy(path: Path, classifier: Path, **keys: Any) -> Path:
    """A policy with one category; `keys` replace its keys, and None removes one."""
    content = POLICY | {"models": {"words": str(classifier)}} | keys
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path
