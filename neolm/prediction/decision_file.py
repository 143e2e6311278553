"""`decision.json` in a model directory: how the model makes decisions.

The temperatures are where transformers' `DecisionConfig` has them, so that its file can be read, and reads ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Overrides, load_config
from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.model_files import DECISION_FILE

Temperature = Annotated[float, Field(gt=0)]


class Temperatures(Config):
    """By what the scores of each type of question are divided before they become probabilities."""

    choice: Temperature = 1.0
    score: Temperature = 1.0
    noul: Temperature = 1.0


class DecisionConfig(Config):
    """How a model decides."""

    temperature: Temperatures = Temperatures()
    """Scores are divided by it (Guo et al. 2017)."""
    predicate_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.35
    """Encoders without a head: the cosine of text and statement at which the statement is true with probability 0.5."""
    per_token: bool = True
    """Decoders: the log-likelihood of an option is divided by its number of tokens."""
    prior: bool = True
    """Decoders: the log-likelihood of an option behind a text without content is subtracted (Zhao et al. 2021)."""
    abstain_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Zero-shot classification: no label is given if the best one has a lower probability."""


def read_decision_file(directory: Path, overrides: Overrides = ()) -> DecisionConfig:
    """The settings in `decision.json`, or the defaults, replaced by `overrides`.

    Raises:
        InputError: the file is broken or has unknown keys.
    """
    path = directory / DECISION_FILE
    content = read_json(path) if path.is_file() else {}
    try:
        load_config(DecisionConfig, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return load_config(DecisionConfig, content, overrides, where="")
