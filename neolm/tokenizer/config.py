"""The `tokenizer` section of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit


class TokenizerConfig(Config):
    """Train a byte-level BPE on the corpus, or use an existing tokenizer."""

    path: str | None = None
    """An existing tokenizer: a directory with tokenizer.json or GPT-2's two files, or the file; null: train one."""
    vocab_size: Annotated[int, Field(ge=257), Unit("tokens")] = 4096
    """Size of the trained vocabulary: 256 bytes, the end-of-text token and merges."""
    train_bytes: Annotated[int, Field(gt=0), Unit("bytes")] = 100_000_000
    """About how much text to train the tokenizer on, in parts that are spread evenly over the training documents."""

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return dict.fromkeys(("vocab_size", "train_bytes"), "path names an existing tokenizer") if self.path else {}
