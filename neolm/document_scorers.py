"""The models behind `corpus.scores`: bits per byte of a decoder, a label's probability, or a regression's number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError, SettingError
from neolm.core.files import expanded
from neolm.corpus.filter_config import ModelScoreConfig
from neolm.corpus.model_scores import Score, Scorer
from neolm.evaluation.perplexity import document_scores
from neolm.models.hf import model_directory, open_model
from neolm.prediction.classify import Classify
from neolm.prediction.predict import load_predictor, predict_texts
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer


def scorers(settings: Sequence[ModelScoreConfig]) -> dict[str, Scorer]:
    """The scorer of each setting, by its name. Nothing is loaded yet, and models may be gone."""
    return {setting.name: Scorer(_place(setting.model), partial(_load, setting)) for setting in settings}


def _place(model: str) -> Path:
    try:
        return model_directory(model)
    except InputError:
        return expanded(model)


def _load(setting: ModelScoreConfig) -> tuple[str, Score]:
    """The reason and the function of a score. Raises SettingError if the model has no such score."""
    try:
        stored = open_model(setting.model)
        if stored.config.head == "language-model":
            if setting.label is not None:
                raise InputError(f"{setting.model} is a language model, which has no labels; leave out `label`")
            return "perplexity", partial(_bits_per_byte, stored.load(), load_tokenizer(stored.directory))
        predictor = load_predictor(setting.model, top_k=1)
        if not isinstance(predictor, Classify) or len(predictor.inputs) > 1:
            raise InputError(f"{setting.model} is no language model and no classifier of single texts")
        names = () if predictor.problem == "regression" else predictor.names
        if setting.label not in (names or (None,)):
            raise InputError(f"{setting.model} has no label {setting.label!r}; its labels are {', '.join(names)}")
        return "model_score", partial(_chances, predictor, setting.label)
    except InputError as error:
        raise SettingError(f"scores.{setting.name}", str(error)) from None


def _bits_per_byte(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    found = document_scores(model, tokenizer, texts)
    return [score.negative_log_likelihood / (score.bytes * math.log(2)) for score in found]


def _chances(predictor: Classify, label: str | None, texts: Sequence[str]) -> list[float]:
    found = predict_texts(predictor, texts)
    if label is None:
        return [result["score"] for result in found]
    return [(result.get("probabilities") or result["probability"])[label] for result in found]
