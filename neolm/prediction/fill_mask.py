"""Masked tokens filled in by a masked language model (Devlin et al. 2019, section 3.1).

Several masks of a text are filled independently of each other, each with the others masked.

Shapes: B batch, T time, C channels, M masks of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import InputError, NonFiniteError, SettingError
from neolm.generation.generate import check_tokenizer
from neolm.generation.model_runner import evaluating
from neolm.models.encoder import Encoder
from neolm.models.encoder_heads import MaskedHead
from neolm.models.token_batches import padded
from neolm.prediction.masked_text import MASK, MaskedText, masked_text
from neolm.tokenizer.tokenizer import Tokenizer

MAX_LOGITS = 2**23  # float32 logits in memory at a time: 32 MiB


class FillMask:
    """The likeliest tokens for each [MASK] of a text, with their probabilities. Results do not depend on the batch."""

    inputs: Sequence[str] = ("text",)
    columns: Sequence[str] = ("filled", "masks")

    def __init__(self, model: Encoder, tokenizer: Tokenizer, top_k: int = 5) -> None:
        """Raises InputError: no masked language model head, the tokenizer of another model, or a wrong `top_k`."""
        if not isinstance(model.head, MaskedHead):
            raise InputError(f"the head '{model.config.head}' cannot fill a {MASK}; it is no masked language model")
        check_tokenizer(model.config, tokenizer)
        tokenizer.require_token("mask")
        self._known = min(tokenizer.size, model.config.vocab_size)
        if not 0 < top_k <= self._known:
            raise SettingError("top_k", f"{top_k} is not between 1 and the {self._known:,} tokens of the vocabulary")
        self.model, self.tokenizer, self.top_k = model, tokenizer, top_k

    def encode(self, text: str) -> MaskedText:
        """The text as the model reads it. Raises `InputError` if it is empty, has no mask, or is too long."""
        return masked_text(self.tokenizer, text, self.model.config.max_position_embeddings)

    def predict(self, rows: Sequence[MaskedText]) -> list[dict[str, Any]]:
        """`filled`, the text with the likeliest tokens, and `masks`: for each, `token`, `id` and `probability`.

        Raises:
            NonFiniteError: a probability is not finite.
        """
        found = (self.alternatives(row) for part in self.log_probabilities(rows) for row in part)
        return [_result(row, [next(found) for _ in row.masks]) for row in rows]

    @torch.no_grad()
    def log_probabilities(self, rows: Sequence[MaskedText]) -> Iterator[Tensor]:
        """Log-probabilities of the vocabulary for the masks of all rows, in parts of some masks, (m, V).

        Raises:
            NonFiniteError: one is not finite.
        """
        inputs = padded([(row.ids, [0] * len(row.ids)) for row in rows])  # (B, T)
        owners = [number for number, row in enumerate(rows) for _ in row.masks]
        places = [place for row in rows for place in row.masks]
        device = self.model.device
        with evaluating(self.model):
            states = self.model.hidden_states(**{name: tensor.to(device) for name, tensor in inputs.items()})
            hidden = states[owners, places]  # (M, C)
            for part in vocabulary_log_probabilities(self.model, hidden):
                if not torch.isfinite(part[:, : self._known]).all():
                    raise NonFiniteError("predict: a probability is not finite; the weights are damaged")
                yield part

    def alternatives(self, log_probabilities: Tensor) -> list[dict[str, Any]]:
        """The likeliest tokens by log-probabilities of the vocabulary (V,): `token`, `id` and `probability`."""
        best = log_probabilities[: self._known].topk(self.top_k)
        return [
            {"token": self.tokenizer.backend.id_to_token(i) or f"<{i}>", "id": i, "probability": p}
            for p, i in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True)
        ]

    @staticmethod
    def describe(result: dict[str, Any]) -> str:
        """A result for a terminal: the filled text, and a line of alternatives for each mask."""
        lines = [result["filled"]]
        for number, alternatives in enumerate(result["masks"], start=1):
            name = MASK if len(result["masks"]) == 1 else f"{MASK} {number}"
            lines.append(f"  {name}  " + "  ".join(f"{a['token']} {a['probability']:.1%}" for a in alternatives))
        return "\n".join(lines)


def vocabulary_log_probabilities(model: Encoder, hidden: Tensor) -> Iterator[Tensor]:
    """Log-probabilities of the vocabulary for hidden states (M, C), in parts of some rows, float32 (m, V)."""
    assert isinstance(model.head, MaskedHead)
    for part in torch.split(hidden, max(1, MAX_LOGITS // model.config.vocab_size)):
        logits = model.head(part)
        assert isinstance(logits, Tensor)
        yield logits.float().log_softmax(dim=-1)


def _result(row: MaskedText, masks: list[list[dict[str, Any]]]) -> dict[str, Any]:
    return {"filled": row.filled([alternatives[0]["token"] for alternatives in masks]), "masks": masks}
