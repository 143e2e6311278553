"""The `tokenizer` stage: train a tokenizer on the corpus, or copy an existing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Manifest, Stage, input_from, require
from neolm.core.files import expanded
from neolm.core.progress import count, task
from neolm.corpus.documents import read_documents
from neolm.tokenizer.config import TokenizerConfig
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer, train_tokenizer


def build_tokenizer(output: Path, config: TokenizerConfig) -> Manifest:
    """Train or copy `output/tokenizer`, unless it is up to date. Training reads the training split of the corpus."""
    corpus = output / "corpus"
    counts = require(corpus, "corpus", "corpus build RECIPE").counts["train"]
    source = expanded(config.path) if config.path else None
    inputs = {"corpus": input_from(corpus, output)} if source is None else {"tokenizer": input_from(source, output)}
    stage = Stage("tokenizer", "tokenizer", output / "tokenizer", inputs, config.model_dump())

    def make(directory: Path) -> Mapping[str, Any]:
        if source is not None:
            copy_tokenizer(source, directory)
            return {"tokens": load_tokenizer(directory).size}
        every = max(1, -(-counts["bytes"] // config.train_bytes))
        with task("Training the tokenizer", counts.get("parts"), "documents") as progress:
            tokenizer = train_tokenizer(_training_texts(corpus, every, progress.advance), config.vocab_size)
        tokenizer.save(directory)
        return {"tokens": tokenizer.size, "every": every}

    return stage.ensure(make, lambda counts: f"{count(counts['tokens'])} tokens")


def _training_texts(corpus: Path, every: int, advance: Any) -> Iterator[str]:
    """The text of every `every`-th training document."""
    for number, document in enumerate(read_documents(corpus, "train")):
        advance()
        if number % every == 0:
            yield document.text
