"""A decoder that the server offers for completions and chat."""

from __future__ import annotations

import math
from typing import Any

import torch

from neolm.generation.config import generation_config
from neolm.generation.generate import check_tokenizer
from neolm.generation.kv_cache import block_bytes, blocks_for, fitting_context
from neolm.models.hf import load_decoder
from neolm.models.stored_model import StoredModel
from neolm.prediction.option_scores import ContinuationOptions
from neolm.serving.engine import Engine
from neolm.serving.request import Listener
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.chat_files import load_chat_template
from neolm.tokenizer.tokenizer import load_tokenizer


class GenerationModel(ServedModel):
    """A decoder with its tokenizer, chat template and, while it is loaded, its engine."""

    kind = "generate"

    def __init__(
        self, name: str, facts: StoredModel, settings: ServeConfig, memory: float = math.inf, sharing: int = 1
    ) -> None:
        """Read the tokenizer; nothing else is loaded. Raises `InputError` if the model is not complete.

        A context that does not fit into `memory` (bytes for all models) is limited to what fits into an equal share
        of it for each of `sharing` models, so that one does not always evict the others.
        """
        super().__init__(name, facts, settings)
        config = self.facts.decoder_config
        self.tokenizer = load_tokenizer(self.facts.directory, lossless=True)
        check_tokenizer(config, self.tokenizer)
        self.end_token_ids = frozenset((self.tokenizer.eos_token_id, *config.end_tokens))
        self.template = load_chat_template(self.facts.directory, self.tokenizer)
        # Quantised models have a KV cache of half the size, which is not known before they are loaded.
        dtype, self.limited_because = torch.float32, ""
        self.context = min(settings.context or 0, config.max_position_embeddings)
        if settings.context is None:
            left = memory - self.facts.size
            self.context, self.limited_because = fitting_context(config, dtype, left)
            if self.limited_because:
                share = memory / sharing - self.facts.size
                self.context, self.limited_because = fitting_context(config, dtype, share if share > 0 else left)
        self.options = ContinuationOptions(self.tokenizer, self.context, self.decisions)
        one_text = blocks_for(self.context) * block_bytes(config, dtype)
        self._kv_cache_bytes = max(int(settings.text_memory * 2**30), one_text)
        self.size = self.facts.size + self._kv_cache_bytes
        self.engine: Engine | None = None

    def start(self) -> None:
        """Load the weights, start the engine and generate two tokens, which compiles the kernels."""
        settings = self._settings
        decoder = load_decoder(self.facts.directory, self.facts.device, settings.dtype, settings.quantize)
        check_tokenizer(decoder.config, self.tokenizer)
        engine = Engine(
            decoder,
            self.tokenizer.eos_token_id,
            self.tokenizer.size,
            memory=self._kv_cache_bytes,
            max_running=settings.together,
            max_waiting=settings.queue,
            strict=settings.strict,
            context=self.context,
        ).start()
        listener = Listener()
        engine.submit([self.tokenizer.eos_token_id], generation_config(max_new_tokens=2), listener)
        list(listener)
        self.engine = engine

    def end(self) -> None:
        """Stop the process that renders the chat template."""
        self.template.close()

    def own_facts(self) -> dict[str, Any]:
        """The kind of its chat template."""
        return {"chat_template": self.template.kind}
