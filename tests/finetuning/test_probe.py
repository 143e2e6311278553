"""The linear probe: the optimum that scikit-learn finds, the choice of the penalty, and refitting."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional as F

from neolm.finetuning.probe import Probe, fit_probe, minimise, refit_probe


def features(seed: int, count: int = 300, channels: int = 8) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)) + 0.5


def labels_of(x: Tensor, labels: int, noise: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    directions = torch.randn(x.shape[1], labels, generator=generator)
    return (x @ directions + noise * torch.randn(len(x), labels, generator=generator)).argmax(dim=1)


@pytest.mark.parametrize("labels", [2, 5])
def test_the_probe_is_the_logistic_regression_of_scikit_learn(labels: int) -> None:
    # in float64, because the minimum is so flat that in float32 it depends on the processor's rounding
    x, weights = features(0).double(), torch.rand(300, generator=torch.Generator().manual_seed(1)).double() + 0.2
    y = labels_of(x.float(), labels)
    weights = weights / weights.mean()
    found = minimise(x, y, weights, "single_label_classification", 2.0, x.new_zeros(labels, 9))
    oracle = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(x, y, sample_weight=weights)
    logits = x.numpy() @ found[:, :-1].numpy().T + found[:, -1].numpy()
    expected = oracle.decision_function(x)
    difference = logits - logits.mean(axis=1, keepdims=True)  # softmax does not see a common term
    if labels == 2:
        # scikit-learn fits one vector w with |w|^2; two of w / 2 and - w / 2 have half of that penalty
        oracle = LogisticRegression(C=4.0, tol=1e-10, max_iter=5000).fit(x, y, sample_weight=weights)
        np.testing.assert_allclose(difference[:, 1] * 2, oracle.decision_function(x), atol=5e-4)
    else:
        np.testing.assert_allclose(difference, expected - expected.mean(axis=1, keepdims=True), atol=5e-4)


def test_several_labels_are_independent_logistic_regressions() -> None:
    x = features(2)
    y = torch.stack([labels_of(x, 2), labels_of(x.flip(1), 2)], dim=1).float()
    found = minimise(x, y, torch.ones(300), "multi_label_classification", 3.0, torch.zeros(2, 9))
    for column in range(2):
        oracle = LogisticRegression(C=3.0, tol=1e-10, max_iter=5000).fit(x.double(), y[:, column])
        np.testing.assert_allclose(found[column, :-1], oracle.coef_[0], atol=1e-3)
        np.testing.assert_allclose(found[column, -1], oracle.intercept_[0], atol=1e-3)


def test_numbers_are_a_ridge_regression() -> None:
    x = features(3)
    y = x @ torch.arange(8.0) + torch.randn(300, generator=torch.Generator().manual_seed(4))
    found = minimise(x, y, torch.ones(300), "regression", 0.5, torch.zeros(1, 9))
    oracle = Ridge(alpha=1 / 0.5).fit(x.double(), y)
    np.testing.assert_allclose(found[0, :-1], oracle.coef_, atol=2e-3)
    np.testing.assert_allclose(found[0, -1], oracle.intercept_, atol=5e-3)


def test_the_penalty_is_the_one_with_the_lowest_validation_loss() -> None:
    x, other = features(5, 60, 40), features(6, 400, 40)  # few and noisy examples need a strong penalty
    y, z = labels_of(x, 3, noise=8.0), labels_of(other, 3, noise=8.0)
    ones = torch.ones(60)
    grid = (0.01, 0.1, 1.0, 10.0, 1000.0)
    probe = fit_probe(x, y, ones, "single_label_classification", 3, (other, z), grid)
    loss = {}
    for penalty in grid:
        one = fit_probe(x, y, ones, "single_label_classification", 3, (other, z), [penalty])
        loss[penalty] = float(torch.nn.functional.cross_entropy(one.logits(other), z))
    assert probe.penalty == min(loss, key=lambda penalty: loss[penalty])
    assert probe.penalty < 1000.0


def test_the_scale_of_the_features_makes_no_difference() -> None:
    x, y = features(7), labels_of(features(7), 3)
    parts = "single_label_classification", 3
    small, large = (fit_probe(x * scale, y, torch.ones(300), *parts, (x * scale, y)) for scale in (1e-2, 1e2))
    torch.testing.assert_close(small.logits(x * 1e-2), large.logits(x * 1e2), atol=2e-2, rtol=1e-2)


def test_a_probe_that_is_fitted_again_is_the_one_of_all_examples() -> None:
    x, y = features(8), labels_of(features(8), 3)
    part = fit_probe(x[:200], y[:200], torch.ones(200), "single_label_classification", 3, (x[200:], y[200:]))
    again = refit_probe(part, x, y, torch.ones(300), "single_label_classification")
    whole = fit_probe(x, y, torch.ones(300), "single_label_classification", 3, (x, y), [part.penalty])
    assert again.penalty == part.penalty
    torch.testing.assert_close(again.logits(x).softmax(1), whole.logits(x).softmax(1), atol=1e-3, rtol=0)
    assert not torch.allclose(again.logits(x), part.logits(x))


def test_features_that_are_all_zero_are_no_error() -> None:
    y = torch.tensor([0, 1] * 5)
    probe = fit_probe(torch.zeros(10, 4), y, torch.ones(10), "single_label_classification", 2, (torch.zeros(10, 4), y))
    assert isinstance(probe, Probe)
    torch.testing.assert_close(probe.logits(torch.zeros(1, 4)).softmax(1), torch.full((1, 2), 0.5), atol=1e-4, rtol=0)


def test_vectors_of_length_one_are_chosen_where_lengths_mislead() -> None:
    x, other = features(10, 200, 20), features(11, 400, 20)
    y, z = (labels_of(F.normalize(vectors), 3, noise=0.05) for vectors in (x, other))
    lengths, others = (
        torch.rand(len(v), 1, generator=torch.Generator().manual_seed(12)) * 20 + 0.05 for v in (x, other)
    )
    long, far = x * lengths, other * others
    probe = fit_probe(long, y, torch.ones(200), "single_label_classification", 3, (far, z))
    assert probe.unit
    assert not probe.bias.any()
    torch.testing.assert_close(probe.logits(far).argmax(1), probe.logits(other).argmax(1), rtol=0, atol=0)
    again = refit_probe(probe, long, y, torch.ones(200), "single_label_classification")
    assert again.unit
    torch.testing.assert_close(again.logits(far).softmax(1), probe.logits(far).softmax(1), rtol=0, atol=1e-2)
