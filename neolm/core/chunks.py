"""Read a file in chunks or lines, decompressed if its name ends in .gz, .zst, .xz or .bz2.

Every byte before a damage is returned first, as `gzip -dc` and `zstd -dc` do. The stream readers of the libraries lose
what they have unpacked since the last call, or end a truncated Zstandard file without an error.

Memory is bounded, whatever a file claims to unpack to: a chunk has at most UNPACKED_BYTES, a line is kept up to a
limit, and a window of Zstandard or xz larger than the limit is refused.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
CHUNK_BYTES = 2**16
UNPACKED_BYTES = 2**18
MEMBER_BYTES = 2**12  # read at first of a gzip member, because a file may have a member for each record
WINDOW_BYTES = 2**27  # the largest window that `zstd -dc` accepts without --long
EXPANSION = 200  # a file may become this many times larger; text becomes 3 to 50 times larger
FREE_RECORDS = 200_000  # lines or rows that a packed file may always have, else one for each of its bytes
_ZSTD_HEADER_BYTES = 18  # the longest header of a Zstandard frame


class DamageError(Exception):
    """A file or a record that cannot be read; `reason` is the reason for its rejection.

    `complete` is True if all data of the file was delivered before: only its check sum is wrong, or other bytes follow.
    `altered_from` is the place in the unpacked data from which on it may be altered; None: all of it is sound.
    """

    def __init__(self, reason: str, message: str, complete: bool = False) -> None:
        super().__init__(message)
        self.reason, self.complete = reason, complete
        self.altered_from: int | None = None


class Line(NamedTuple):
    """One line without its line end. With `damage`, `data` is the part that could be read."""

    number: int
    data: bytes
    size: int
    damage: DamageError | None = None


class Expansion:
    """Ends a packed file of `file_bytes` that becomes much larger than text does.

    It may become EXPANSION times as large, or `limit` bytes if that is more.
    """

    def __init__(self, file_bytes: int, limit: int) -> None:
        self._bytes = max(limit, EXPANSION * file_bytes)
        self._records = max(FREE_RECORDS, file_bytes)

    def add(self, size: int) -> None:
        """Count `size` more bytes. Raises `DamageError` above the limit."""
        self._bytes -= size
        if self._bytes < 0:
            raise DamageError("too_large", f"it becomes more than {EXPANSION:,} times as large when it is unpacked")

    def check(self, number: int) -> None:
        """Raise `DamageError` if the file may not have `number` records."""
        if number > self._records:
            raise DamageError("too_large", f"it has more than {self._records:,} records, more than one for each byte")


def read_chunks(path: Path | bytes, compression: str, limit: int) -> Iterator[bytes]:
    """The content of `path`, or of a file in memory, in chunks; `compression` is one of COMPRESSIONS or empty.

    A window of Zstandard or xz may have `limit` bytes, or WINDOW_BYTES if that is more.

    Raises:
        DamageError: after everything before the damage was returned.
    """
    try:
        with io.BytesIO(path) if isinstance(path, bytes) else path.open("rb", buffering=CHUNK_BYTES) as file:
            if compression:
                expansion = Expansion(_size(file), limit)
                for chunk in _frames(file, compression, max(limit, WINDOW_BYTES)):
                    expansion.add(len(chunk))
                    yield chunk
            else:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
    except OSError as error:
        raise DamageError("unreadable", error.strerror or type(error).__name__) from None


def find_damage(path: Path | bytes, compression: str, limit: int) -> DamageError | None:
    """The damage of a compressed file, which is read to its end for that."""
    try:
        for _ in read_chunks(path, compression, limit):
            pass
    except DamageError as error:
        return error
    return None


def _size(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def _frames(file: BinaryIO, compression: str, window: int) -> Iterator[bytes]:
    """The content of all frames in `file`. All formats allow concatenated frames; zeros after a frame are padding."""
    complete = False
    place = 0
    while byte := file.read(1):
        if complete and byte == b"\0":
            continue
        file.seek(-1, os.SEEK_CUR)
        start = file.read(6)
        file.seek(-len(start), os.SEEK_CUR)
        if not _MAGIC[compression](start):
            problem = "other bytes follow the compressed data; they are left out" if complete else "is not compressed"
            raise DamageError("unreadable", problem, complete)
        frame_start = place
        try:
            for chunk in _FRAME[compression](file, window):
                place += len(chunk)
                yield chunk
        except DamageError as error:
            error.altered_from = frame_start if error.reason == "unreadable" else None
            raise
        complete = True


_MAGIC: dict[str, Callable[[bytes], bool]] = {
    ".gz": lambda start: start[:2] == b"\x1f\x8b",
    ".zst": lambda start: start[:4] == b"\x28\xb5\x2f\xfd" or _is_skippable(start),
    ".xz": lambda start: start == b"\xfd7zXZ\0",
    ".bz2": lambda start: start[:3] == b"BZh",
}


def _gzip_member(file: BinaryIO, window: int) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)
    data, size = b"", 0
    while not decoder.eof:
        data = data or file.read(CHUNK_BYTES if size else MEMBER_BYTES)
        before = decoder.copy()
        try:
            unpacked = decoder.decompress(data, UNPACKED_BYTES)
        except zlib.error as error:
            unpacked, rest = _until_error(before, data)
            yield unpacked
            # The length of the text follows its check sum. If it is right, little or nothing of the text is altered.
            length = (rest + file.read(4))[:4] if "incorrect data check" in str(error) else b""
            complete = length == ((size + len(unpacked)) % 2**32).to_bytes(4, "little")
            raise _damaged(error, complete) from None
        size += len(unpacked)
        if unpacked:
            yield unpacked
        elif not data:
            raise _truncated()
        data = decoder.unconsumed_tail
    file.seek(-len(decoder.unused_data), os.SEEK_CUR)


def _until_error(decoder: Any, data: bytes) -> tuple[bytes, bytes]:
    """What `data`, which has an error in it, unpacks to before the error, and the rest of `data` after the error."""
    unpacked = bytearray()
    end = 0
    with contextlib.suppress(zlib.error):
        for byte in data:
            end += 1
            rest = bytes([byte])
            while part := decoder.decompress(rest, 1):
                unpacked += part
                rest = decoder.unconsumed_tail
    return bytes(unpacked), data[end:]


def _zstd_frame(file: BinaryIO, window: int) -> Iterator[bytes]:
    """The content of one frame, block by block: a block has at most 128 KiB, and the library unpacks it whole or fails.

    The layout of frames and blocks is section 3 of RFC 8878.
    """
    start = file.read(_ZSTD_HEADER_BYTES)
    file.seek(-len(start), os.SEEK_CUR)
    if _is_skippable(start):
        end = 8 + int.from_bytes(start[4:8], "little")
        if len(start) < 8 or file.tell() + end > _size(file):
            raise _truncated()
        file.seek(end, os.SEEK_CUR)
        return
    try:
        header = file.read(zstandard.frame_header_size(start))
        frame = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError as error:
        raise _truncated() if len(start) < _ZSTD_HEADER_BYTES else _damaged(error) from None
    if frame.window_size > window:
        needed = f"unpacking needs a window of {frame.window_size:,} bytes, more than {window:,}"
        raise DamageError("too_large", needed)
    decoder = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    yield from _decompress(decoder, header)
    last = False
    while not last:
        block = _exactly(file, 3)
        fields = int.from_bytes(block, "little")
        last, repeated, size = bool(fields & 1), fields >> 1 & 3 == 1, fields >> 3
        yield from _decompress(decoder, block + _exactly(file, 1 if repeated else size))
    if frame.has_checksum:
        yield from _decompress(decoder, _exactly(file, 4), complete=True)


def _decompress(decoder: Any, data: bytes, complete: bool = False) -> Iterator[bytes]:
    try:
        unpacked = decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise _damaged(error, complete) from None
    if unpacked:
        yield unpacked


def _stream(file: BinaryIO, open_decoder: Callable[[], Any]) -> Iterator[bytes]:
    """The content of one stream of xz or bzip2, whose decoders lose what they unpack in the call that fails."""
    start, decoder, size = file.tell(), open_decoder(), 0
    data = b""
    while not decoder.eof:
        if decoder.needs_input and not (data := file.read(CHUNK_BYTES)):
            raise _truncated()
        try:
            unpacked = decoder.decompress(data if decoder.needs_input else b"", UNPACKED_BYTES)
        except (OSError, EOFError, lzma.LZMAError) as error:
            if "limit exceeded" in str(error):
                raise DamageError("too_large", "unpacking needs a larger window than is allowed") from None
            last = file.tell() - len(data)
            file.seek(start)
            yield _after(file, open_decoder(), size, last)
            raise _damaged(error) from None
        size += len(unpacked)
        if unpacked:
            yield unpacked
    file.seek(-len(decoder.unused_data), os.SEEK_CUR)


def _after(file: BinaryIO, decoder: Any, size: int, last: int) -> bytes:
    """What a stream unpacks to after the first `size` bytes and before its error, read byte by byte from `last` on."""
    unpacked = bytearray()
    with contextlib.suppress(OSError, EOFError, lzma.LZMAError):
        while True:
            step = CHUNK_BYTES if file.tell() < last else 1
            part = decoder.decompress(file.read(step) if decoder.needs_input else b"", min(size or 1, UNPACKED_BYTES))
            unpacked += part[size:]
            size -= min(size, len(part))
    return bytes(unpacked)


_FRAME: dict[str, Callable[[BinaryIO, int], Iterator[bytes]]] = {
    ".gz": _gzip_member,
    ".zst": _zstd_frame,
    ".xz": lambda file, window: _stream(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, window + 2**20)),
    ".bz2": lambda file, window: _stream(file, bz2.BZ2Decompressor),
}


def _is_skippable(start: bytes) -> bool:
    return start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _truncated()
    return data


def _truncated() -> DamageError:
    return DamageError("truncated", "the compressed file ends early")


def _damaged(error: Exception, complete: bool = False) -> DamageError:
    """The library's message. With a wrong check sum everything was unpacked, but some of it may be altered."""
    problem = "the check sum is wrong, so some of the text may be altered" if complete else "the file is damaged"
    return DamageError("unreadable", f"{problem}: {error}", complete)


def read_lines(chunks: Iterable[bytes], limit: int) -> Iterator[Line]:
    r"""The lines of a file, numbered from 1 and split at `\n`.

    A line longer than `limit` bytes has the damage `too_large` and its beginning. If the file is damaged, the last line
    has the damage; if all data was delivered before, that line is empty.
    """
    number, pending, size = 1, [], 0  # `pending` holds the parts of an incomplete line, so that it is joined only once
    damage = None
    too_large = DamageError("too_large", f"the line has more than {limit:,} bytes")
    try:
        for chunk in chunks:
            first, *rest = chunk.split(b"\n")
            pending.append(first[: max(0, limit - size)])
            size += len(first)
            for start in rest:
                yield Line(number, b"".join(pending), size, too_large if size > limit else None)
                number, pending, size = number + 1, [start[:limit]], len(start)
    except DamageError as error:
        damage = error
    last = b"".join(pending)
    if size and (damage is None or damage.complete):
        yield Line(number, last, size, too_large if size > limit else None)
        number, last, size = number + 1, b"", 0
    if damage is not None:
        yield Line(number, last, size, damage)


class ChunkStream:
    """Chunks as a file that is read once from its beginning to its end. Damage raises `DamageError` where it is."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._chunk, self._place = iter(chunks), b"", 0

    def _fill(self) -> bool:
        if self._place == len(self._chunk):
            self._chunk, self._place = next(self._chunks, b""), 0
        return bool(self._chunk)

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or those that there are."""
        parts = []
        while size and self._fill():
            parts.append(self._chunk[self._place : self._place + size])
            size -= len(parts[-1])
            self._place += len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes. False if there are fewer."""
        while size and self._fill():
            step = min(size, len(self._chunk) - self._place)
            size, self._place = size - step, self._place + step
        return not size

    def readline(self, limit: int) -> bytes:
        """The rest of the line with its end, or its first `limit` bytes."""
        parts, size = [], 0
        while size < limit and self._fill():
            end = self._chunk.find(b"\n", self._place, self._place + limit - size) + 1
            parts.append(self._chunk[self._place : end or self._place + limit - size])
            size += len(parts[-1])
            self._place += len(parts[-1])
            if end:
                break
        return b"".join(parts)
