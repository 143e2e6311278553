"""SentencePiece model files (`spiece.model`): vocabulary, scores and normalisation of a Unigram model.

A file is a protocol buffer (`sentencepiece_model.proto`). Only the fields that encoding needs are read, so that neither
the library `sentencepiece` nor `protobuf` is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from neolm.core.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # types of pieces
_TYPES = {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE}
_UNIGRAM = 1


class SentencePiece(NamedTuple):
    """What a SentencePiece file says about a Unigram model."""

    pieces: list[tuple[str, float]]  # text and log probability, by id
    special: list[str]  # pieces that text never becomes, such as [CLS]
    unk_id: int
    byte_fallback: bool
    charsmap: bytes  # precompiled normalisation of characters; empty: none


def parse_sentencepiece(data: bytes, path: Path) -> SentencePiece:
    """The model in the content `data` of the file `path`.

    Raises:
        InputError: it is no SentencePiece model, or its model is no Unigram with a space in front of a text.
    """
    try:
        return _model(memoryview(data), path)
    except (LookupError, TypeError, ValueError, struct.error):
        raise InputError(f"{path}: not a SentencePiece model, or damaged") from None


def _model(data: memoryview, path: Path) -> SentencePiece:
    pieces: list[tuple[str, float]] = []
    types: list[int] = []
    trainer: dict[int, int | memoryview] = {}
    normalizer: dict[int, int | memoryview] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_message(value)))
            [score] = struct.unpack("<f", _message(piece.get(2, memoryview(bytes(4)))))
            pieces.append((str(_message(piece[1]), "utf-8"), score))
            types.append(_number(piece.get(3, _NORMAL)))
        elif field == 2:
            trainer = dict(_fields(_message(value)))
        elif field == 3:
            normalizer = dict(_fields(_message(value)))
    refusals = {
        "a model that is not Unigram": _number(trainer.get(3, _UNIGRAM)) != _UNIGRAM,
        "spaces behind words": trainer.get(24, 0),
        "no space in front of a text": not normalizer.get(3, 1),
        "unused pieces": not set(types) <= _TYPES,
        "no single unknown piece": types.count(_UNKNOWN) != 1,
    }
    if refused := [reason for reason, holds in refusals.items() if holds]:
        raise InputError(f"{path}: a SentencePiece model with {refused[0]}, which cannot be read (ALBERT's can)")
    special = [text for (text, _), kind in zip(pieces, types, strict=True) if kind in (_UNKNOWN, _CONTROL)]
    charsmap = bytes(_message(normalizer.get(2, memoryview(b""))))
    return SentencePiece(pieces, special, types.index(_UNKNOWN), bool(trainer.get(35, 0)), charsmap)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and the value of each field of a message: an integer, or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if size < 0 or place + size > len(data):
            raise ValueError
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value
