"""Order of the training examples: a permutation for each epoch, which is computed and never stored.

A Feistel network over the index bits, repeated until the result is inside the range, is a bijection of `range(size)`
(Black & Rogaway 2002, "Ciphers with arbitrary finite domains"). Any position of any epoch is found in a microsecond, so
a run resumes by seek, and ranks share only the seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A pseudo-random bijection of `range(size)`, determined by `seed` and `epoch`."""

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        start = _mix(np.array([seed % 2**64, epoch], dtype=np.uint64))
        root = _mix(start[:1] ^ (start[1:] * _GOLDEN))
        self._keys = _mix(root + np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN)

    def __call__(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Images of `indices` (any shape, values in range(size))."""
        values = self._encrypt(np.asarray(indices).astype(np.uint64))
        outside = values >= self.size
        while outside.any():  # follow the cycle back into the range; the domain is at most four times larger
            values[outside] = self._encrypt(values[outside])
            outside = values >= self.size
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): a good 64-bit hash; arithmetic is modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
