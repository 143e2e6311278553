"""Writing of GGUF files, version 3: header, metadata, names and shapes of the tensors, then their data.

The format is ggml's (docs/gguf.md there). Numbers are little-endian. Shapes are written in reverse, because ggml lists
the contiguous dimension first. Each tensor's data begins at a multiple of 32 bytes. Numbers of 8 and 4 bits are stored
in blocks of 32, each preceded by its scale d in float16:

    Q8_0  d = |largest| / 127    x = d q          q a byte
    Q4_0  d = largest / -8       x = d (q - 8)    q half a byte: the first 16 in lower halves, the last in upper ones

q is computed from d before it is rounded to float16, as in ggml. Left out: reading, other types, split files.

Shapes: N rows, K numbers in each, M blocks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.files import replacement
from neolm.core.progress import task

Value = bool | int | float | str | list[int] | list[str]

VERSION, ALIGNMENT = 3, 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # types of metadata
ROWS_PER_CHUNK = 4096  # rows that are encoded together
PROGRESS_WEIGHTS = 1e9  # a progress bar is shown from this many weights on


@dataclass(frozen=True)
class Encoding:
    """A tensor type: its numbers in ggml, of a tensor and of a file, and the `size` in bytes of `block` numbers."""

    number: int
    file_number: int
    block: int
    size: int


ENCODINGS = {
    "float32": Encoding(0, 0, 1, 4),
    "float16": Encoding(1, 1, 1, 2),
    "bfloat16": Encoding(30, 32, 1, 2),
    "int8": Encoding(8, 7, 32, 34),  # Q8_0
    "int4": Encoding(2, 2, 32, 18),  # Q4_0
}


@dataclass(frozen=True)
class Item:
    """A tensor to be written; `read` returns its values, in any type."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size of its data."""
        encoding = ENCODINGS[self.encoding]
        return math.prod(self.shape) // encoding.block * encoding.size


def write_gguf(path: Path, metadata: Mapping[str, Value], items: Sequence[Item]) -> None:
    """Write `path` with one tensor in memory at a time; the old file is replaced when the new one is complete."""
    total = sum(math.prod(item.shape) for item in items)
    shown = task("Writing", total, "weights") if total > PROGRESS_WEIGHTS else nullcontext()
    with replacement(path) as file, shown as progress:
        file.write(_head(metadata, items))
        for item in items:
            _write(file, item)
            if progress is not None:
                progress.advance(math.prod(item.shape))


def _head(metadata: Mapping[str, Value], items: Sequence[Item]) -> bytes:
    """Everything before the data, padded to the alignment."""
    parts = [b"GGUF", struct.pack("<IQQ", VERSION, len(items), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for item in items:
        dimensions = struct.pack(f"<I{len(item.shape)}Q", len(item.shape), *reversed(item.shape))
        parts += [_text(item.name), dimensions, struct.pack("<IQ", ENCODINGS[item.encoding].number, offset)]
        offset += item.bytes + -item.bytes % ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % ALIGNMENT)


def _value(value: Value) -> bytes:
    """A metadata value with its type."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    numbers = [element for element in value if isinstance(element, int)]
    if numbers:
        return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, _INT32, len(numbers), *numbers)
    texts = [_text(element) for element in value if isinstance(element, str)]
    return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(texts)


def _text(text: str) -> bytes:
    """`text` in UTF-8, preceded by its length."""
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _write(file: BinaryIO, item: Item) -> None:
    """Read a tensor and write its data with the padding after it."""
    tensor = item.read()
    assert tensor.shape == item.shape, f"{item.name}: {tuple(tensor.shape)} is not {item.shape}"
    rows = tensor.detach().reshape(-1, item.shape[-1])  # (N, K)
    try:
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            part = _encode(rows[start : start + ROWS_PER_CHUNK], item.encoding)
            file.write(part.contiguous().view(torch.uint8).numpy().data)
    except OverflowError:
        raise InputError(
            f"{item.name}: a weight is too large for {item.encoding}, or not finite; float32 has the largest range"
        ) from None
    file.write(bytes(-item.bytes % ALIGNMENT))


def _encode(rows: Tensor, encoding: str) -> Tensor:
    """Rows (N, K) in another type, or as blocks (M, bytes)."""
    if encoding == "int8":
        return _q8_0(rows.float().reshape(-1, 32))
    if encoding == "int4":
        return _q4_0(rows.float().reshape(-1, 32))
    return _narrow(rows, getattr(torch, encoding))


def _q8_0(blocks: Tensor) -> Tensor:
    """Blocks (M, 32) as (M, 34) bytes."""
    scales = blocks.abs().amax(1, keepdim=True) / 127  # (M, 1)
    halves = _narrow(scales, torch.float16)
    exact = blocks * _inverse(scales, halves)
    whole = exact.trunc()
    levels = whole + (exact - whole).mul(2).trunc()  # halves are rounded away from zero
    return torch.cat([halves.view(torch.uint8), levels.to(torch.int8).view(torch.uint8)], dim=1)


def _q4_0(blocks: Tensor) -> Tensor:
    """Blocks (M, 32) as (M, 18) bytes."""
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))  # the first of equal ones
    scales = largest / -8  # (M, 1)
    halves = _narrow(scales, torch.float16)
    levels = (blocks * _inverse(scales, halves) + 8.5).to(torch.uint8).clamp(max=15)
    return torch.cat([halves.view(torch.uint8), levels[:, :16] | levels[:, 16:] << 4], dim=1)


def _inverse(scales: Tensor, halves: Tensor) -> Tensor:
    """1 / scale; 0 if the scale is 0 in float16."""
    return torch.where(halves == 0, 0.0, 1 / scales)


def _narrow(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in another type. Raises `OverflowError` if one is too large, or not finite."""
    narrow = numbers.to(dtype)
    if not narrow.isfinite().all():
        raise OverflowError
    return narrow
