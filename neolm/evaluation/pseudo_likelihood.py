"""Pseudo-log-likelihood: each token predicted alone, with all others visible (Salazar et al. 2020, equation 2).

    pseudo-perplexity = exp(-1/N sum over tokens log p(token | all other tokens of the text))

A text of N tokens takes N forward passes. Of a text longer than the model's context, the beginning is scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neolm.core.progress import task
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.evaluation.masked_tokens import scores_of_targets
from neolm.evaluation.measurement import Measurement, TextDocument, Values, data_of, group_of
from neolm.generation.model_runner import evaluating
from neolm.models.encoder import Encoder
from neolm.tokenizer.tokenizer import Tokenizer


@torch.no_grad()
def one_at_a_time(
    model: Encoder, ids: Sequence[int], mask_token_id: int, places: Sequence[int] | None = None, batch_size: int = 16
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mask one token after the other.

    Args:
        model: An encoder with a masked language model head.
        ids: The whole input, with [CLS] and [SEP].
        mask_token_id: Id of [MASK].
        places: Positions to predict (N); None: all but the first and the last.
        batch_size: Copies of the text computed at a time.

    Returns:
        Negative log-probabilities in nats (N), and whether each token was the likeliest (N).
    """
    row = torch.tensor(ids, device=model.device)
    chosen = torch.tensor(range(1, len(ids) - 1) if places is None else places, dtype=torch.long, device=model.device)
    found = []
    with evaluating(model):
        for part in torch.split(chosen, batch_size):
            number = torch.arange(len(part), device=model.device)
            inputs = row.repeat(len(part), 1)
            inputs[number, part] = mask_token_id
            found.append(scores_of_targets(model, model.hidden_states(inputs)[number, part], row[part]))
    if not found:
        return np.zeros(0), np.zeros(0, bool)
    nats, hits = zip(*found, strict=True)
    return np.concatenate(nats), np.concatenate(hits)


@dataclass(frozen=True)
class PseudoLikelihood(Measurement[Encoder]):
    """`pseudo_perplexity` of the beginnings of documents."""

    documents: Sequence[TextDocument]
    tokenizer: Tokenizer
    window: int
    batch_size: int = 16
    ranks: RunRanks = ONE_RANK
    """The connected processes that share the documents."""

    def protocol(self) -> dict[str, Any]:
        """The documents, and the tokens that are scored of each."""
        return {"measurement": "pseudo-likelihood", "data": data_of(self.documents), "window": self.window}

    def measure(self, subject: Encoder) -> dict[str, Values]:
        """One value per document."""
        mask = self.tokenizer.require_token("mask")
        nats, tokens = [], []
        texts = self.tokenizer.encode_batch([document.text for document in self.documents])
        wholes = [self.tokenizer.with_special(ids[: self.window - 2])[0] for ids in texts]

        def score(whole: Sequence[int]) -> NDArray[np.float64]:
            return one_at_a_time(subject, whole, mask, batch_size=self.batch_size)[0]

        with task("pseudo-perplexity", len(self.documents), "documents") as shown:
            for _, found in self.ranks.map(score, wholes):
                nats.append(float(found.sum()))
                tokens.append(float(len(found)))
                shown.advance()
        groups = [group_of(document) for document in self.documents]
        values = Values(np.array(nats), np.array(tokens), groups, "per token", math.exp)
        return {"pseudo_perplexity": values}
