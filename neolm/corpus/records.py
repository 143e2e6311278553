"""Read raw files as streams of records. A record is a text with its origin, or the reason why it is unreadable.

Reasons: `broken_utf8`, `broken_json`, `missing_text`, `binary`, `truncated`, `unreadable`. A bad record does not stop
the others from being read.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.corpus.chunks import DamagedFileError, Line, read_chunks, read_lines
from neolm.corpus.config import CorpusConfig
from neolm.corpus.sources import PYTHON_LICENCE, RawFile
from neolm.corpus.text import BYTE_ORDER_MARK, is_storable, storable

UNREADABLE_CHARACTERS = 10_000  # characters that are kept of an unreadable text


@dataclass(frozen=True)
class Record:
    """A document as it was found. If it has a `reason`, `text` is only the part that could be decoded."""

    id: str
    text: str
    source: str
    licence: str
    metadata: str
    size: int
    """UTF-8 bytes of the raw text, or the number of bytes read if it is not text."""
    reason: str | None = None
    parent: str | None = None
    """The document that this is a part of, if the record states one."""


@dataclass(frozen=True)
class _Origin:
    """The origin of a record: from its file, unless the record states its own."""

    id: str
    source: str
    licence: str
    parent: str | None = None

    def accept(self, text: str, metadata: Mapping[str, Any] | None = None) -> Record:
        size = len(text.encode("utf-8"))
        return Record(self.id, text, self.source, self.licence, _json(metadata or {}), size, parent=self.parent)

    def refuse(self, reason: str, raw: bytes | str, why: str) -> Record:
        data = raw.encode("utf-8", "backslashreplace") if isinstance(raw, str) else raw
        shown = data[:UNREADABLE_CHARACTERS].decode("utf-8", "backslashreplace")[:UNREADABLE_CHARACTERS]
        error = _json({"error": why})
        return Record(self.id, shown, self.source, self.licence, error, len(data), reason, self.parent)


def read_records(file: RawFile, config: CorpusConfig) -> Iterator[Record]:
    """Every record of `file`, in the order of the file."""
    name, standard = storable(file.name), config.source == "python-stdlib"
    source, licence = ("python-stdlib", PYTHON_LICENCE) if standard else (name, config.licence)
    origin = _Origin(name, source, licence)
    if file.kind == "topics":
        yield from _topics(origin)
    elif file.kind == "text":
        yield _text_file(Path(file.path), origin)
    elif file.kind == "json":
        yield from _json_lines(Path(file.path), origin, config.text_key)
    else:
        yield from _parquet_rows(Path(file.path), origin, config.text_key)


def _topics(origin: _Origin) -> Iterator[Record]:
    """The texts of Python's own help system."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        yield origin.refuse("unreadable", "", str(error))
        return
    for name, text in sorted(topics.items()):
        yield _Origin(f"pydoc-topics/{name}", origin.source, origin.licence).accept(text)


def _text_file(path: Path, origin: _Origin) -> Record:
    chunks: list[bytes] = []
    try:
        for chunk in read_chunks(path):
            chunks.append(chunk)
            if b"\0" in chunk:  # the rest of a binary file need not be read
                return _not_text(b"".join(chunks), origin)
    except DamagedFileError as damage:
        return origin.refuse(damage.reason, b"".join(chunks), str(damage))
    data = b"".join(chunks)
    try:
        return origin.accept(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return origin.refuse("broken_utf8", data, f"{error.reason} at byte {error.start}")


def _not_text(data: bytes, origin: _Origin) -> Record:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return origin.refuse("broken_utf8", data, "this is UTF-16")
    return origin.refuse("binary", data, f"NUL at byte {data.index(0)}")


def _json_lines(path: Path, origin: _Origin, text_key: str) -> Iterator[Record]:
    for line in read_lines(path):
        if line.damage is not None or line.data.strip():
            place = _Origin(f"{origin.id}:{line.number}", origin.source, origin.licence)
            yield _json_line(line, place, text_key)


def _json_line(line: Line, origin: _Origin, text_key: str) -> Record:
    if line.damage is not None:
        return origin.refuse(line.damage.reason, line.data, str(line.damage))
    if b"\0" in line.data:
        return _not_text(line.data, origin)
    try:
        text = line.data.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
        value = json.loads(text, parse_constant=str)  # NaN is not JSON: it would break the metadata column
    except UnicodeDecodeError as error:
        return origin.refuse("broken_utf8", line.data, f"{error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return origin.refuse("broken_json", line.data, str(error) or type(error).__name__)
    if not isinstance(value, dict):
        return origin.refuse("missing_text", line.data, f"a JSON {type(value).__name__}, not an object")
    return _mapping(value, line.data, origin, text_key)


def _parquet_rows(path: Path, origin: _Origin, text_key: str) -> Iterator[Record]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            known = {text_key, "id", "parent", "source", "licence", "license", "meta", "metadata"}
            columns = [name for name in file.schema_arrow.names if name in known]
            if text_key not in columns:
                yield origin.refuse("missing_text", "", f"no column '{text_key}'")
                return
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for value in batch.to_pylist():
                    row += 1
                    place = _Origin(f"{origin.id}:{row}", origin.source, origin.licence)
                    yield _mapping(value, _json(value), place, text_key)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        place = _Origin(f"{origin.id}:{row + 1}", origin.source, origin.licence)
        yield place.refuse("unreadable", "", str(error).split("\n", maxsplit=1)[0])


def _mapping(value: Mapping[str, Any], raw: bytes | str, place: _Origin, text_key: str) -> Record:
    """A record from a JSON object or a Parquet row. `raw` is kept if it has no text."""
    metadata = _metadata(value)
    origin = _Origin(
        id=_identity(value.get("id")) or place.id,
        source=_name(metadata.get("pile_set_name")) or _name(value.get("source")) or place.source,
        licence=_name(value.get("licence")) or _name(value.get("license")) or place.licence,
        parent=_identity(value.get("parent")),
    )
    text = value.get(text_key)
    if not isinstance(text, str):
        found = f"is {type(text).__name__}, not text" if text_key in value else "is missing"
        return origin.refuse("missing_text", raw, f"'{text_key}' {found}")
    if "\0" in text:
        return origin.refuse("binary", text, "NUL in the text")
    if not is_storable(text):
        return origin.refuse("broken_utf8", text, "half a surrogate pair")
    return origin.accept(text, metadata)


def _metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` or `metadata`, if it is a mapping, or a JSON object as text, as in the corpora that NeoLM writes."""
    for key in ("meta", "metadata"):
        found = value.get(key)
        if isinstance(found, str):
            try:
                found = json.loads(found, parse_constant=str)
            except (ValueError, RecursionError):
                continue
        if isinstance(found, Mapping):
            return found
    return {}


def _identity(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _name(value)


def _name(value: Any) -> str | None:
    return storable(value) if isinstance(value, str) and value else None


def _json(value: Mapping[str, Any]) -> str:
    return storable(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))
