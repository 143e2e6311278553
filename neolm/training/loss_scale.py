"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, section 3.2), with the constants of GPT-NeoX-20B.

Gradients below 6e-8 are zero in float16, so the loss is multiplied before the backward pass and the gradients divided
after it. A step whose gradients overflow is skipped. After `hysteresis` overflows the scale is halved; after `window`
good steps it doubles, and the hysteresis starts again (Megatron-LM's rule).
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_SCALE = 1.0


@dataclass
class LossScale:
    """The scale, and the counters that decide its next change."""

    value: float
    window: int
    hysteresis: int
    good_steps: int = 0
    overflows: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether the scale is at its minimum, so that a smaller one cannot help."""
        return self.value <= MIN_SCALE

    def passed(self) -> None:
        """Count a step with finite gradients."""
        self.good_steps += 1
        if self.good_steps == self.window:
            self.value, self.good_steps, self.overflows = self.value * 2, 0, 0

    def overflowed(self) -> None:
        """Count a step with a non-finite gradient."""
        self.good_steps, self.overflows = 0, self.overflows + 1
        if self.overflows >= self.hysteresis:
            self.value = max(MIN_SCALE, self.value / 2)

    def state(self) -> dict[str, float]:
        """As JSON."""
        return {"value": self.value, "good_steps": self.good_steps, "overflows": self.overflows}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the result of `state`."""
        vars(self).update(state)
