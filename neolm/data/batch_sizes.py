"""The examples of each step: constant batches, or GPT-3's ramp from a small batch to the full one.

Brown et al. 2020, appendix B: the batch grows linearly from 32k tokens to its full size over the first 4 to 12 billion
tokens. Here step 1 reads `start` examples, and a step that begins at example e reads

    start + (full - start) * e / ramp

examples, rounded down to a multiple of `start`; from example `ramp` on, `full`. So the examples of a step are a
function of its number, and nothing has to be saved.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class BatchSizes:
    """The examples of each step; `ramp` is in examples, 0 for constant batches of `full`."""

    full: int
    start: int = 0
    ramp: int = 0

    def examples(self, step: int) -> range:
        """Global indices of the examples of `step`, counted from 1."""
        firsts = self._firsts
        if step < len(firsts):
            return range(firsts[step - 1], firsts[step])
        first = firsts[-1] + (step - len(firsts)) * self.full
        return range(first, first + self.full)

    def steps_for(self, examples: int) -> int:
        """Number of steps that read at least `examples` examples."""
        firsts = self._firsts
        if examples <= firsts[-1]:
            return bisect.bisect_left(firsts, examples)
        return len(firsts) - 1 + -(-(examples - firsts[-1]) // self.full)

    @cached_property
    def _firsts(self) -> list[int]:
        """First example of each step of the ramp and of the first full step."""
        firsts = [0]
        if self.start:
            while firsts[-1] < self.ramp:
                size = self.start + (self.full - self.start) * firsts[-1] // self.ramp
                firsts.append(firsts[-1] + size // self.start * self.start)
        return firsts
