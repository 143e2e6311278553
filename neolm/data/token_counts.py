"""How often each token occurs in a split of token shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neolm.data.shards import TokenShards

MAX_TOKENS = 2**22  # that are counted: the entropy of 30,000 kinds of tokens is then off by about 0.004
WINDOWS = 64  # in which they lie, evenly spread


def token_counts(shards: TokenShards, vocab_size: int) -> NDArray[np.int64]:
    """Occurrences (V,) of each token in a split; in a sample of it where the split is large."""
    total = shards.tokens
    size = total if total <= MAX_TOKENS else MAX_TOKENS // WINDOWS
    starts = [0] if size == total else np.linspace(0, total - size, WINDOWS).astype(int).tolist()
    counts = np.zeros(vocab_size, np.int64)
    for start in starts:
        counts += np.bincount(shards.read(start, size), minlength=vocab_size)
    return counts
