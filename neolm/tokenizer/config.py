"""The `tokenizer` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Config, Unit


class TokenizerConfig(Config):
    """Train a tokenizer on the corpus, or use an existing one."""

    kind: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    """What to train: a byte-level BPE for models that write, or for encoders BERT's WordPiece or ALBERT's Unigram."""
    path: str | None = None
    """An existing tokenizer: a directory with tokenizer.json, GPT-2's two files, vocab.txt or spiece.model, or the
    file tokenizer.json; null: train one."""
    vocab_size: Annotated[int, Field(ge=10), Unit("tokens")] = 4096
    """Size of the trained vocabulary with its special tokens. A bpe has at least 257: the bytes and the end of text."""
    train_bytes: Annotated[int, Field(gt=0), Unit("bytes")] = 100_000_000
    """About how much text to train the tokenizer on, in parts that are spread evenly over the training documents."""

    lowercase: bool = True
    """Lowercase the text (wordpiece, unigram)."""
    strip_accents: bool | None = None
    """Remove accents from the text (wordpiece, unigram); null: as lowercase."""
    byte_fallback: bool = False
    """Encode a character that is not in the vocabulary as the bytes of its UTF-8 instead of `<unk>` (unigram)."""

    @model_validator(mode="after")
    def _room_for_bytes(self) -> Self:
        least = 257 if self.kind == "bpe" else 266 if self.kind == "unigram" and self.byte_fallback else 0
        if self.path is None and self.vocab_size < least:
            raise ValueError(f"vocab_size: {self.vocab_size} tokens have no room for 256 bytes; {least} or more do")
        return self

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        trained = ("kind", "vocab_size", "train_bytes", "lowercase", "strip_accents", "byte_fallback")
        if self.path:
            return dict.fromkeys(trained, "path names an existing tokenizer")
        if self.kind == "bpe":
            return dict.fromkeys(trained[3:], "a byte-level BPE keeps the text as it is")
        return {"byte_fallback": "WordPiece has no tokens of bytes"} if self.kind == "wordpiece" else {}
