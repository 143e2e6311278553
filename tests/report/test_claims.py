"""Verdicts on claims: by hand-made numbers, against scipy, and by properties."""

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.report.claims import Claim, Measure, difference, find, mean_of, t_quantile

LOSS = Measure("loss", "Loss", learnt=True)
SPEED = Measure("speed", "Tokens/s", ratio=True)
SIZE = Measure("size", "Parameters", ratio=True, exact=True)
SHARE = Measure("share", "NSP accuracy", percent=True, sampled=True)

numbers = st.floats(0.01, 100)
by_seed = st.dictionaries(st.integers(1, 9), numbers, min_size=1)


def worse(measure: Measure = LOSS, more: str = "a", less: str | float = "b", turned: bool = False) -> Claim:
    return Claim(4, "a is more than b", "1 and 2", measure, more, less, turned=turned)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (29, 2.045), (100, 1.984)]
)
def test_quantiles_of_student_t(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=0.001)


def test_the_interval_is_the_one_of_the_textbook() -> None:
    # differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, half of the interval 4.303 x 0.1 / sqrt(3) = 0.248
    found = difference({1: 1.1, 2: 2.2, 3: 3.3}, {1: 1.0, 2: 2.0, 3: 3.0})
    assert found is not None
    assert (found.value, found.low, found.high, found.seeds) == pytest.approx((0.2, -0.0484, 0.4484, 3), abs=1e-4)
    assert found.verdict() == "cannot be told"


def test_intervals_of_normal_differences_cover_the_mean() -> None:
    chance = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = mean_of(list(chance.normal(0.3, 1, 3)))
        covered += found.low is not None and found.high is not None and found.low <= 0.3 <= found.high
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([3.1, 3.2, 3.1], [2.0, 2.1, 2.05], "holds"),
        ([2.0, 2.1, 2.05], [3.1, 3.2, 3.1], "does not hold"),
        ([2.0, 2.6, 2.3], [2.1, 2.2, 2.5], "cannot be told"),
        ([9.0], [1.0], "cannot be told"),  # one seed has no interval
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], "cannot be told"),  # models that do not depend on the seed
    ],
)
def test_verdicts(a: list[float], b: list[float], verdict: str) -> None:
    values = {"a": {"loss": dict(enumerate(a))}, "b": {"loss": dict(enumerate(b))}}
    assert find(worse(), values, {}).verdict == verdict


@given(by_seed, by_seed, st.booleans(), st.floats(0, 10))
def test_no_claim_is_decided_by_an_interval_that_covers_zero(
    a: dict[int, float], b: dict[int, float], ratio: bool, error: float
) -> None:
    measure = Measure("m", "M", ratio=ratio, sampled=True)
    values, errors = {"a": {"m": a}, "b": {"m": b}}, {"a": {"m": dict.fromkeys(a, error)}}
    finding = find(worse(measure), values, errors)
    common = a.keys() & b.keys()
    if not common:
        assert finding.verdict == "not measured"
        return
    found = finding.estimate
    assert found is not None
    scale = math.log if ratio else float
    assert found.value == pytest.approx(fmean(scale(a[s]) - scale(b[s]) for s in common), abs=1e-9)
    decided = finding.verdict in ("holds", "does not hold")
    if found.low is None or found.high is None:
        assert not decided
        return
    assert found.low <= found.value <= found.high
    assert found.high - found.low >= 2 * error * (1 - 1e-9)
    assert decided == (not found.low <= 0 <= found.high)
    assert finding.verdict != "holds" or found.value > 0
    # the opposite claim has the opposite verdict
    opposite = find(worse(measure, "b", "a"), values, errors).verdict
    assert opposite == {"holds": "does not hold", "does not hold": "holds"}.get(finding.verdict, finding.verdict)


def test_a_measure_without_chance_needs_one_seed() -> None:
    finding = find(worse(SIZE), {"a": {"size": {1: 300.0}}, "b": {"size": {1: 100.0}}}, {})
    assert (finding.verdict, finding.evidence, finding.basis) == ("holds", "3.00\u00d7", "parameters")
    equal = {"a": {"size": {1: 5.0}}, "b": {"size": {1: 5.0}}}
    assert find(worse(SIZE), equal, {}).verdict == "cannot be told"


def test_speeds_are_compared_by_their_ratio_and_may_be_turned() -> None:
    values = {"a": {"speed": {1: 200.0, 2: 210.0, 3: 190.0}}, "b": {"speed": {1: 100.0, 2: 100.0, 3: 100.0}}}
    straight, turned = find(worse(SPEED), values, {}), find(worse(SPEED, turned=True), values, {})
    assert straight.verdict == turned.verdict == "holds"
    assert straight.evidence == "2.00\u00d7 (1.76\u00d7 to 2.26\u00d7)"
    assert turned.evidence == "0.50\u00d7 (0.44\u00d7 to 0.57\u00d7)"
    assert straight.basis == "tokens/s, 3 seeds"


def test_a_model_that_always_gives_one_answer_is_not_above_chance() -> None:
    values = {"a": {"share": {1: 0.53, 2: 0.53, 3: 0.53}}}
    chance = worse(SHARE, less=0.5)
    assert find(chance, values, {"a": {"share": {1: 0.04, 2: 0.04, 3: 0.04}}}).verdict == "cannot be told"
    finding = find(chance, values, {"a": {"share": {1: 0.02, 2: 0.02, 3: 0.02}}})
    assert (finding.verdict, finding.evidence) == ("holds", "53.0% (51.0% to 55.0%)")
    assert finding.basis == "NSP accuracy, 3 seeds"
    both = find(worse(SHARE), {"a": values["a"], "b": {"share": {1: 0.4, 2: 0.41, 3: 0.4}}}, {})
    assert both.evidence.startswith("+12.7 points (+")


def test_models_that_have_not_learnt_decide_nothing() -> None:
    values = {"a": {"loss": {1: 7.0, 2: 7.1, 3: 7.05}}, "b": {"loss": {1: 3.0, 2: 3.1, 3: 3.05}}}
    assert find(worse(), values, {}).verdict == "holds"
    finding = find(worse(), values, {}, {"a"})
    assert finding.verdict == "cannot be told"
    assert finding.basis == "a model has not learnt; loss, 3 seeds"


def test_a_missing_cell_is_not_measured() -> None:
    finding = find(worse(), {"a": {"loss": {1: 7.0}}}, {})
    assert (finding.verdict, finding.evidence) == ("not measured", "not measured in both")
