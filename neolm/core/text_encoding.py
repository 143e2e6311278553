"""The lines of a text file as UTF-8, whatever its encoding.

UTF-8 with or without a byte order mark, UTF-16 (Excel's "Unicode text") and Windows-1252 are told apart. The whole file
is looked at for that, because the first accented letter may come late.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neolm.core.chunks import DamageError, Line, read_chunks, read_lines
from neolm.core.errors import InputError

BYTE_ORDER_MARK = "\ufeff"

MAX_ROW_BYTES = 2**23
"""Size limit of a row; a text of 100,000 words has about 1 MB."""

_KINDS = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"PAR1": "a Parquet file: name it .parquet",
    b"\x1f\x8b": "compressed with gzip: add .gz to its name",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: add .zst to its name",
    b"\xfd7zXZ": "compressed with xz: add .xz to its name",
    b"BZh": "compressed with bzip2: add .bz2 to its name",
}
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as `surrogateescape` decodes them


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a file become characters."""

    name: str = "utf-8"
    note: str = ""
    """What was found, if it is not UTF-8."""
    carriage_returns: bool = False
    """Whether lines end with a carriage return only, as in files of old Macs."""


def detect_encoding(path: Path | bytes, compression: str) -> Encoding:
    """The encoding of a text file, which is read to its end.

    A file is Windows-1252 if it has more bytes that are not UTF-8 than other characters outside ASCII. If it has fewer,
    it is UTF-8, and the lines with those bytes are damaged.

    Raises:
        InputError: it is a binary file, or cannot be unpacked.
    """
    chunks, name = read_chunks(path, compression, MAX_ROW_BYTES), "table" if isinstance(path, bytes) else str(path)
    try:
        start = next(chunks, b"")
    except DamageError as damage:
        raise InputError(f"{name}: cannot be read ({damage})") from None
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind:
        raise InputError(f"{name}: this is {kind}")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Encoding("utf-16", "UTF-16")
    if b"\0" in start and (unmarked := _without_mark(start)):
        return Encoding(unmarked, "UTF-16 without a byte order mark")
    broken, sound, ends = 0, 0, set()
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    try:
        for chunk in itertools.chain([start], chunks):
            ends |= {end for end in (b"\n", b"\r") if end in chunk}
            text = decoder.decode(chunk)
            if not text.isascii():
                found = len(_ESCAPED.findall(text))
                broken, sound = broken + found, sound + len(text) - len(text.encode("ascii", "ignore")) - found
    except DamageError:
        pass  # the reader names it, after the rows before it
    old_mac = ends == {b"\r"}
    if broken <= sound:
        return Encoding(carriage_returns=old_mac)
    if b"\0" in start:
        raise InputError(f"{name}: this is a binary file, not text")
    return Encoding("cp1252", "not UTF-8: read as Windows-1252", old_mac)


def _without_mark(start: bytes) -> str | None:
    """UTF-16 by its zeros: every second byte of Latin text."""
    even, odd = start[0:4096:2].count(0), start[1:4096:2].count(0)
    half = min(len(start), 4096) / 2
    if max(even, odd) < 0.4 * half or min(even, odd) > 0.05 * half:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def read_text_lines(path: Path | bytes, compression: str, encoding: Encoding) -> Iterator[Line]:
    """The lines of a file as UTF-8, without a byte order mark; see `read_lines`."""
    chunks: Iterable[bytes] = read_chunks(path, compression, MAX_ROW_BYTES)
    if encoding.name != "utf-8":
        chunks = _as_utf8(chunks, encoding.name)
    if encoding.carriage_returns:
        chunks = (chunk.replace(b"\r", b"\n") for chunk in chunks)
    for line in read_lines(chunks, MAX_ROW_BYTES):
        yield line._replace(data=line.data.removeprefix(codecs.BOM_UTF8)) if line.number == 1 else line


def _as_utf8(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Bytes that the encoding does not have stay as they are, and are not UTF-8 in general."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)("replace" if "16" in encoding else "surrogateescape")
    except LookupError:
        raise InputError(f"encoding: {encoding!r} is not known; examples: utf-8, cp1252, utf-16, shift_jis") from None
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")


def line_text(line: Line) -> str:
    """The text of a line. Raises `InputError` with the reason if it is damaged, not UTF-8 or has a NUL character."""
    if line.damage is not None:
        raise InputError(str(line.damage))
    try:
        text = line.data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("not UTF-8") from None
    if "\0" in text:
        raise InputError("it has a NUL character")
    return text


def storable(text: str) -> str:
    r"""`text` with lone surrogates, which UTF-8 cannot hold, as `\udc80` escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Whether `text` can be encoded as UTF-8. Lone surrogates, from JSON escapes and file names, cannot."""
    return text.isascii() or storable(text) == text
