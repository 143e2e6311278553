"""Predictions for a file of lines, in constant memory and in the order of the lines.

Each line of the input has one line of JSON in the output, with its number as `line`: the result, or `error` with the
reason. A line that cannot be used does not end the work.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.progress import task
from neolm.prediction.predict import BATCH_SIZE, Predictor

SUFFIXES = (".jsonl", ".txt")
MAX_LINE_BYTES = 2**20
SHOWN = 5  # reasons that the summary names


@dataclass
class Summary:
    """Numbers of lines, and the reasons for the first ones that could not be used."""

    lines: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.lines - self.failed:,} of {self.lines:,} lines predicted"
        more = f"; and {self.failed - len(self.reasons):,} more" if self.failed > len(self.reasons) else ""
        return f"{text}; {'; '.join(self.reasons)}{more}" if self.failed else text


def predict_lines(
    predictor: Predictor[Any], source: Path, target: IO[bytes], key: str = "text", batch_size: int = BATCH_SIZE
) -> Summary:
    """Write a line of JSON to `target` for each line of `source`.

    Args:
        predictor: What predicts.
        source: A .jsonl file, whose objects have the text under `key`, or a .txt file with a text on each line.
        target: Receives UTF-8.
        key: Key of the text in the objects.
        batch_size: Lines computed at a time.

    Raises:
        InputError: the file cannot be read, or is of another kind.
    """
    check_source(source)
    summary = Summary()
    with task("Predicting", None, "lines") as shown, storage_errors(source), source.open("rb") as file:
        pending = _lines(file)
        while lines := list(islice(pending, batch_size)):
            for row in _predicted(predictor, lines, key, source.suffix == ".jsonl"):
                summary.lines += 1
                if "error" in row:
                    summary.failed += 1
                    if summary.failed <= SHOWN:
                        summary.reasons.append(f"line {row['line']}: {row['error']}")
                target.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            shown.advance(len(lines))
    return summary


def check_source(source: Path) -> None:
    """Raise `InputError` if `source` is not a file of a kind that can be read."""
    if not source.is_file():
        raise InputError(f"{source}: {'not a file' if source.exists() else 'there is no such file'}")
    if source.suffix not in SUFFIXES:
        raise InputError(f"{source}: only {' and '.join(SUFFIXES)} are read, with one text on each line")


def _predicted(
    predictor: Predictor[Any], lines: Iterable[tuple[int, bytes]], key: str, is_json: bool
) -> Iterator[dict[str, Any]]:
    """A row for each line, in order; the lines that can be used are computed together."""
    rows: list[dict[str, Any]] = []
    encoded = []
    for number, line in lines:
        row: dict[str, Any] = {"line": number}
        rows.append(row)
        try:
            row["text"] = _text(line, key if is_json else None)
            encoded.append(predictor.encode(row["text"]))
        except InputError as error:
            row["error"] = str(error)
    results = iter(predictor.predict(encoded) if encoded else [])
    for row in rows:
        yield row if "error" in row else row | next(results)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers; of a longer one, the first MAX_LINE_BYTES + 1 bytes."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield number, line


def _text(line: bytes, key: str | None) -> str:
    """The text of a line, under `key` of its object; `InputError` if there is none."""
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"more than {MAX_LINE_BYTES:,} bytes")
    try:
        text = line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError("not UTF-8") from None
    if key is None:
        return text
    value: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise InputError("not a JSON object")
    if not isinstance(value.get(key), str):
        raise InputError(f"there is no text under the key {key!r}")
    return str(value[key])
