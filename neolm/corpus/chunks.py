"""The bytes of a file, chunk by chunk, unpacked where its suffix says so, and the lines in them.

The libraries' own stream readers either end a truncated Zstandard file in silence or lose what a truncated gzip
file still holds; here every byte before the damage is delivered first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

CHUNK_BYTES = 2**16  # small, because a packed chunk may unpack to a thousand times its size


class DamagedFileError(Exception):
    """A file that ends early (`truncated`) or cannot be read on (`unreadable`); the message says what was found."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Line:
    """One line without its end; `damage` is set where the file broke off in this line."""

    number: int
    data: bytes
    damage: DamagedFileError | None = None


def _gzip() -> Any:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)


def _zstandard() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()  # 2 GiB: files made with --long=31


DECODERS: dict[str, Callable[[], Any]] = {".gz": _gzip, ".zst": _zstandard}


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of `path`.

    Raises:
        DamagedFileError: after everything before the damage was delivered.
    """
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
    """All frames in `file`, one after the other: both formats allow concatenation, and padding with zeros."""
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
    r"""The lines of `path`, numbered from 1 and split at `\n`; a damaged file ends in one line with `damage`."""
    number, pending = 1, []  # the pieces of a line that is not complete, so that a long one is joined only once
    damage = None
    chunks = read_chunks(path)
    while damage is None:
        try:
            chunk = next(chunks, None)
        except DamagedFileError as error:
            damage = error
            break
        if chunk is None:
            break
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        for piece in rest:
            yield Line(number, b"".join(pending))
            number, pending = number + 1, [piece]
    last = b"".join(pending)
    if last or damage is not None:
        yield Line(number, last, damage)
