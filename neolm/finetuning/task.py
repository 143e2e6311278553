"""A task that is not about a vector of a text: it reads its files and measures a model by its users' predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from neolm.finetuning.encoded_examples import Windows
from neolm.finetuning.heads import TextModel, with_head
from neolm.models.encoder_config import EncoderConfig
from neolm.models.hf import load_encoder
from neolm.tokenizer.tokenizer import Tokenizer
from neolm.training.objective import Objective

Results = dict[str, Any]


class Task(Protocol):
    """Data, model, objective and measure of a fine-tuning."""

    @property
    def objective(self) -> Objective:
        """What is minimised."""

    @property
    def main(self) -> str:
        """The score that is shown first."""

    def load(self, base: Path, tokenizer: Tokenizer, seed: int) -> TextModel:
        """The model of `base` with the head that is trained. Raises `InputError` if it is of another kind."""

    def windows(self, tokenizer: Tokenizer, positions: int) -> tuple[Windows, Windows]:
        """Training and validation windows for a model that reads `positions` tokens; prints what was left out."""

    def measure(self, model: Any, tokenizer: Tokenizer) -> Results:
        """`scores` of the validation part by candidate, `prediction` (the fields of prediction.json), `interval`."""


def encoder_with_head(base: Path, fields: Mapping[str, Any], seed: int) -> TextModel:
    """The encoder in `base` with a new head, by the fields of its configuration. Raises `InputError` for a decoder."""
    loaded = load_encoder(base, "cpu", "float32")
    return with_head(loaded, EncoderConfig(**{**loaded.config.model_dump(), **fields}), seed)
