"""The objects of a JSON Lines file, or of a file that is one JSON list."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.chunks import COMPRESSIONS, DamageError, Line, read_chunks
from neolm.core.errors import InputError
from neolm.core.text_encoding import line_text

SAMPLE_OBJECTS = 1000
MAX_BYTES = 2**29
"""Size limit of an unpacked JSON document, which is read whole; the training file of SQuAD 2.0 has 42 MB."""


def read_objects(lines: Iterable[Line]) -> Iterator[tuple[int, dict[str, Any], str]]:
    """The number of each line with its object, or with the problem for which it has none; blank lines are left out."""
    for line in lines:
        try:
            text = line_text(line)
            if text.strip():
                yield line.number, _object(text), ""
        except InputError as error:
            yield line.number, {}, str(error)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError("not a JSON object")
    return value


def read_document(path: Path) -> Any:
    """The value in a `.json` file, also compressed. Raises `InputError` if it cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    data = bytearray()
    try:
        for chunk in read_chunks(path, compression, MAX_BYTES):
            data += chunk
            if len(data) > MAX_BYTES:
                raise InputError(f"{path}: more than {MAX_BYTES:,} bytes of JSON; make a .jsonl table of it")
        return json.loads(data.decode("utf-8-sig"))
    except DamageError as damage:
        raise InputError(f"{path}: cannot be read ({damage})") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not valid JSON ({reason})") from None


def read_list(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that is one JSON list. Raises `InputError` if it is something else."""
    value = read_document(path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{path}: it is not a JSON list of objects, one for each row")
    return value


def sample_keys(path: Path, objects: Iterator[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of the first objects, in the order in which they come.

    Raises:
        InputError: there is no object among them.
    """
    found = list(itertools.islice(objects, SAMPLE_OBJECTS))
    if not any(found):
        with path.open("rb") as file:
            is_list = file.read(1) == b"["
        advice = "; this is one JSON list: name the file .json" if is_list else ""
        raise InputError(f"{path}: the first {len(found):,} lines have no JSON object{advice}")
    return tuple(dict.fromkeys(key for value in found for key in value))
