"""An encoder that the server offers for embeddings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from neolm.embedding.embedder import BATCH_TOKENS, check_encoder_tokenizer, load_embedder
from neolm.embedding.sentence_files import read_sentence_config
from neolm.models.stored_model import StoredModel
from neolm.prediction.option_scores import EmbeddingOptions
from neolm.serving.batch_engine import BatchEngine
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.tokenizer import load_tokenizer


class EmbeddingModel(ServedModel):
    """An encoder with its tokenizer and, while it is loaded, its engine."""

    kind = "embed"

    def __init__(
        self, name: str, facts: StoredModel, settings: ServeConfig, memory: float = math.inf, sharing: int = 1
    ) -> None:
        """Read the tokenizer and how texts become vectors. Raises `InputError` if the model is not complete.

        `memory` and `sharing` have no effect: no text needs much memory.
        """
        super().__init__(name, facts, settings)
        config = facts.encoder_config
        self.tokenizer = load_tokenizer(facts.directory)
        check_encoder_tokenizer(self.tokenizer, config.vocab_size)
        self.config, self.vocab_size = read_sentence_config(facts.directory), config.vocab_size
        longest = (self.config.max_length, settings.context, config.max_position_embeddings)
        self.context = min(length for length in longest if length is not None)
        self.dimensions = config.hidden_size
        self.options = EmbeddingOptions(self.tokenizer, self.config, self.context, self.decisions)
        # Of a batch: residual stream, queries, keys, values, sums and norms; both sides of the activation.
        activations = max(BATCH_TOKENS, self.context) * (10 * config.hidden_size + 2 * config.mlp_size) * 4
        self.size = facts.size + activations
        self.engine: BatchEngine[list[int]] | None = None

    @property
    def normalize(self) -> bool:
        """Whether vectors are scaled to length 1 by default: as the files say; true without files."""
        return self.config.normalize or self.config.assumed

    def start(self) -> None:
        """Load the weights, start the engine and embed an empty text."""
        settings = self._settings
        embedder = load_embedder(self.facts.directory, self.facts.device, settings.dtype, settings.quantize)
        embedder.embed("")
        compute = partial(embedder.embed_batch, normalize=False)  # some requests want vectors of another length than 1
        self.engine = BatchEngine(compute, self.dimensions, max_waiting=settings.queue).start()

    def own_facts(self) -> dict[str, Any]:
        """The number of dimensions."""
        return {"dimensions": self.dimensions}
