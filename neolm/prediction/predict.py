"""`neolm.predict`: what a model says about texts, by the head that it has.

A predictor reads a text, or several that belong together, with `encode`, which refuses them with a reason, and answers
for a batch of what it has read. `PREDICTORS` has one for each head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neolm.core.config import Overrides
from neolm.core.errors import InputError
from neolm.core.model_files import PREDICTION_FILE
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.hf import open_model
from neolm.prediction.answer_questions import AnswerQuestions
from neolm.prediction.choose import Choose
from neolm.prediction.classify import Classify
from neolm.prediction.decision_question import label_option
from neolm.prediction.fill_mask import FillMask
from neolm.prediction.find_entities import FindEntities
from neolm.prediction.follow_instructions import FollowInstructions
from neolm.prediction.option_scorer import any_scorer
from neolm.prediction.prediction_file import PredictionConfig, default_settings, read_prediction_file
from neolm.prediction.zero_shot import ZeroShot
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

BATCH_SIZE = 32

Row = TypeVar("Row")
Texts = str | tuple[str, ...]
"""A text, or the texts that a predictor reads together."""


class Predictor(Protocol[Row]):
    """What a head says about texts."""

    inputs: Sequence[str]
    """Names of the texts that `encode` reads together."""
    columns: Sequence[str]
    """The keys of a result."""

    @property
    def encode(self) -> Callable[..., Row]:
        """Reads the texts as the model reads them; raises `InputError` with the reason if it cannot."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The result of each row, as JSON."""

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal."""


Build = Callable[[Any, Tokenizer, PredictionConfig, int], Predictor[Any]]
INSTRUCT = "language-model"
"""The head of a decoder that was fine-tuned to instructions."""


def _fill_mask(model: Any, tokenizer: Tokenizer, settings: PredictionConfig, top_k: int) -> Predictor[Any]:
    return FillMask(model, tokenizer, top_k)


PREDICTORS: Mapping[str, Build] = {
    "pretraining": _fill_mask,
    "masked": _fill_mask,
    "sequence": Classify,
    "span": AnswerQuestions,
    "token": FindEntities,
    "choice": Choose,
}
"""The predictor of each head, built from the model, its tokenizer, its settings and the number of alternatives."""


def predict(
    model: str | Path | Encoder | Decoder,
    texts: Texts | Sequence[Texts],
    tokenizer: Tokenizer | None = None,
    top_k: int = 5,
    batch_size: int = BATCH_SIZE,
    settings: Overrides = (),
    labels: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """What the head of a model says about texts; the docs list the keys of the results.

    Args:
        model: A model directory, a run or a hub id; or a loaded one.
        texts: One text or several, such as "Paris is the [MASK] of France."; pairs as tuples.
        tokenizer: The tokenizer of a loaded model.
        top_k: Number of alternatives.
        batch_size: Texts computed at a time; the results do not depend on it.
        settings: Fields of `PredictionConfig` that replace those in the model's `prediction.json`, or, for a loaded
            model, the defaults; with `labels`, fields of `DecisionConfig` and of `decision.json`.
        labels: Labels that the model was not trained on, of which the likeliest is given (zero-shot classification).

    Returns:
        For each text its first part, `text` or `question`, and what the head says about it. Of a masked language model
        `filled` (the text with the likeliest tokens) and `masks`, for each mask its alternatives with `token`, `id` and
        `probability`, the likeliest first; of the others see the columns of their predictor.

    Raises:
        InputError: the head predicts nothing, or a text cannot be used.
    """
    predictor: Predictor[Any]
    if labels is not None:
        options = [label_option(label) for label in labels]
        predictor = ZeroShot(any_scorer(model, tokenizer, settings), options, top_k=top_k)
    elif isinstance(model, (Encoder, Decoder)):
        if tokenizer is None:
            raise InputError("predict: a loaded model needs its tokenizer: predict(model, texts, tokenizer)")
        head = _checked_head(model.config, "predict")
        predictor = PREDICTORS[head](model, tokenizer, default_settings(head, settings), top_k)
    else:
        predictor = load_predictor(model, top_k=top_k, settings=settings)
    return predict_texts(predictor, [texts] if isinstance(texts, (str, tuple)) else texts, batch_size)


def grouped(texts: Sequence[str], inputs: Sequence[str]) -> list[Texts]:
    """Texts one after the other, in the groups that a predictor with these `inputs` reads together."""
    if "options" in inputs:
        return [(texts[0], texts[1:])]  # type: ignore[list-item]
    size = len(inputs)
    if len(texts) % size:
        raise InputError(f"predict: the model reads {' and '.join(inputs)} together; give {size} texts, or a table")
    return [tuple(texts[start : start + size]) for start in range(0, len(texts), size)]


def predict_texts(
    predictor: Predictor[Any], texts: Sequence[Texts], batch_size: int = BATCH_SIZE
) -> list[dict[str, Any]]:
    """The result of each text with the text itself. Raises `InputError` with the number of a text that is refused."""
    rows, given = [], [(text,) if isinstance(text, str) else text for text in texts]
    for number, parts in enumerate(given, start=1):
        try:
            if len(parts) != len(predictor.inputs):
                raise InputError(f"give {' and '.join(predictor.inputs)} together, in a tuple")
            rows.append(predictor.encode(*parts))
        except InputError as error:
            name = predictor.inputs[0] + (f" {number}" if len(texts) > 1 else "")
            raise InputError(f"{name}: {error}") from None
    results = []
    for start in range(0, len(rows), batch_size):
        results += predictor.predict(rows[start : start + batch_size])
    return [{predictor.inputs[0]: parts[0], **result} for parts, result in zip(given, results, strict=True)]


def load_predictor(
    path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    top_k: int = 5,
    settings: Overrides = (),
) -> Predictor[Any]:
    """The predictor of the model in a directory, a run or a hub id.

    Args:
        path: As in `load_model`, like the next three.
        device: Device to load it to.
        dtype: Type of the weights.
        quantize: Bits of the weights.
        top_k: Number of alternatives.
        settings: Fields of `PredictionConfig` that replace those in the model's `prediction.json`.

    Raises:
        InputError: there is no such model, no predictor for its head, or its `prediction.json` is wrong. The weights
            are not read then.
    """
    stored = open_model(path, device, dtype, quantize)
    answers = stored.config.head == INSTRUCT and (stored.directory / PREDICTION_FILE).is_file()
    head = INSTRUCT if answers else _checked_head(stored.config, str(path))
    found = read_prediction_file(stored.directory, head, settings)
    tokenizer = load_tokenizer(stored.directory)
    model = stored.load()
    if isinstance(model, Decoder) and answers:
        return FollowInstructions(model, tokenizer, found, stored.directory)
    return PREDICTORS[head](model, tokenizer, found, top_k)


def _checked_head(config: DecoderConfig | EncoderConfig, name: str) -> str:
    """The head of a model. Raises `InputError` if there is no predictor for it, or for a decoder."""
    if isinstance(config, DecoderConfig) and config.head == "language-model":
        raise InputError(f"{name}: {config.family} is a decoder, which continues texts: use neolm generate")
    if config.head not in PREDICTORS:
        *heads, last = PREDICTORS
        raise InputError(
            f"{name}: the encoder has the head '{config.head}', which predicts nothing; heads that do are "
            f"{', '.join(heads)} and {last}"
        )
    return config.head
