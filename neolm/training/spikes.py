"""Steps that are better not taken: a gradient whose norm is far beyond what is usual.

PaLM (Chowdhery et al. 2022, section 5.1) skipped some hundred batches around a loss spike by hand and saw it not come
back. Here a step is skipped by itself when its gradient norm exceeds a multiple of the median over the last steps. The
norms of skipped steps count in the median too: what stays large becomes usual, and is no longer skipped.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

REMEMBERED = 128  # norms that the median is of
NEEDED = 16  # norms before anything is skipped


class SpikeFilter:
    """Remembers the gradient norms of the last steps, and tells which norm is beyond `multiple` of their median."""

    def __init__(self, multiple: float | None) -> None:
        self.multiple = multiple
        self._norms: deque[float] = deque(maxlen=REMEMBERED)

    def reason_to_skip(self, norm: float) -> str | None:
        """Why a step with this gradient norm is not to be taken, or None; the norm is remembered."""
        if self.multiple is None:
            return None
        usual = median(self._norms) if len(self._norms) >= NEEDED else math.inf
        self._norms.append(norm)
        if norm > self.multiple * usual:
            return f"gradient norm {norm:.3g} is beyond {self.multiple:g} times the median of {usual:.3g}"
        return None

    def state(self) -> list[float]:
        """As JSON."""
        return list(self._norms)

    def restore(self, norms: list[float]) -> None:
        """Put back what `state` gave."""
        self._norms.extend(norms)
