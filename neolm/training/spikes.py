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
        self.norms: deque[float] = deque(maxlen=WINDOW)
        """Norms of the last steps, which are part of the training's state."""

    def reason_to_skip(self, norm: float) -> str | None:
        """Record the norm of a step and return why the step should be skipped, or None."""
        if self.multiple is None:
            return None
        usual = median(self.norms) if len(self.norms) >= MIN_NORMS else math.inf
        self.norms.append(norm)
        if norm > self.multiple * usual:
            return f"gradient norm {norm:.3g} is more than {self.multiple:g} times the median of {usual:.3g}"
        return None
