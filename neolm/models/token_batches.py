"""Batches of texts of nearly equal length, by their numbers of tokens, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from neolm.models.decoder import Decoder


def token_batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Rows of each batch, longest first: at most `limit` tokens, or one row."""
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and tokens + lengths[row] > limit:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row]
    if batch:
        yield batch


def text_inputs(model: object) -> tuple[str, ...]:
    """Names of the tensors that a classifier of texts reads; a decoder has no token types."""
    names = ("input_ids", "attention_mask")
    return names if isinstance(model, Decoder) else (*names, "token_type_ids")


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
    """Token ids and token types of texts as `input_ids`, `attention_mask` and `token_type_ids`, each (B, T)."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, mask, types = (np.zeros(shape, np.int64) for _ in range(3))
    for row, (tokens, kinds) in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        types[row, : len(tokens)] = kinds
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.from_numpy(array) for name, array in zip(names, (ids, mask, types), strict=True)}
