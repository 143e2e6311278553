"""The learning rate as a pure function of the position in a training, measured in examples.

Every shape rises linearly over `warmup` examples. After that:

- `constant`: the peak;
- `linear`, `cosine`: decay to `final` of the peak over `decay` examples, then constant (Brown et al. 2020, appendix B:
  a cosine to a tenth over 260 billion tokens, then constant at a tenth);
- `warmup-stable-decay`: the peak until the last `decay` examples, then linear decay to `final` (Hu et al. 2024,
  "MiniCPM", section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine", "warmup-stable-decay"]


@dataclass(frozen=True)
class LearningRate:
    """Share of the peak learning rate at each position of a training of `total` examples."""

    shape: Shape
    total: int
    warmup: int
    decay: int
    final: float

    def __call__(self, position: int) -> float:
        """Share of the peak for the step that ends at example `position`."""
        if position <= self.warmup:
            return position / self.warmup
        if self.shape == "constant":
            return 1.0
        start = max(self.warmup, self.total - self.decay) if self.shape == "warmup-stable-decay" else self.warmup
        progress = min(1.0, max(0, position - start) / max(1, self.decay))
        decayed = 0.5 * (1 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1 - progress
        return self.final + (1 - self.final) * decayed
