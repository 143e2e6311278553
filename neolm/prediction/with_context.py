"""Questions that are all about one context."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.prediction.predict import Predictor

STANDARD_INPUT = Path("-")


class WithContext:
    """A predictor that reads questions, and gives another one each with the same context."""

    inputs: Sequence[str] = ("question",)

    def __init__(self, predictor: Predictor[Any], context: str) -> None:
        """Raises `InputError` if `predictor` does not read questions with a context."""
        if tuple(predictor.inputs) != ("question", "context"):
            raise InputError("predict: --context is for questions; the head of this model reads a text alone")
        self._predictor, self._context = predictor, context
        self.columns = predictor.columns

    def encode(self, question: str) -> Any:
        """The question with the context, as the model reads them."""
        return self._predictor.encode(question, self._context)

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The result of each question."""
        return self._predictor.predict(rows)

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal."""
        return self._predictor.describe(result)


def read_context(path: Path) -> str:
    """The text of a file, or of the standard input if `path` is `-`. Line ends are kept, a byte order mark is not.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    if path == STANDARD_INPUT:
        data = sys.stdin.buffer.read()
    else:
        if not path.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
        with storage_errors(path):
            data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        name = "the standard input" if path == STANDARD_INPUT else path
        raise InputError(f"{name}: not UTF-8; save the text as UTF-8") from None
