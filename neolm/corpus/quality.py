"""The quality classifier of GPT-3 (Brown et al. 2020, appendix A): logistic regression on hashed words.

A feature of a text is 1 + ln(count) of a word, at the place of the word's hash among 2^18 places, divided by the
Euclidean norm of the text's features. GPT-3 took the counts themselves, with which long texts have extreme scores.
Words are those of `neolm.corpus.shingles.normalise`.

Shapes: N texts, F features and the intercept, M entries that are not zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import InputError, SettingError
from neolm.core.manifest import intact_file, read_manifest
from neolm.corpus.shingles import shingle_hashes

STAGE, WEIGHTS = "filter", "filter.safetensors"
PLACES = 2**18  # as Spark's HashingTF
MADE_BY = "neolm corpus train-filter POSITIVE NEGATIVE --output DIR"
TOLERANCE = 1e-8  # of the gradient's norm, as a share of what it is at the start
NEWTON_STEPS, CONJUGATE_STEPS = 100, 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """A sparse matrix (N, F): its entries by `row` and `place`, (M,) each. The last place is 1 in every row."""

    row: Ints
    place: Ints
    value: Floats
    texts: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> Features:
        """The features of texts."""
        keys, first = [np.zeros(0, np.int64)], 0
        for hashes, counts in shingle_hashes(texts, 1):
            row = np.repeat(np.arange(first, first + len(counts)), counts)
            keys.append(row * PLACES + hashes % PLACES)
            first += len(counts)
        key, count = np.unique(np.concatenate(keys), return_counts=True)
        row, place = key // PLACES, key % PLACES
        value, every = 1 + np.log(count), np.arange(first)
        norm = np.sqrt(np.bincount(row, value**2, first))
        return cls(
            np.concatenate([row, every]),
            np.concatenate([place, np.full(first, PLACES)]),
            np.concatenate([value / norm[row], np.ones(first)]),
            first,
        )

    def product(self, weights: Floats) -> Floats:
        """Rows times weights (F,): (N,)."""
        # Added in order: `@` would add in an order that depends on the threads.
        return np.bincount(self.row, self.value * weights[self.place], self.texts).astype(np.float64)

    def transposed(self, factors: Floats, size: int) -> Floats:
        """Columns times factors (N,): (F,)."""
        return np.bincount(self.place, self.value * factors[self.row], size).astype(np.float64)


def _dot(first: Floats, second: Floats) -> float:
    return float((first * second).sum())


def fit(found: Features, positive: NDArray[np.bool_], l2: float) -> Floats:
    """The weights (F,) of the logistic regression, by Newton's method with conjugate gradients (Lin et al. 2008).

    They are the only minimum of the sum of the losses, in which both sides weigh the same, and l2 / 2 times the squared
    weights without the intercept. Steps are damped as the loss's self-concordance allows (Bach 2010).
    """
    places, column = np.unique(found.place, return_inverse=True)
    data = Features(found.row, column, found.value, found.texts)
    cost, sign = 0.5 / np.where(positive, positive.mean(), 1 - positive.mean()), np.where(positive, 1.0, -1.0)
    penalty, weights = np.append(np.full(len(places) - 1, l2), 0.0), np.zeros(len(places))
    start = 0.0
    for _ in range(NEWTON_STEPS):
        wrong = _sigmoid(-sign * data.product(weights))
        gradient = penalty * weights - data.transposed(cost * sign * wrong, len(weights))
        start = start or _dot(gradient, gradient)
        if _dot(gradient, gradient) <= TOLERANCE**2 * start:
            break
        step = _newton_step(data, cost * wrong * (1 - wrong), penalty, gradient)
        change = np.abs(data.product(step)).max()
        weights = weights + np.log1p(change) / change * step
    result = np.zeros(PLACES + 1)
    result[places] = weights
    return result


def _newton_step(data: Features, curvature: Floats, penalty: Floats, gradient: Floats) -> Floats:
    """The step for which Hessian times step is minus the gradient, to a hundredth."""
    step, residual = np.zeros(len(gradient)), -gradient
    direction, square = residual, _dot(residual, residual)
    goal = 1e-4 * square
    for _ in range(CONJUGATE_STEPS):
        image = data.transposed(curvature * data.product(direction), len(step)) + penalty * direction
        length = square / _dot(direction, image)
        step, residual = step + length * direction, residual - length * image
        before, square = square, _dot(residual, residual)
        if square <= goal:
            break
        direction = residual + square / before * direction
    return step


def _sigmoid(logits: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # without overflow


def quality_scores(weights: Floats, texts: Iterable[str]) -> Floats:
    """(N,) the probability that each text is of the positive side, if both sides are equally frequent."""
    return _sigmoid(Features.of(texts).product(weights))


def load_weights(path: Path) -> Floats:
    """The weights (F,) that `neolm corpus train-filter` wrote to the directory `path`.

    Raises:
        SettingError: there is none, or it is damaged.
    """
    from safetensors.numpy import load_file

    manifest = read_manifest(path)
    if manifest is None or manifest.stage != STAGE:
        raise SettingError("quality.model", f"{path} has no classifier; train one with `{MADE_BY}`")
    try:
        return load_file(intact_file(path, WEIGHTS))["weights"].astype(np.float64)
    except InputError as error:
        raise SettingError("quality.model", str(error)) from None


def keeps(score: float, text: str, alpha: float, seed: int) -> bool:
    """Whether a text is kept: a draw of the Lomax distribution with shape `alpha` is above 1 - score.

    The draw, as `numpy.random.pareto` defines it, is a function of the text and the seed alone. A text is kept with
    the probability (2 - score)^-alpha.
    """
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    uniform = (int.from_bytes(digest, "big") >> 11) / 2**53
    draw: float = (1 - uniform) ** (-1 / alpha) - 1
    return draw > 1 - score
