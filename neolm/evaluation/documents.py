"""Documents to measure on: of a file or folder, and a choice of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from neolm.core.errors import InputError, SettingError
from neolm.corpus.build import nothing_kept
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import Record, read_records
from neolm.corpus.remote import is_remote
from neolm.corpus.sources import find_files
from neolm.evaluation.baselines import spread_sample
from neolm.evaluation.config import TextEvaluateConfig
from neolm.evaluation.measurement import TextDocument, group_of
from neolm.evaluation.perplexity import text_bytes

D = TypeVar("D", bound=TextDocument)


class RawDocuments:
    """The documents of a file or folder without normalisation or filters; unreadable ones are counted by reason."""

    def __init__(self, path: str | Path, config: TextEvaluateConfig, model: Path) -> None:
        """List the files. Those of the directory `model` are not text to measure on.

        Raises:
            InputError: the path does not exist or has no file that can be read.
        """
        self._config = CorpusConfig(
            source="files", path=str(path), text_key=config.text_key, max_document_bytes=config.max_document_bytes
        )
        if is_remote(str(path)):
            raise InputError(f"text: {path}: only local files are measured; download it first")
        self._rejected: dict[str, dict[str, int]] = {}
        try:
            self._raw = find_files(self._config, model)
        except SettingError as error:
            raise InputError(f"text: {error.problem}") from None

    def __iter__(self) -> Iterator[Record]:
        """Read the files. Raises InputError with the reasons if no document is readable."""
        self._rejected.clear()
        readable = 0
        for record in (record for file in self._raw.files for record in read_records(file, self._config)):
            if record.reason is None:
                readable += 1
                yield record
            else:
                rejected = self._rejected.setdefault(record.reason, {"documents": 0, "bytes": 0})
                rejected["documents"] += 1
                rejected["bytes"] += record.size
        if not readable:
            raise InputError(f"text: {self._raw.location}: {nothing_kept(self._raw, self._rejected, section='--set ')}")

    def left_out(self) -> dict[str, Any]:
        """What is not measured, as the manifest of a corpus has it: `rejected` by reason, `ignored_kinds`, `links`."""
        return {
            "rejected": {reason: self._rejected[reason] for reason in sorted(self._rejected)},
            "ignored_kinds": dict(self._raw.ignored),
            "links": self._raw.links.describe(),
        }


def choose_documents(documents: Iterable[D], max_bytes: int | None, seed: int = 0) -> tuple[list[D], dict[str, int]]:
    """Return the documents to measure on, in the order of their hash, and the numbers of documents and bytes available.

    Raises:
        InputError: there is no document, or none with text.
    """
    available = {"documents": 0, "bytes": 0}

    def counted() -> Iterator[D]:
        for document in documents:
            available["documents"] += 1
            available["bytes"] += size(document)
            yield document

    chosen = spread_sample(counted(), size, max_bytes, lambda document: text_bytes(document.id), seed)
    if not available["documents"]:
        raise InputError("evaluation: there is no document to measure on: none was held out, or none is text")
    if not available["bytes"]:
        raise InputError("evaluation: the documents to measure on are all empty")
    return chosen, available


def size(document: TextDocument) -> int:
    """Bytes of the text."""
    return len(text_bytes(document.text))


def first_parts(documents: Iterable[D]) -> Iterator[D]:
    """The first part of each document that has text."""
    seen: set[str] = set()
    for document in documents:
        if group_of(document) not in seen and document.text.strip():
            seen.add(group_of(document))
            yield document
