"""The baseline that costs nothing: a linear model on TF-IDF features of words and characters (scikit-learn).

Words in sequences of one and two, and characters in sequences of two to five inside of words, each weighted by the
logarithm of its count and its inverse document frequency (Joachims 1998; Wang & Manning 2012 for why it is hard to
beat). A pair is the two texts one after the other. The strength of the regularisation is fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.models.label_config import Problem

INVERSE_PENALTY = 10.0  # C of the logistic regression; a value for all tables, which is not searched for
RIDGE = 1.0
MAX_FEATURES = 300_000


def is_available() -> bool:
    """Whether scikit-learn is installed."""
    import importlib.util

    return importlib.util.find_spec("sklearn") is not None


def tfidf_logits(
    train: Sequence[tuple[str, ...]],
    targets: NDArray[Any],
    weights: NDArray[np.float64],
    problem: Problem,
    others: Sequence[tuple[str, ...]],
) -> NDArray[np.float64]:
    """Logits (M, K) of the texts `others`, by a model of the texts `train` (N).

    Args:
        train: One or two texts for each example.
        targets: Ids (N,), 0 and 1 (N, K) of several labels, or numbers (N,).
        weights: (N,) weights of the examples.
        problem: What the outputs are.
        others: Texts to predict.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES)
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32
    )
    union = FeatureUnion([("words", words), ("characters", characters)])
    features = union.fit_transform([" \n ".join(texts) for texts in train])
    unseen = union.transform([" \n ".join(texts) for texts in others])
    if problem == "regression":
        from sklearn.linear_model import Ridge

        fitted = Ridge(alpha=RIDGE).fit(features, targets, sample_weight=weights)
        return np.asarray(fitted.predict(unseen), np.float64)[:, None]
    if problem == "single_label_classification":
        return _one_label(features, targets, weights, unseen)
    columns = [_one_label(features, column.astype(np.int64), weights, unseen) for column in targets.T]
    return np.stack([logits[:, 1] - logits[:, 0] for logits in columns], axis=1)


def _one_label(features: Any, targets: NDArray[Any], weights: NDArray[np.float64], unseen: Any) -> NDArray[np.float64]:
    """Logits (M, K) of labels 0 to K - 1; those without an example get minus infinity, as far as floats are printed."""
    from sklearn.linear_model import LogisticRegression

    size = max(2, int(targets.max()) + 1)
    logits = np.full((unseen.shape[0], size), -1e4)
    present = np.unique(targets)
    if len(present) == 1:
        logits[:, present] = 0.0
        return logits
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=200, tol=1e-3)
    with warnings.catch_warnings(action="ignore"):  # it stops at max_iter: a baseline need not converge
        model.fit(features, targets, sample_weight=weights)
    found = np.asarray(model.decision_function(unseen), np.float64)
    logits[:, present] = np.stack([np.zeros_like(found), found], axis=1) if found.ndim == 1 else found
    return logits
