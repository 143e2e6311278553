"""A linear probe: logistic or ridge regression on frozen features, by L-BFGS to convergence (Alain & Bengio 2016).

It minimises  mean over the examples of weight * loss  +  |W|^2 / (2 C N),  with the bias not penalised: the logistic
regression of scikit-learn, whose C it has. The features are first divided by their root mean square, one number, so
that one grid of C fits every model; the number is then multiplied into W, and the probe is an ordinary head.

For one label of several there is a second way: without a bias, and with each feature vector scaled to length 1, as
sentence encoders are trained. Without a bias, the length of a vector does not change its label, so that this is an
ordinary head too. The way with the lower loss on the validation examples is taken.

Shapes: N examples, C features, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.models.label_config import Problem

GRID = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of C, of which the one with the lowest loss on the validation examples is taken."""
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Probe:
    """A linear head (K, C) with bias (K,)."""

    weight: Tensor
    bias: Tensor
    penalty: float
    """The inverse C of the regularisation."""
    unit: bool = False
    """Whether it was fitted to features of length 1, without a bias."""

    def logits(self, features: Tensor) -> Tensor:
        """(N, C) to (N, K)."""
        return F.linear(features, self.weight, self.bias)


def fit_probe(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    problem: Problem,
    outputs: int,
    validation: tuple[Tensor, Tensor],
    grid: Sequence[float] = GRID,
    intercept: bool = True,
) -> Probe:
    """The probe with the C of `grid` whose loss on `validation` (features, targets) is lowest.

    Args:
        features: (N, C) float32.
        targets: Ids (N,), or floats: (N, K) of several labels, or (N,) of a regression.
        weights: (N,) weights of the examples in the loss.
        problem: What the outputs are.
        outputs: K.
        validation: Features and targets of other examples.
        grid: Values of C.
        intercept: Whether there is a bias; without, it is zero.
    """
    best, lowest = None, float("inf")
    for unit in (False, True) if problem == "single_label_classification" else (False,):
        start = torch.zeros(outputs, features.shape[1] + 1)
        for penalty in sorted(grid):  # each starts from the one before
            probe, start = _fitted(features, targets, weights, problem, penalty, start, unit, intercept)
            loss = losses(probe.logits(validation[0]), validation[1], problem).mean().item()
            if best is None or loss < lowest:
                best, lowest = probe, loss
    assert best is not None
    return best


def refit_probe(
    probe: Probe, features: Tensor, targets: Tensor, weights: Tensor, problem: Problem, intercept: bool = True
) -> Probe:
    """A probe with the penalty of `probe` on other examples; the arguments are those of `fit_probe`."""
    start = torch.cat([probe.weight * _scale(features), probe.bias[:, None]], dim=1)
    return _fitted(features, targets, weights, problem, probe.penalty, start, probe.unit, intercept)[0]


def _fitted(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    problem: Problem,
    penalty: float,
    start: Tensor,
    unit: bool,
    intercept: bool,
) -> tuple[Probe, Tensor]:
    """A probe, and its weights for the scaled features, with the bias as last column."""
    scale = _scale(features)
    scaled = F.normalize(features) if unit else features / scale
    found = minimise(scaled, targets, weights, problem, penalty, start, intercept and not unit)
    return Probe(found[:, :-1] / scale, found[:, -1].clone(), penalty, unit), found


def minimise(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    problem: Problem,
    penalty: float,
    start: Tensor,
    intercept: bool = True,
) -> Tensor:
    """The weights with the bias as last column, (K, C + 1), from those in `start`; `penalty` is C."""
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )
    total = weights.sum()

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = F.linear(features, parameters[:, :-1], parameters[:, -1] if intercept else None)
        loss = (weights * losses(logits, targets, problem)).sum() / total
        loss = loss + parameters[:, :-1].square().sum() / (2 * penalty * len(features))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return parameters.detach()


def _scale(features: Tensor) -> float:
    """The root mean square of the lengths of the rows."""
    return float(features.square().sum(dim=1).mean().sqrt()) or 1.0


def losses(logits: Tensor, targets: Tensor, problem: Problem) -> Tensor:
    """Loss of each example, (N,)."""
    if problem == "regression":
        return (logits[:, 0] - targets).square() / 2
    if problem == "single_label_classification":
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
