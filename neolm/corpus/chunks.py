"""Read a file in chunks or lines, decompressed if its suffix is .gz or .zst.

The stream readers of the libraries either end a truncated Zstandard file without an error, or lose the readable part of
a truncated gzip file. The readers here return every byte before the damage first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

CHUNK_BYTES = 2**16  # small, because a chunk can be a thousand times larger after decompression


class DamagedFileError(Exception):
    """A file that ends early (`reason` is `truncated`) or has an unreadable part (`unreadable`)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Line:
    """One line without its line end. `damage` is set if the file is damaged in this line."""

    number: int
    data: bytes
    damage: DamagedFileError | None = None


DECODERS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS + 16),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),  # 2 GiB: zstd --long=31
}


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of `path` in chunks. Raises `DamagedFileError` after everything before the damage was returned."""
    decoder = DECODERS.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            if decoder is not None:
                yield from _unpacked(file, decoder)
            else:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
    except OSError as error:
        raise DamagedFileError("unreadable", error.strerror or type(error).__name__) from None


def _unpacked(file: BinaryIO, new_decoder: Callable[[], Any]) -> Iterator[bytes]:
    """The content of all frames in `file`. Both formats allow concatenated frames and padding with zeros."""
    decoder = None
    while data := file.read(CHUNK_BYTES):
        while data:
            if decoder is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = new_decoder()
            try:
                unpacked = decoder.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DamagedFileError("unreadable", f"damaged or not compressed: {error}") from None
            if unpacked:
                yield unpacked
            data = b""
            if decoder.eof:
                data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise DamagedFileError("truncated", "the compressed file ends early")


def read_lines(path: Path) -> Iterator[Line]:
    r"""The lines of `path`, numbered from 1 and split at `\n`. The last line of a damaged file has `damage`."""
    number, pending = 1, []  # `pending` holds the parts of an incomplete line, so that a long line is joined only once
    damage = None
    try:
        for chunk in read_chunks(path):
            first, *rest = chunk.split(b"\n")
            pending.append(first)
            for start in rest:
                yield Line(number, b"".join(pending))
                number, pending = number + 1, [start]
    except DamagedFileError as error:
        damage = error
    last = b"".join(pending)
    if last or damage is not None:
        yield Line(number, last, damage)
