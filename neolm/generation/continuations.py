"""Log-likelihoods of continuations of texts; what several continuations share is computed once, in the KV cache.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neolm.generation.kv_cache import KVCache, Span, blocks_for, kv_cache_dtype
from neolm.generation.model_runner import TorchRunner
from neolm.kernels.attention import BLOCK_SIZE
from neolm.models.decoder import Decoder

MAX_TOKENS, MAX_LOGITS = 2**13, 2**23
"""Tokens, and logits, that are computed together, unless one row needs more."""


class Continuation(NamedTuple):
    """Token ids of a text with a continuation."""

    ids: tuple[int, ...]
    shared: int
    """Number of first tokens that rows of the same text share."""
    scored: int
    """Number of last tokens whose likelihood is asked for."""


@torch.inference_mode()
def log_likelihoods(model: Decoder, rows: Sequence[Continuation], vocab_size: int) -> Tensor:
    """Log-likelihoods (N, 1) of the last tokens of each row, in nats; what rows of one text share is computed once.

    Tokens of the model from `vocab_size` on, which no text has, count as impossible.
    """
    found = torch.empty(len(rows), 1, dtype=torch.float64)
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.ids[: row.shared // BLOCK_SIZE * BLOCK_SIZE], []).append(number)
    for prefix, numbers in groups.items():
        chosen = [rows[number] for number in numbers]
        found[numbers, 0] = torch.cat([*_with_prefix(model, prefix, chosen, vocab_size)])
    return found


def _with_prefix(
    model: Decoder, prefix: tuple[int, ...], rows: Sequence[Continuation], vocab_size: int
) -> Iterator[Tensor]:
    """Log-likelihoods of rows that begin with the blocks of `prefix`, some rows at a time."""
    longest, scored = max(len(row.ids) - 1 for row in rows), max(row.scored for row in rows)
    count = min(MAX_TOKENS // longest, MAX_LOGITS // (scored * model.config.vocab_size), len(rows))
    count, shared = max(1, count), len(prefix) // BLOCK_SIZE
    own = blocks_for(longest) - shared
    cache = KVCache(model.config, shared + count * own, kv_cache_dtype(model), model.device)
    tables = [np.concatenate([np.arange(shared), shared + row * own + np.arange(own)]) for row in range(count)]
    runner = TorchRunner(model)
    if prefix:
        runner.run(cache, [Span(prefix, 0, tables[0], num_logits=0)])
    for start in range(0, len(rows), count):
        batch = rows[start : start + count]
        spans = [
            Span(row.ids[len(prefix) : -1], len(prefix), table, row.scored)
            for row, table in zip(batch, tables, strict=False)
        ]
        targets = [token for row in batch for token in row.ids[-row.scored :]]
        logits = runner.run(cache, spans)[:, :vocab_size]  # (tokens, V)
        logprobs = logits.log_softmax(dim=1)[range(len(targets)), targets]  # (tokens)
        yield torch.stack([part.sum() for part in torch.split(logprobs.double().cpu(), [row.scored for row in batch])])
