"""Normalisation of texts before they are compared, their shingles, and their MinHash signatures."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.shingles import bucket_hashes, normalise, shingle_sets, signatures
from neolm.kernels.shingles import jaccard

EQUAL = {
    "case and punctuation": ("The cat, the DOG -- and (so on).", "the cat the dog and so on"),
    "white space": ("one\ttwo\n\n three\u00a0four\u3000five", "one two three four five"),
    "composed and decomposed": ("café résumé", "cafe\u0301 re\u0301sume\u0301"),
    "ligatures and full width": ("ﬁne ＡＢＣ １２３", "fine abc 123"),
    "case beyond ASCII": ("STRASSE ΟΔΟΣ Ä", "straße οδος ä"),
    "quotes and dashes": ("“it’s” — so… 10 €", "it s so 10"),
    "invisible characters": ("co\u00adoperate\ufeff a\u200bb", "cooperate a b"),
    "half-width katakana": ("ｶﾞｷﾞ", "ガ ギ"),
    "Chinese": ("我们，都", "我 们 都"),
    "nothing but symbols": ("?! … 🙂 --", ""),
}


@pytest.mark.parametrize("name", EQUAL)
def test_texts_with_the_same_words(name):
    left, right = (normalise(text).split() for text in EQUAL[name])
    assert left == right


def test_marks_stay_within_their_words():
    assert normalise("हिन्दी में").decode().split() == ["हिन्दी", "में"]
    assert normalise("snake_case x1").split() == [b"snake", b"case", b"x1"]
    assert len(normalise("ภาษาไทย").decode().split()) == 7


@given(st.text(max_size=50))
def test_normalisation_is_idempotent(text):
    once = normalise(text).decode()
    assert normalise(once).split() == once.encode().split()


def test_long_texts_are_normalised_in_slices(monkeypatch):
    text = "Größe, und “Maß” 漢字。 " * 50
    whole = normalise(text)
    monkeypatch.setattr("neolm.corpus.shingles._SLICE", 7)
    assert normalise(text) == whole


def test_buffers_do_not_change_the_result(monkeypatch):
    texts = ["", "one two three", "a b c d e f g", "!", "ü " * 20, "", "漢字仮名交じり文"]
    sets, (signature, is_long) = shingle_sets(texts, 5), signatures(texts, 5, 20)
    assert [len(one) for one in sets] == [0, 0, 3, 0, 1, 0, 4]
    assert is_long.tolist() == [len(one) > 0 for one in sets]
    monkeypatch.setattr("neolm.corpus.shingles._BUFFER_BYTES", 1)
    assert [one.tolist() for one in shingle_sets(texts, 5)] == [one.tolist() for one in sets]
    assert (signatures(texts, 5, 20)[0] == signature).all()
    assert shingle_sets([], 5) == []
    assert signatures([], 5, 20)[0].shape == (0, 20)


def test_the_agreement_of_signatures_estimates_the_jaccard_similarity():
    draw, pairs = random.Random(0), []
    for number in range(400):
        words = [f"{number} {draw.getrandbits(30)}" for _ in range(150)]
        pairs += [" ".join(words), " ".join(word if draw.random() > number / 4000 else "x" for word in words)]
    sets, (signature, _) = shingle_sets(pairs, 5), signatures(pairs, 5, 112)
    exact = np.array([jaccard(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
    estimate = (signature[::2] == signature[1::2]).mean(1)
    assert exact.min() < 0.5
    assert abs(estimate - exact).mean() < 0.04  # the mean error of 112 draws is 0.8 x 0.05 at most
    assert abs((estimate - exact).mean()) < 0.005
    hashes = bucket_hashes(signature, 14, 8)
    shared = (hashes[::2] == hashes[1::2]).any(1)
    expected = 1 - (1 - exact**8) ** 14
    assert abs(shared.mean() - expected.mean()) < 0.04
    assert len(np.unique(hashes[0])) == 14


def test_signatures_are_stable():
    """Stored values: a change would change which documents of every corpus are compared."""
    signature, _ = signatures(["one two three four five six"], 5, 4)
    assert bucket_hashes(signature, 2, 2).tolist() == [[12052911764255892375, 11476738278039020591]]
