"""Claims about pairs of cells, and the verdicts that several seeds allow.

A claim says that a measure of one cell is more than that of another. Its evidence is the mean of the differences
between trainings with the same seed, with Student's t interval of 95% over the seeds. It holds if the whole interval is
above zero, it does not hold if the whole interval is below zero, and otherwise it cannot be told: an interval that
covers zero is no evidence that there is no difference. One seed has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["holds", "does not hold", "cannot be told", "not measured"]

# 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.95996

Values = Mapping[int, float]
"""A measure of a cell by seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval of 95%; None for both ends with one seed."""

    value: float
    low: float | None
    high: float | None
    seeds: int

    def verdict(self) -> Verdict:
        """What the interval says about the claim that the value is above zero."""
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "cannot be told"
        if self.low > 0:
            return "holds"
        return "does not hold" if self.high < 0 else "cannot be told"


def mean_of(values: Sequence[float], exact: bool = False, error: float = 0.0) -> Estimate:
    """The mean with its interval.

    `exact` values have no error, so that their mean is its own interval. `error` is half of the interval of what else
    is uncertain, such as the choice of the held-out text; the halves add up as independent errors do. Values that
    chance should tell apart and that are all the same, as those of models that always give one answer, say nothing
    about the spread: without an `error` they have no interval.
    """
    mean, count = fmean(values), len(values)
    if exact and len(set(values)) == 1:
        return Estimate(mean, mean, mean, count)
    spread = stdev(values) if count > 1 else 0.0
    if count < 2 or (spread == 0 and error == 0):
        return Estimate(mean, None, None, count)
    half = math.hypot(t_quantile(count - 1) * spread / math.sqrt(count), error)
    return Estimate(mean, mean - half, mean + half, count)


def difference(
    more: Values, less: Values | float, ratio: bool = False, exact: bool = False, error: float = 0.0
) -> Estimate | None:
    """The mean difference over the seeds that both have, or of the logarithms for a `ratio`; None if there is none.

    `less` can be a number instead of a cell, such as the accuracy of guessing.
    """
    scale = math.log if ratio else float
    other = less if isinstance(less, Mapping) else dict.fromkeys(more, less)
    pairs = [(more[seed], other[seed]) for seed in more if seed in other]
    if ratio and any(min(pair) <= 0 for pair in pairs):
        return None
    found = [scale(a) - scale(b) for a, b in pairs]
    return mean_of(found, exact, error) if found else None


def t_quantile(degrees: int) -> float:
    """97.5% quantile of Student's t: exact to 0.001 (beyond the table, the expansion of Peiser 1943)."""
    if degrees <= len(QUANTILES):
        return QUANTILES[degrees - 1]
    z, n = NORMAL, degrees
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / n + second / n**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)


@dataclass(frozen=True)
class Measure:
    """Something that is measured of a cell, and how it is written."""

    key: str
    name: str
    decimals: int = 3
    percent: bool = False
    ratio: bool = False
    """Cells are compared by their ratio instead of their difference."""
    exact: bool = False
    """It does not depend on chance or on the machine."""
    learnt: bool = False
    """It says nothing about models that have learnt no more than how frequent tokens are."""
    sampled: bool = False
    """The choice of the held-out text counts as an error: it is compared with a number, or over different text."""

    def written(self, value: float) -> str:
        """A value of a cell."""
        return f"{100 * value:.1f}%" if self.percent else f"{value:,.{self.decimals}f}"

    def compared(self, value: float) -> str:
        """A difference between cells, or a ratio from the difference of logarithms."""
        if self.ratio:
            factor = math.exp(value)
            return f"{factor:.2f}\u00d7" if factor < 10 else f"{factor:.1f}\u00d7"
        return f"{100 * value:+.1f}" if self.percent else f"{value:+.{self.decimals}f}"


@dataclass(frozen=True)
class Claim:
    """`measure` of the cell `more` is above that of the cell `less`, which may be a number."""

    table: int
    words: str
    paper: str
    """The paper's figures."""
    measure: Measure
    more: str
    less: str | float
    of_less: Measure | None = None
    """Measure of the other cell, if it is another one."""
    turned: bool = False
    """The evidence is shown as `less` minus `more`."""


@dataclass(frozen=True)
class Finding:
    """A claim with its evidence."""

    claim: Claim
    estimate: Estimate | None
    verdict: Verdict
    unlearnt: bool = False
    """Whether the verdict is open because one of the cells has learnt too little."""

    @property
    def evidence(self) -> str:
        """The difference or ratio with its interval."""
        found, claim = self.estimate, self.claim
        if found is None:
            return "not measured in both"
        sign = -1.0 if claim.turned else 1.0

        def words(value: float) -> str:
            less = claim.less  # a number, such as chance: the value of the cell itself is shown
            return (
                claim.measure.compared(sign * value) if isinstance(less, str) else claim.measure.written(value + less)
            )

        unit = " points" if claim.measure.percent and isinstance(claim.less, str) else ""
        shown = words(found.value) + unit
        if claim.measure.exact or found.low is None or found.high is None:
            return shown
        low, high = (found.high, found.low) if claim.turned else (found.low, found.high)
        return f"{shown} ({words(low)} to {words(high)})"

    @property
    def basis(self) -> str:
        """What was measured, and over how many seeds."""
        name, found = self.claim.measure.name.lower().replace("nsp", "NSP").replace("sop", "SOP"), self.estimate
        if self.unlearnt:
            name = f"a model has not learnt; {name}"
        if found is None or self.claim.measure.exact:
            return name
        return f"{name}, {found.seeds} seeds" if found.seeds > 1 else f"{name}, one seed"


def find(
    claim: Claim,
    values: Mapping[str, Mapping[str, Values]],
    errors: Mapping[str, Mapping[str, Values]],
    unlearnt: Collection[str] = (),
) -> Finding:
    """The verdict on a claim.

    Args:
        claim: The claim.
        values: By cell, measure and seed.
        errors: Halves of the intervals of scores over the held-out text, by cell, measure and seed.
        unlearnt: Cells that have learnt no more than how frequent tokens are.
    """
    measure = claim.measure
    sides = [(claim.more, measure.key)]
    if isinstance(claim.less, str):
        sides.append((claim.less, (claim.of_less or measure).key))
    more, *others = [values.get(cell, {}).get(key, {}) for cell, key in sides]
    halves = [errors.get(cell, {}).get(key, {}) for cell, key in sides] if measure.sampled else []
    error = math.hypot(*(fmean(half.values()) for half in halves if half))
    less = others[0] if isinstance(claim.less, str) else claim.less
    estimate = difference(more, less, measure.ratio, measure.exact, error)
    if estimate is None:
        return Finding(claim, None, "not measured")
    if measure.learnt and any(cell in unlearnt for cell, _ in sides):
        return Finding(claim, estimate, "cannot be told", unlearnt=True)
    return Finding(claim, estimate, estimate.verdict())
