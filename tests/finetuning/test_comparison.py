"""Candidates side by side: the cheapest that is not beaten, and the better of the encoders."""

import numpy as np
import pytest

from neolm.finetuning.comparison import Candidate, better_encoder, compare

N = 400
TARGETS = np.arange(N) % 2


def candidate(name: str, right: float, seed: int = 0) -> Candidate:
    """A classifier of two labels that is right for this share of the examples."""
    draws = np.random.default_rng(seed).permutation(N) < right * N
    return Candidate(name, np.eye(2)[np.where(draws, TARGETS, 1 - TARGETS)] * 3.0, 1.0)


@pytest.mark.parametrize(
    ("shares", "recommended"),
    [
        ((0.80, 0.81, 0.81), "a"),  # within the noise: the cheapest
        ((0.60, 0.80, 0.81), "b"),
        ((0.60, 0.70, 0.95), "c"),
        ((0.95, 0.70, 0.60), "a"),
        ((0.60, 0.95, 0.70), "b"),
    ],
)
def test_the_cheapest_that_is_not_beaten_is_recommended(shares: tuple[float, ...], recommended: str) -> None:
    candidates = [candidate(name, share, seed) for seed, (name, share) in enumerate(zip("abc", shares, strict=True))]
    found = compare("single_label_classification", candidates, TARGETS, None)
    assert found["recommended"] == recommended
    assert {name: value["value"] for name, value in found["values"].items()} == pytest.approx(
        dict(zip("abc", shares, strict=True))
    )
    for name, difference in found["differences"].items():
        share = dict(zip("abc", shares, strict=True))
        assert difference["value"] == pytest.approx(share[name] - share[recommended])


def test_a_later_encoder_must_be_better_by_more_than_chance() -> None:
    probe = candidate("probe", 0.80, 0)
    by_luck = Candidate("fine-tuned", probe.logits.copy(), 1.0)
    wrong, right = (np.flatnonzero((probe.logits.argmax(1) == TARGETS) == flag) for flag in (False, True))
    by_luck.logits[wrong[:5]] = np.eye(2)[TARGETS[wrong[:5]]]
    by_luck.logits[right[:4]] = np.eye(2)[1 - TARGETS[right[:4]]]
    of = "single_label_classification", [probe, by_luck], TARGETS, None
    assert better_encoder(*of).name == "probe"  # 5 examples gained, 4 lost
    by_luck.logits[wrong[:40]] = np.eye(2)[TARGETS[wrong[:40]]]
    assert better_encoder(*of).name == "fine-tuned"


def test_examples_of_one_group_are_one_observation() -> None:
    one, other = candidate("a", 0.5, 1), candidate("b", 0.75, 2)
    assert compare("single_label_classification", [one, other], TARGETS, None)["recommended"] == "b"
    two_groups = [str(n // (N // 2)) for n in range(N)]
    values = compare("single_label_classification", [one, other], TARGETS, two_groups)["values"]["a"]
    assert values["low"] <= values["value"] <= values["high"]
