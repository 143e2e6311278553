"""A loaded model that scores the options of questions about texts, in few batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.config import Overrides, load_config
from neolm.core.errors import InputError, NonFiniteError
from neolm.embedding.embedder import Embedder, load_embedder
from neolm.generation.continuations import log_likelihoods
from neolm.generation.generate import check_tokenizer
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.hf import open_model
from neolm.prediction.classify import Classify
from neolm.prediction.decision_file import DecisionConfig, read_decision_file
from neolm.prediction.decision_question import Question
from neolm.prediction.option_scores import (
    ContinuationOptions,
    EmbeddingOptions,
    EncodedOptions,
    EntailmentOptions,
    OptionEncoder,
)
from neolm.prediction.prediction_file import default_settings, read_prediction_file
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

MAX_KEPT = 10_000
"""Rows without a text whose results are kept."""


class OptionScorer:
    """A model with what reads texts and options for it."""

    def __init__(
        self,
        encoder: OptionEncoder,
        compute: Callable[[Sequence[Any]], Tensor],
        settings: DecisionConfig,
    ) -> None:
        """`compute` is from the rows of `encoder` to what the model gives for them, (N, C)."""
        self.encoder, self.settings, self._compute = encoder, settings, compute
        self._kept: dict[Any, Tensor] = {}

    def scores(self, encoded: Sequence[EncodedOptions]) -> list[list[Tensor]]:
        """Scores (O) of the options of each question of each text. What has no text in it is computed once.

        Raises:
            NonFiniteError: a score is not finite.
        """
        if len(self._kept) > MAX_KEPT:
            self._kept.clear()
        new = dict.fromkeys(row for one in encoded for row in one.fixed if row not in self._kept)
        rows = dict.fromkeys(row for one in encoded for row in one.rows)
        found = dict(zip([*new, *rows], self._compute([*new, *rows]), strict=True))
        self._kept |= {row: found[row] for row in new}
        results = [one.combine(rows_of(one.rows, found), rows_of(one.fixed, self._kept)) for one in encoded]
        if not all(bool(scores.isfinite().all()) for of_text in results for scores in of_text):
            raise NonFiniteError("decide: a score is not finite; the weights are damaged")
        return results

    def probabilities(self, encoded: EncodedOptions, questions: Sequence[Question]) -> list[list[float]]:
        """The probabilities of the options of each question."""
        scores = self.scores([encoded])[0]
        return [probabilities(*pair, self.settings) for pair in zip(questions, scores, strict=True)]


def probabilities(question: Question, scores: Tensor, settings: DecisionConfig) -> list[float]:
    """The probabilities that the scores (O) of the options mean."""
    return [*map(float, (scores.double() / getattr(settings.temperature, question.kind)).softmax(dim=0))]


def load_scorer(
    path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    settings: Overrides = (),
) -> OptionScorer:
    """The scorer of a model in a directory, a run or a hub id; the arguments are those of `load_predictor`.

    Raises:
        InputError: there is no such model, or a classifier has labels of its own.
    """
    stored = open_model(path, device, dtype, quantize)
    found = read_decision_file(stored.directory, settings)
    head = stored.config.head
    if head == "sequence":
        prediction = read_prediction_file(stored.directory, head)
        EntailmentOptions(
            Classify(stored.skeleton, load_tokenizer(stored.directory), prediction)
        )  # before it is loaded
        return _classifier(Classify(stored.load(), load_tokenizer(stored.directory), prediction), found)
    if isinstance(stored.config, DecoderConfig):
        return scorer_of(stored.load(), load_tokenizer(stored.directory), found)
    return _embedder(load_embedder(stored.directory, device, dtype, quantize), found)


def any_scorer(model: str | Path | Encoder | Decoder, tokenizer: Tokenizer | None, settings: Overrides) -> OptionScorer:
    """The scorer of a loaded model with its tokenizer, or of the one that a path or hub id names."""
    if not isinstance(model, (Encoder, Decoder)):
        return load_scorer(model, settings=settings)
    if tokenizer is None:
        raise InputError("a loaded model needs its tokenizer")
    return scorer_of(model, tokenizer, load_config(DecisionConfig, None, settings, where=""))


def scorer_of(model: Encoder | Decoder, tokenizer: Tokenizer, settings: DecisionConfig) -> OptionScorer:
    """The scorer of a loaded model. Raises `InputError` as `load_scorer`."""
    check_tokenizer(model.config, tokenizer)
    if model.config.head == "sequence":
        pair = default_settings("sequence", {"pair": True})
        return _classifier(Classify(model, tokenizer, pair), settings)
    if isinstance(model, Encoder):
        return _embedder(Embedder(model, tokenizer), settings)
    context = model.config.max_position_embeddings
    return OptionScorer(
        ContinuationOptions(tokenizer, context, settings),
        lambda rows: log_likelihoods(model, rows, tokenizer.size),
        settings,
    )


def _classifier(classify: Classify, settings: DecisionConfig) -> OptionScorer:
    return OptionScorer(EntailmentOptions(classify), classify.window_logits, settings)


def _embedder(embedder: Embedder, settings: DecisionConfig) -> OptionScorer:
    encoder = EmbeddingOptions(embedder.tokenizer, embedder.config, embedder.max_length, settings)
    return OptionScorer(encoder, embedder.embed_ids, settings)


def rows_of(rows: Sequence[Any], found: Mapping[Any, Tensor]) -> Tensor:
    """What was found for the rows, (N, C)."""
    return torch.stack([found[row] for row in rows]) if rows else torch.empty(0)
