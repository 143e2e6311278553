"""The settings of the corpus. Imports nothing heavy: the command line reads them to answer `--help`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neolm.core.config import Config, Unit


class CorpusConfig(Config):
    """Where the raw text lies and what is kept of it."""

    source: Literal["python-stdlib", "files"] = "python-stdlib"
    """`python-stdlib`: the running interpreter's own library, with no download; `files`: your text, see `path`."""

    path: str | None = None
    """A file or a folder of .txt, .md, .py, .jsonl and .parquet (.txt and .jsonl also as .gz or .zst); for `files`."""

    licence: str = "unknown"
    """The licence written beside each document of `files` that states none itself, best by its SPDX name."""

    text_key: Annotated[str, Field(min_length=1)] = "text"
    """The key (.jsonl) or column (.parquet) that holds the text."""

    min_characters: Annotated[int, Field(ge=0), Unit("characters")] = 10
    """Shorter documents, white space at the ends not counted, are dropped as `too_short`."""

    max_line_characters: Annotated[int, Field(ge=1), Unit("characters")] = 100_000
    """Documents with a longer line (dumps, minified code) are dropped as `too_long_lines`."""

    min_text_fraction: Annotated[float, Field(ge=0, le=1), Unit("fraction of characters")] = 0.5
    """Documents with a smaller share of letters, digits and white space are dropped as `mostly_non_text`."""

    split_characters: Annotated[int | None, Field(ge=1), Unit("characters")] = None
    """Cut longer documents into parts of at most so many, at paragraphs where possible; null: leave them whole."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1), Unit("fraction of documents")] = 0.05
    """The share of documents, chosen by a hash of their ids, that is kept from training to measure the model on."""
