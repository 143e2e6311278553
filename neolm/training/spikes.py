"""Skip steps with gradient spikes: norms far above the recent median.

PaLM (Chowdhery et al. 2022, section 5.1) skipped some hundred batches around a loss spike by hand, and the spike did
not come back. Here a step is skipped when its gradient norm exceeds a multiple of the median over the last steps. The
norms of skipped steps count in the median too, so norms that stay large are no longer skipped.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

WINDOW = 128  # norms in the median
MIN_NORMS = 16  # before anything is skipped


class SpikeFilter:
    """Compares gradient norms with `multiple` times the median of the last ones."""

    def __init__(self, multiple: float | None) -> None:
        self.multiple = multiple
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def reason_to_skip(self, norm: float) -> str | None:
        """Record the norm of a step and return why the step should be skipped, or None."""
        if self.multiple is None:
            return None
        usual = median(self._norms) if len(self._norms) >= MIN_NORMS else math.inf
        self._norms.append(norm)
        if norm > self.multiple * usual:
            return f"gradient norm {norm:.3g} is more than {self.multiple:g} times the median of {usual:.3g}"
        return None

    def state(self) -> list[float]:
        """As JSON."""
        return list(self._norms)

    def restore(self, norms: list[float]) -> None:
        """Restore the result of `state`."""
        self._norms.extend(norms)
