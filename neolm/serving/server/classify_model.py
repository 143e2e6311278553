"""A classifier of texts that the server offers: an encoder or a decoder with the head `sequence`."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from neolm.core.errors import InputError
from neolm.models.stored_model import StoredModel
from neolm.prediction.classify import Classify
from neolm.prediction.option_scores import EntailmentOptions
from neolm.prediction.predict import load_predictor
from neolm.prediction.prediction_file import read_prediction_file
from neolm.prediction.text_windows import Window
from neolm.serving.batch_engine import BATCH_TOKENS, BatchEngine
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.tokenizer import load_tokenizer

HEAD = "sequence"


class ClassifyModel(ServedModel):
    """A classifier with its tokenizer, its `prediction.json` and, while it is loaded, its engine."""

    kind = "classify"

    def __init__(
        self, name: str, facts: StoredModel, settings: ServeConfig, memory: float = math.inf, sharing: int = 1
    ) -> None:
        """Read the tokenizer and how the model predicts. Raises `InputError` if the model is not complete.

        `memory` and `sharing` have no effect: no text needs much memory.
        """
        super().__init__(name, facts, settings)
        config = facts.config
        self.tokenizer = load_tokenizer(facts.directory)
        self.classify = Classify(facts.skeleton, self.tokenizer, read_prediction_file(facts.directory, config.head))
        """Reads texts, and says what logits mean; its model has no weights."""
        try:
            self.classify.encode(*self.classify.inputs)  # any texts
        except InputError as error:
            raise InputError(f"{facts.directory}: {error}") from None
        self.context = self.classify.length
        with contextlib.suppress(InputError):  # it has labels of its own
            self.options = EntailmentOptions(self.classify)
        # Of a batch: residual stream, queries, keys, values, sums and norms; both sides of the activation.
        activations = max(BATCH_TOKENS, self.context) * (10 * config.hidden_size + 2 * config.mlp_size) * 4
        self.size = facts.size + activations
        self.engine: BatchEngine[Window] | None = None

    @property
    def pair(self) -> bool:
        """Whether the model reads two texts together."""
        return self.classify.settings.pair

    def start(self) -> None:
        """Load the weights, start the engine and classify a text."""
        settings = self._settings
        classify = load_predictor(self.facts.directory, str(self.facts.device), settings.dtype, settings.quantize)
        assert isinstance(classify, Classify)
        classify.predict([classify.encode(*classify.inputs)])
        self.engine = BatchEngine(
            classify.window_logits, len(classify.names), lambda window: len(window[0]), settings.queue
        ).start()

    def own_facts(self) -> dict[str, Any]:
        """The labels, and what the model reads and gives."""
        labels = None if self.classify.problem == "regression" else [*self.classify.names]
        return {"labels": labels, "pair": self.pair, "problem": self.classify.problem}
