"""The sequence length of each step: constant, or short at first (Devlin et al. 2019, appendix A.2: 128, then 512)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequenceLengths:
    """Sequences have `short` tokens up to step `short_steps`, then `full`."""

    full: int
    short: int = 0
    short_steps: int = 0

    def at(self, step: int) -> int:
        """Length of the sequences of `step`, counted from 1."""
        return self.short if step <= self.short_steps else self.full

    @property
    def all(self) -> tuple[int, ...]:
        """The lengths in the order of their steps."""
        return (self.short, self.full) if self.short_steps else (self.full,)
