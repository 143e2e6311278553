"""The members of .zip and .tar archives, one in memory at a time. Nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from neolm.core.chunks import ChunkStream, DamageError, Expansion
from neolm.formats.item import Item

HEADER_BYTES = 2**16  # that are read of an extended header of tar, for the name
_NAME = {tarfile.XHDTYPE: re.compile(rb"\d+ path=([^\n]*)\n"), tarfile.GNUTYPE_LONGNAME: re.compile(rb"([^\0]*)")}
_DAMAGES = (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


def read_zip(path: Path, limit: int) -> Iterator[Item]:
    """The files of a zip archive. A file of more than `limit` bytes is `too_large`.

    Raises:
        DamageError: the archive has no directory, or becomes much larger than archives do.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGES as error:
        raise DamageError("unreadable", f"no zip archive, or one that ends early: {error}") from None
    expansion = Expansion(path.stat().st_size, limit)
    with archive:
        for info in archive.infolist():
            if not info.is_dir():
                try:
                    with archive.open(info) as file:
                        data = file.read(limit + 1)
                except _DAMAGES as error:
                    yield Item(info.filename, damage=DamageError("unreadable", str(error)))
                    continue
                expansion.add(len(data))
                yield _file(info.filename, data, limit)


def read_tar(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """The files of a tar archive (POSIX, pax and GNU). After a broken header reading goes on at the next sound one.

    Raises:
        DamageError: the archive ends within a file, or the compressed file is damaged.
    """
    stream, longer, lost = ChunkStream(chunks), "", False
    while header := stream.read(tarfile.BLOCKSIZE):
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            if any(header) and not lost:
                lost = True
                yield Item("?", damage=DamageError("broken_record", "no member of the archive starts here"))
            continue
        lost = False
        data = stream.read(min(max(0, info.size), limit + 1 if info.isreg() else HEADER_BYTES))
        if not stream.skip(max(0, -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE - len(data))):
            raise DamageError("truncated", "the archive ends within a file")
        if info.isreg():
            yield _file(longer or info.name, data, limit)
        found = _NAME[info.type].search(data) if info.type in _NAME else None
        longer = found[1].decode("utf-8", "backslashreplace") if found else ""


def _file(name: str, data: bytes, limit: int) -> Item:
    too_large = DamageError("too_large", f"the file has more than {limit:,} bytes")
    return Item(name, data[:limit], damage=too_large if len(data) > limit else None)
