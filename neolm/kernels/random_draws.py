"""Random numbers that are functions of a key and a counter, so that any of them is computed without those before it.

A draw is the output of SplitMix64 (Steele et al. 2014) with `key` as its state, after `counter` steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neolm.kernels.jit import cached_jit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@cached_jit
def draw(key: Any, counter: int) -> Any:
    """64 random bits."""
    bits = key + _STEP * np.uint64(counter + 1)
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@cached_jit
def uniform(key: Any, counter: int) -> Any:
    """A number from [0, 1)."""
    return np.float64(draw(key, counter) >> np.uint64(11)) * 2.0**-53


@cached_jit
def below(key: Any, counter: int, limit: int) -> Any:
    """An integer from range(limit)."""
    return np.int64(uniform(key, counter) * limit)


@cached_jit
def keys_of(root: Any, numbers: Any) -> Any:
    """A key for each of `numbers`, which is the draw of that number from `root`."""
    keys = np.empty(len(numbers), np.uint64)
    for row in range(len(numbers)):
        keys[row] = draw(root, numbers[row])
    return keys
