"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def cosine_schedule(step: int, total: int, warmup: int, final: float) -> float:
    """The share of the peak learning rate at `step`, counted from 1.

    It rises linearly over `warmup` steps, then falls along half a cosine to `final` at step `total` (Brown et al. 2020,
    appendix B, which ends at a tenth of the peak).
    """
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
