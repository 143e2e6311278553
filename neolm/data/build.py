"""The `shards` stage: the token shards of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage
from neolm.core.manifest import Manifest, input_from, require
from neolm.core.progress import count
from neolm.corpus.documents import Split, read_documents
from neolm.data.shards import has_sentences, write_shards
from neolm.tokenizer.tokenizer import load_tokenizer


def build_shards(output: Path, tokenizer_directory: Path | None = None) -> Manifest:
    """Encode `output/corpus` with a tokenizer, by default `output/tokenizer`, into `output/shards`.

    Nothing is done if they are up to date.
    """
    corpus, tokenizer_directory = output / "corpus", tokenizer_directory or output / "tokenizer"
    documents = require(corpus, "corpus", "corpus build RECIPE").counts
    tokenizer = load_tokenizer(tokenizer_directory)
    config = {"vocab_size": tokenizer.size, "eos_token_id": tokenizer.eos_token_id}
    stage = Stage(
        name="shards",
        room="data",
        directory=output / "shards",
        inputs={"corpus": input_from(corpus, output), "tokenizer": input_from(tokenizer_directory, output)},
        config=config | ({"sentences": True} if has_sentences(tokenizer) else {}),
    )

    def make(directory: Path) -> Mapping[str, Any]:
        splits: tuple[Split, ...] = ("train", "validation")
        return {
            split: write_shards(
                read_documents(corpus, split), tokenizer, directory, split, documents[split].get("parts")
            )
            for split in splits
        }

    def summary(counts: Mapping[str, Any]) -> str:
        train = counts["train"]
        sentences = f", in {count(train['sentences'])} sentences" if "sentences" in train else ""
        return (
            f"{count(train['tokens'])} tokens to train on, {train['bytes'] / train['tokens']:.2f} bytes each{sentences}"
        )

    return stage.ensure(make, summary)
