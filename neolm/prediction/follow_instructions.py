"""Answers that a decoder writes to texts, after a fine-tuning to instructions: the likeliest token, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.generation.batch import batches
from neolm.generation.config import generation_config
from neolm.generation.generate import check_tokenizer, text_deltas
from neolm.models.decoder import Decoder
from neolm.prediction.prediction_file import PredictionConfig
from neolm.tokenizer.chat import Message
from neolm.tokenizer.chat_files import load_chat_template
from neolm.tokenizer.tokenizer import Tokenizer


class FollowInstructions:
    """The answer to each text, which is the user's message of a conversation."""

    inputs: Sequence[str] = ("text",)
    columns: Sequence[str] = ("answer",)

    def __init__(self, model: Decoder, tokenizer: Tokenizer, settings: PredictionConfig, directory: Path) -> None:
        """`directory` has the chat template. Raises `InputError` if it is broken."""
        check_tokenizer(model.config, tokenizer)
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.template = load_chat_template(directory, tokenizer)
        context = model.config.max_position_embeddings
        self._longest = context - min(settings.max_new_tokens, context // 2)
        self._config = generation_config(max_new_tokens=settings.max_new_tokens, stop=self.template.stop)

    def encode(self, text: str) -> list[int]:
        """The text as the model reads it. Raises `InputError` if it is empty, or leaves no room for an answer."""
        if not text.strip():
            raise InputError("the text is empty")
        ids = self.template.encode([Message("user", self.settings.prompt + text)])
        if len(ids) > self._longest:
            raise InputError(f"the text has {len(ids):,} tokens, and the model has room for {self._longest:,}")
        return ids

    def predict(self, rows: Sequence[list[int]]) -> list[dict[str, Any]]:
        """The answer to each row."""
        answers = [""] * len(rows)
        for batch in batches(self.model, rows, self._config, self.tokenizer.eos_token_id, self.tokenizer.size, None):
            for row, delta in text_deltas(batch, self.tokenizer, self._config.stop):
                answers[row] += delta
        return [{"answer": answer.strip()} for answer in answers]

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal."""
        return str(result["answer"])
