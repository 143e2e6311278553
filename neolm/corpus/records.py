"""Read raw files as streams of records. A record is a text with its origin, or the reason why it is unreadable.

The reasons are in `neolm.corpus.reasons`. A bad record does not stop the others from being read.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neolm.core.chunks import ChunkStream, DamageError, Expansion, Line, find_damage, read_chunks, read_lines
from neolm.core.text_encoding import BYTE_ORDER_MARK, is_storable, storable
from neolm.corpus.code import LANGUAGES, generated, is_allowed, licence_of
from neolm.corpus.config import CorpusConfig
from neolm.corpus.sources import ARCHIVES, PYTHON_LICENCE, RawFile, kind_of, suffixes
from neolm.formats.archives import read_tar, read_zip
from neolm.formats.delimited import read_delimited
from neolm.formats.item import Item, digest_of
from neolm.formats.json_values import json_text, parse_json
from neolm.formats.mailbox import read_mbox
from neolm.formats.mediawiki import read_wiki
from neolm.formats.pages import extract
from neolm.formats.parquet import first_line, read_rows
from neolm.formats.warc import read_warc

UNREADABLE_CHARACTERS = 10_000  # characters that are kept of an unreadable text
NAME_CHARACTERS = 4096  # of an id, source or licence: they are compared in memory and listed in manifests


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
    facts: Mapping[str, str] = field(default_factory=dict)
    """The metadata of every document of the file."""

    def accept(self, text: str, metadata: Mapping[str, Any] = MappingProxyType({}), size: int | None = None) -> Record:
        if size is None:
            size = len(text) if text.isascii() else len(text.encode("utf-8"))
        known = json_text({**self.facts, **metadata})
        return Record(self.id, text, self.source, self.licence, known, size, parent=self.parent)

    def refuse(self, reason: str, raw: bytes | str, why: str, size: int | None = None) -> Record:
        data = raw.encode("utf-8", "backslashreplace") if isinstance(raw, str) else raw
        shown = data[:UNREADABLE_CHARACTERS].decode("utf-8", "backslashreplace")[:UNREADABLE_CHARACTERS]
        error = json_text({**self.facts, "error": why})
        size = len(data) if size is None else size
        return Record(self.id, shown, self.source, self.licence, error, size, reason, self.parent)


def read_records(file: RawFile, config: CorpusConfig) -> Iterator[Record]:
    """Every record of `file`, in the order of the file. A file that cannot be read ends with a record with a reason."""
    name, standard = storable(file.name), config.source == "python-stdlib"
    source, licence = ("python-stdlib", PYTHON_LICENCE) if standard else (name, file.licence or config.licence)
    origin = _Origin(name, source, licence, facts=file.facts)
    try:
        if file.failure:
            raise DamageError("unreachable", file.failure)
        for record in _records(file, origin, config):
            if record.reason or not config.licences or is_allowed(record.licence, config.licences):
                yield record
            else:
                why = {**json.loads(record.metadata), "why": f"the licence is {record.licence}"}
                yield replace(record, reason="licence", metadata=json_text(why))
    except DamageError as damage:
        yield origin.refuse(damage.reason, b"", str(damage))
    except (
        Exception
    ) as error:  # libraries raise what they like for a damaged file; the other files are still to be read
        yield origin.refuse("unreadable", b"", first_line(error))


def _records(file: RawFile, origin: _Origin, config: CorpusConfig) -> Iterator[Record]:
    limit = config.max_document_bytes
    if file.kind == "topics":
        yield from _topics(origin)
    elif file.kind == "parquet":
        known = {config.text_key, "id", "parent", "source", "licence", "license", "meta", "metadata"}
        yield from _rows(read_rows(Path(file.path), known, config.text_key, limit), file, origin, config)
    elif file.kind == "text":
        yield from _text_file(read_chunks(file.content, file.compression, limit), origin, limit)
    elif file.kind == "code":
        yield from _source_code(file, origin, config)
    elif file.kind == "csv":
        yield from _rows(read_delimited(file.content, file.compression, config.text_key), file, origin, config)
    elif file.kind == "json":
        yield from _json_lines(file, origin, config)
    elif file.kind == "html":
        data = ChunkStream(read_chunks(file.content, file.compression, limit)).read(limit + 1)
        too_large = DamageError("too_large", f"the page has more than {limit:,} bytes") if len(data) > limit else None
        yield _document(Item("", data, "html", damage=too_large), origin, config)
    else:
        yield from _items(file, origin, config)


def _items(file: RawFile, origin: _Origin, config: CorpusConfig) -> Iterator[Record]:
    """The documents inside a file with many."""
    limit = config.max_document_bytes
    expansion = Expansion(file.size, limit)
    chunks = read_chunks(file.content, file.compression, limit)
    items = read_zip(Path(file.path), limit) if file.kind == "zip" else _READERS[file.kind](chunks, limit)
    for number, item in enumerate(items, start=1):
        expansion.check(number)
        if file.kind in ARCHIVES:
            yield from _member(item, file, origin, config)
        else:
            name = storable(f"{origin.id}:{item.name}"[:NAME_CHARACTERS])
            yield _document(item, replace(origin, id=name), config)


def _member(item: Item, file: RawFile, origin: _Origin, config: CorpusConfig) -> Iterator[Record]:
    """The documents of a member of an archive, which is read like a file below the archive."""
    name = storable(f"{origin.id}/{item.name}"[-NAME_CHARACTERS:])
    kind, damage = kind_of(name, config.code is not None), item.damage
    if damage is None and kind in (None, "parquet", *ARCHIVES):
        damage = DamageError("other_format", "files of this kind are not read in archives")
    if kind is None or damage is not None:
        yield _document(replace(item, damage=damage), replace(origin, id=name), config)
    else:
        size, compression = len(item.data), suffixes(name)[1]
        member = replace(file, name=name, kind=kind, size=size, compression=compression, data=item.data)
        yield from read_records(member, config)


_READERS: dict[str, Callable[[Iterable[bytes], int], Iterator[Item]]] = {
    "warc": read_warc,
    "mbox": read_mbox,
    "wiki": read_wiki,
    "tar": read_tar,
}


def _document(item: Item, origin: _Origin, config: CorpusConfig) -> Record:
    """The record of a page or a text, with its facts and the digest of its raw bytes."""
    try:
        if item.damage is not None:
            raise item.damage
        if item.kind == "text" and item.charset in ("utf-8", "us-ascii"):
            found: dict[str, Any] = {"text": item.data.decode("utf-8").replace("\0", "")}
        else:
            found = extract(item.data, config.extractor if item.kind == "html" else item.kind, item.charset)
    except UnicodeDecodeError as error:
        return origin.refuse("broken_utf8", item.data, f"{error.reason} at byte {error.start}")
    except DamageError as damage:
        return origin.refuse(damage.reason, item.data, str(damage))
    return origin.accept(storable(found.pop("text")), item.metadata | found, len(item.data))


def _topics(origin: _Origin) -> Iterator[Record]:
    """The texts of Python's own help system."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        yield origin.refuse("unreadable", "", str(error))
        return
    for name, text in sorted(topics.items()):
        yield _Origin(f"pydoc-topics/{name}", origin.source, origin.licence).accept(text)


def _text_file(chunks: Iterable[bytes], origin: _Origin, limit: int) -> Iterator[Record]:
    """The file as one record, and a second one if the file is damaged although its text is complete."""
    parts: list[bytes] = []
    size, damage = 0, None
    try:
        for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if b"\0" in chunk:  # the rest of a binary file need not be read
                yield _not_text(b"".join(parts), origin)
                return
            if size > limit:
                raise DamageError("too_large", f"the file has more than {limit:,} bytes")
    except DamageError as error:
        damage = error
    if damage is not None and not damage.complete:
        yield origin.refuse(damage.reason, b"".join(parts[:1]), str(damage), size)
        return
    data = b"".join(parts)
    parts.clear()
    try:
        yield origin.accept(data.decode("utf-8"), {"digest": digest_of(data)})
    except UnicodeDecodeError as error:
        yield origin.refuse("broken_utf8", data, f"{error.reason} at byte {error.start}")
    if damage is not None:
        yield origin.refuse(damage.reason, b"", str(damage))


def _source_code(file: RawFile, origin: _Origin, config: CorpusConfig) -> Iterator[Record]:
    """A file of source code with its language and its licence, or the reason why nobody wrote it by hand."""
    assert config.code is not None
    limit, language = config.max_document_bytes, LANGUAGES[suffixes(file.name)[0]]
    for record in _text_file(read_chunks(file.content, file.compression, limit), origin, limit):
        if record.reason is not None:
            yield record
        elif why := generated(origin.id, record.text, config.code):
            yield origin.refuse("generated", record.text, why, record.size)
        else:
            stated = licence_of(record.text)
            known = {"programming_language": language} | ({"licence_from": "header"} if stated else {})
            metadata = json_text(json.loads(record.metadata) | known)
            yield replace(record, licence=stated or record.licence, metadata=metadata)


def _not_text(data: bytes, origin: _Origin) -> Record:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return origin.refuse("broken_utf8", data, "this is UTF-16")
    return origin.refuse("binary", data, f"NUL at byte {data.index(0)}")


def _json_lines(file: RawFile, origin: _Origin, config: CorpusConfig) -> Iterator[Record]:
    """The lines as records.

    A flipped byte in a compressed file alters what follows it, and is noticed at the end of the file if at all. So the
    first broken line is a reason to look whether the file is damaged. If so, the lines from there on are left out.
    """
    path, limit = file.content, config.max_document_bytes
    expansion = Expansion(file.size, limit) if file.compression else None
    end, damage, searched = 0, None, not file.compression
    for line in read_lines(read_chunks(path, file.compression, limit), limit):
        end += line.size + 1
        if expansion is not None:
            expansion.check(line.number)
        if line.damage is None and not line.data.strip():
            continue
        place = replace(origin, id=f"{origin.id}:{line.number}")
        record = _json_line(line, place, config.text_key)
        if record.reason in _BROKEN and line.damage is None:
            damage, searched = damage if searched else find_damage(path, file.compression, limit), True
            if damage is not None and damage.altered_from is not None and end > damage.altered_from:
                yield place.refuse(
                    damage.reason, line.data, f"{damage}; this line and the rest are left out", line.size
                )
                return
        yield record


_BROKEN = frozenset({"broken_json", "broken_utf8", "binary"})


def _json_line(line: Line, origin: _Origin, text_key: str) -> Record:
    if line.damage is not None:
        return origin.refuse(line.damage.reason, line.data, str(line.damage), line.size)
    if b"\0" in line.data:
        return _not_text(line.data, origin)
    try:
        value = parse_json(line.data.decode("utf-8").removeprefix(BYTE_ORDER_MARK))
        if not isinstance(value, dict):
            return origin.refuse("missing_text", line.data, f"a JSON {type(value).__name__}, not an object")
        return _mapping(value, line.data, origin, text_key)
    except UnicodeDecodeError as error:
        return origin.refuse("broken_utf8", line.data, f"{error.reason} at byte {error.start}")
    except DamageError as damage:
        return origin.refuse(damage.reason, line.data, str(damage))


def _rows(
    found: Iterable[tuple[int, Mapping[str, Any] | DamageError]], file: RawFile, origin: _Origin, config: CorpusConfig
) -> Iterator[Record]:
    """The rows of a table as records."""
    limit = config.max_document_bytes
    expansion = Expansion(file.size, limit)
    for number, value in found:
        expansion.check(number)
        place = replace(origin, id=f"{origin.id}:{number}")
        if isinstance(value, DamageError):
            record = place.refuse(value.reason, b"", str(value))
        else:
            try:
                record = _mapping(value, None, place, config.text_key)
            except DamageError as damage:
                record = place.refuse(damage.reason, b"", str(damage))
        if record.size > limit and record.reason is None:
            record = place.refuse(
                "too_large", record.text[:UNREADABLE_CHARACTERS], f"the text has more than {limit:,} bytes", record.size
            )
        yield record
        expansion.add(record.size + len(record.metadata))


def _mapping(value: Mapping[str, Any], raw: bytes | None, place: _Origin, text_key: str) -> Record:
    """A record from a JSON object or a Parquet row. `raw` (None: the row as JSON) is kept if it has no text.

    Raises:
        DamageError: the metadata or a name cannot be stored.
    """
    metadata = _metadata(value)
    origin = _Origin(
        id=_identity(value.get("id")) or place.id,
        source=_name(metadata.get("pile_set_name")) or _name(value.get("source")) or place.source,
        licence=_name(value.get("licence")) or _name(value.get("license")) or place.licence,
        parent=_identity(value.get("parent")),
        facts=place.facts,
    )
    text = value.get(text_key)
    if not isinstance(text, str):
        found = f"is {type(text).__name__}, not text" if text_key in value else "is missing"
        return origin.refuse("missing_text", json_text(value) if raw is None else raw, f"'{text_key}' {found}")
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
                found = parse_json(found)
            except DamageError:
                continue
        if isinstance(found, Mapping):
            return found
    return {}


def _identity(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _name(value)


def _name(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    if len(value) > NAME_CHARACTERS:
        raise DamageError("too_large", f"an id, source or licence has more than {NAME_CHARACTERS:,} characters")
    return storable(value)
