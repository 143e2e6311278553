"""The `tokenizer` section of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit


class TokenizerConfig(Config):
    """Train a byte-level BPE on the corpus, or take one that exists."""

    path: str | None = None
    """An existing tokenizer to use instead of training one: a directory, a tokenizer.json, or GPT-2's two files."""
    vocab_size: Annotated[int, Field(ge=257), Unit("tokens")] = 4096
    """Size of the vocabulary to train: 256 bytes, one special token, and merges."""
    train_bytes: Annotated[int, Field(gt=0), Unit("bytes")] = 100_000_000
    """Text to learn merges from, taken evenly over the training documents; more only costs time."""
