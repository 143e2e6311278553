"""The command `neolm corpus inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A corpus, or the run that it belongs to.")],
    pattern: Annotated[
        str | None, typer.Option("--search", help="A regular expression that the text matches, whatever the case.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Documents that were rejected for this reason.")] = None,
    name: Annotated[str | None, typer.Option("--id", help="One document, whole, with what was measured.")] = None,
    near_to: Annotated[
        str | None, typer.Option("--near", metavar="ID", help="The documents with most of this one's word sequences.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of documents that are shown.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each document.")] = False,
) -> None:
    """Look into a corpus: random documents, or those that are asked for."""
    from neolm.core.errors import InputError
    from neolm.corpus.browse import described, document, near, rejected, sample, search

    if sum(value is not None for value in (pattern, reason, name, near_to)) > 1:
        raise InputError("corpus inspect: give one of --search, --reason, --id and --near")
    corpus = directory / "corpus" if (directory / "corpus").is_dir() else directory
    if pattern is not None:
        found = search(corpus, pattern, limit)
    elif reason is not None:
        found = rejected(corpus, reason, limit)
    elif name is not None:
        found = document(corpus, name)
    else:
        found = sample(corpus, limit) if near_to is None else near(corpus, near_to, limit)
    for row in found:
        print(json.dumps(row, ensure_ascii=False) if as_json else f"{described(row, name is not None)}\n")
    if not found:
        raise InputError(f"{corpus}: no document is found")
