"""`neolm.predict`: what a model says about texts, by the head that it has.

A predictor reads a text with `encode`, which refuses it with a reason, and answers for a batch of them. There is one
for each kind of head; today, masked language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neolm.core.errors import InputError
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.hf import open_model
from neolm.prediction.fill_mask import FillMask
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

BATCH_SIZE = 32
MASKED = ("pretraining", "masked")

Row = TypeVar("Row")


class Predictor(Protocol[Row]):
    """What a head says about texts."""

    def encode(self, text: str) -> Row:
        """The text as the model reads it; `InputError` with the reason if it cannot."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The result of each text, as JSON."""

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal."""


def predict(
    model: str | Path | Encoder,
    texts: str | Sequence[str],
    tokenizer: Tokenizer | None = None,
    top_k: int = 5,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """Fill the masks of texts such as "Paris is the [MASK] of France.".

    Args:
        model: A model directory, a run or a hub id; or a loaded encoder.
        texts: One text or several.
        tokenizer: The tokenizer of a loaded encoder.
        top_k: Number of alternatives for each mask.
        batch_size: Texts computed at a time; the results do not depend on it.

    Returns:
        For each text `text`, `filled` (with the likeliest tokens) and `masks`, for each mask its alternatives with
        `token`, `id` and `probability`, the likeliest first.

    Raises:
        InputError: the model cannot fill masks, or a text is empty, has no mask or is too long.
    """
    if isinstance(model, (Encoder, Decoder)):
        if tokenizer is None:
            raise InputError("predict: a loaded model needs its tokenizer: predict(model, texts, tokenizer)")
        predictor = _predictor(model, tokenizer, top_k)
    else:
        predictor = load_predictor(model, top_k=top_k)
    return predict_texts(predictor, [texts] if isinstance(texts, str) else texts, batch_size)


def predict_texts(
    predictor: Predictor[Any], texts: Sequence[str], batch_size: int = BATCH_SIZE
) -> list[dict[str, Any]]:
    """The result of each text with the `text` itself. Raises `InputError` with the number of a text that is refused."""
    rows = []
    for number, text in enumerate(texts, start=1):
        try:
            rows.append(predictor.encode(text))
        except InputError as error:
            name = f"text {number}" if len(texts) > 1 else "text"
            raise InputError(f"{name}: {error}") from None
    results = []
    for start in range(0, len(rows), batch_size):
        results += predictor.predict(rows[start : start + batch_size])
    return [{"text": text, **result} for text, result in zip(texts, results, strict=True)]


def load_predictor(
    path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    top_k: int = 5,
) -> Predictor[Any]:
    """The predictor of the model in a directory, a run or a hub id; the arguments are those of `load_model`.

    Raises:
        InputError: there is no such model, or no predictor for its head. The weights are not read then.
    """
    stored = open_model(path, device, dtype, quantize)
    _check(stored.config if isinstance(stored.config, DecoderConfig) else stored.config.head, str(path))
    tokenizer = load_tokenizer(stored.directory)
    return _predictor(stored.load(), tokenizer, top_k)


def _predictor(model: Encoder | Decoder, tokenizer: Tokenizer, top_k: int) -> Predictor[Any]:
    _check(model.config if isinstance(model, Decoder) else model.config.head, "predict")
    assert isinstance(model, Encoder)
    return FillMask(model, tokenizer, top_k)


def _check(head: DecoderConfig | str, name: str) -> None:
    """Raises `InputError` if there is no predictor for a head, or for a decoder."""
    if isinstance(head, DecoderConfig):
        raise InputError(f"{name}: {head.family} is a decoder, which continues texts: use neolm generate")
    if head not in MASKED:
        raise InputError(
            f"{name}: the encoder has the head '{head}'; a [MASK] is filled by a masked language model "
            f"({' or '.join(MASKED)})"
        )
