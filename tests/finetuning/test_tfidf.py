"""The baseline on TF-IDF features."""

import random

import numpy as np

from neolm.finetuning.tfidf import tfidf_logits

WORDS = {0: ["rain", "snow", "wind"], 1: ["loan", "bank", "rate"], 2: ["goal", "team", "ball"]}


def texts(labels: list[int], seed: int) -> list[tuple[str, ...]]:
    draw = random.Random(seed)
    return [(f"the {draw.choice(WORDS[label])} of {draw.randrange(99)}",) for label in labels]


def test_words_tell_the_labels_apart() -> None:
    labels = [0, 1, 2] * 20
    logits = tfidf_logits(
        texts(labels, 1), np.array(labels), np.ones(60), "single_label_classification", texts([0, 1, 2] * 5, 2)
    )
    assert logits.shape == (15, 3)
    assert logits.argmax(1).tolist() == [0, 1, 2] * 5


def test_a_label_without_a_training_example_is_not_predicted() -> None:
    labels = [0, 2] * 20
    logits = tfidf_logits(texts(labels, 1), np.array(labels), np.ones(40), "single_label_classification", [("?",)] * 3)
    assert logits.shape == (3, 3)
    assert (logits.argmax(1) != 1).all()


def test_several_labels_and_numbers() -> None:
    labels = [0, 1, 2] * 20
    several = np.eye(3)[labels]
    logits = tfidf_logits(texts(labels, 1), several, np.ones(60), "multi_label_classification", texts([2, 0], 3))
    assert ((logits > 0) == [[False, False, True], [True, False, False]]).all()
    numbers = np.array([10.0, -3.0, 0.5])[labels]
    found = tfidf_logits(texts(labels, 1), numbers, np.ones(60), "regression", texts([0, 1], 4))
    assert found.shape == (2, 1)
    assert found[0, 0] > 4
    assert found[1, 0] < 0


def test_weights_count() -> None:
    train: list[tuple[str, ...]] = [("same",)] * 4
    weights = np.array([1.0, 1.0, 1.0, 9.0])
    logits = tfidf_logits(train, np.array([0, 0, 0, 1]), weights, "single_label_classification", [("same",)])
    assert logits[0, 1] > logits[0, 0]


def test_both_texts_of_a_pair_are_read() -> None:
    pairs: list[tuple[str, ...]] = [("x", "rain"), ("x", "loan")] * 10
    logits = tfidf_logits(pairs, np.array([0, 1] * 10), np.ones(20), "single_label_classification", pairs[:2])
    assert logits.argmax(1).tolist() == [0, 1]
