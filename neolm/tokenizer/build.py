"""The `tokenizer` stage: train a tokenizer on the corpus, or copy an existing one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage
from neolm.core.config import defaults
from neolm.core.files import expanded
from neolm.core.manifest import Manifest, input_from, require
from neolm.core.progress import count, task
from neolm.corpus.documents import read_documents
from neolm.corpus.text import split_text
from neolm.tokenizer.config import TokenizerConfig
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer, train_tokenizer
from neolm.tokenizer.train_encoder import train_encoder_tokenizer

MAX_PART_CHARACTERS = 2**14
MIN_PARTS = 16  # at least so many parts make up the text that a tokenizer is trained on


def build_tokenizer(output: Path, config: TokenizerConfig) -> Manifest:
    """Train or copy `output/tokenizer`, unless it is up to date. Training reads the training split of the corpus."""
    corpus = output / "corpus"
    counts = require(corpus, "corpus", "corpus build RECIPE").counts["train"]
    total = counts["bytes"]
    source = expanded(config.path) if config.path else None
    inputs = {"corpus": input_from(corpus, output)} if source is None else {"tokenizer": input_from(source, output)}
    settings = config.model_dump()
    paths, known = {"path": "tokenizer"}, defaults(config)
    stage = Stage("tokenizer", "tokenizer", output / "tokenizer", inputs, settings, paths=paths, defaults=known)

    def make(directory: Path) -> Mapping[str, Any]:
        if source is not None:
            copy_tokenizer(source, directory)
            return {"tokens": load_tokenizer(directory).size}
        samples: list[Sample] = []
        passes = 1 if config.kind == "bpe" else 2
        with task("Training the tokenizer", passes * (counts.get("parts") or 0) or None, "documents") as progress:

            def texts() -> Iterator[str]:
                samples.append(Sample(config.train_bytes, total))
                return samples[-1].of(_texts(corpus, progress.advance))

            tokenizer = _trained(texts, config)
        tokenizer.save(directory)
        return {"tokens": tokenizer.size, "bytes": samples[-1].bytes}

    def summary(counts: Mapping[str, Any]) -> str:
        part = f", trained on {counts['bytes']:,} of {total:,} bytes" if counts.get("bytes", total) < total else ""
        return f"{count(counts['tokens'])} tokens{part}"

    return stage.ensure(make, summary)


def _trained(texts: Callable[[], Iterator[str]], config: TokenizerConfig) -> Tokenizer:
    if config.kind == "bpe":
        return train_tokenizer(texts(), config.vocab_size)
    return train_encoder_tokenizer(
        texts, config.kind, config.vocab_size, config.lowercase, config.strip_accents, config.byte_fallback
    )


class Sample:
    """About `limit` bytes of `total` bytes of text, spread evenly over it whatever the sizes of the documents are."""

    def __init__(self, limit: int, total: int) -> None:
        self._limit, self._total = limit, total
        self.bytes = 0
        """UTF-8 bytes that were taken so far."""

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """All of `texts` if they are within the limit, else parts of them, between lines or words if possible."""
        whole = self._total <= self._limit
        part_characters = min(MAX_PART_CHARACTERS, -(-self._limit // MIN_PARTS))
        passed = 0
        for text in texts:
            for part in [text] if whole else split_text(text, part_characters):
                size = len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
                # A part is taken whenever the share taken so far is not above the share that was asked for.
                if whole or self.bytes * self._total <= passed * self._limit:
                    self.bytes += size
                    yield part
                passed += size


def _texts(corpus: Path, advance: Callable[[], None]) -> Iterator[str]:
    for document in read_documents(corpus, "train"):
        advance()
        yield document.text
