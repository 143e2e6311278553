"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, section 3.2), with the constants of GPT-NeoX-20B.

Gradients below 6e-8 are zero in float16, so the loss is multiplied before the backward pass and the gradients divided
after it. When one overflows, its step is skipped. After `hysteresis` overflows the scale is halved; after `window` good
steps it doubles, and the hysteresis is whole again (Megatron-LM's rule).
"""

from __future__ import annotations

from dataclasses import dataclass

LOWEST = 1.0


@dataclass
class LossScale:
    """The scale and what its next change depends on."""

    value: float
    window: int
    hysteresis: int
    good_steps: int = 0
    overflows: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether an overflow cannot be the scale's fault any more."""
        return self.value <= LOWEST

    def passed(self) -> None:
        """A step had finite gradients."""
        self.good_steps += 1
        if self.good_steps == self.window:
            self.value, self.good_steps, self.overflows = self.value * 2, 0, 0

    def overflowed(self) -> None:
        """A step had a gradient that is not finite."""
        self.good_steps, self.overflows = 0, self.overflows + 1
        if self.overflows >= self.hysteresis:
            self.value = max(LOWEST, self.value / 2)

    def state(self) -> dict[str, float]:
        """As JSON."""
        return {"value": self.value, "good_steps": self.good_steps, "overflows": self.overflows}

    def restore(self, state: dict[str, float]) -> None:
        """Put back what `state` gave."""
        self.value = float(state["value"])
        self.good_steps, self.overflows = int(state["good_steps"]), int(state["overflows"])
