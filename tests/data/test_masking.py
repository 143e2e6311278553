"""Masks against the stated probabilities: 15 percent, 80/10/10, whole words, n-grams with p(n) in proportion to 1/n."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from neolm.data.segments_config import MaskingConfig
from neolm.kernels.random_draws import keys_of
from neolm.kernels.token_masking import mask_tokens

V, CLS, SEP, MASK = 1000, 2, 3, 4
SPECIAL = np.arange(V) < 5
ORDINARY = np.flatnonzero(~SPECIAL)
EVERY_TOKEN = np.ones(V, bool)


def mask(ids: NDArray[np.int64], words: NDArray[np.bool_] = EVERY_TOKEN, **settings: Any) -> tuple[Any, Any]:
    """Rows without padding, masked: what the model reads, and the labels."""
    config, ids = MaskingConfig(**settings), ids.copy()
    labels = np.full_like(ids, -100)
    mask_tokens(
        ids,
        np.full(len(ids), ids.shape[1]),
        labels,
        (SPECIAL, words, ORDINARY),
        keys_of(np.uint64(7), np.arange(len(ids))),
        100,
        MASK,
        (config.share, config.mask_share, config.random_share),
        config.max_predictions or 0,
        config.whole_words or config.max_ngram > 1,
        config.max_ngram,
    )
    return ids, labels


def pairs(rows: int, width: int, seed: int = 0) -> NDArray[np.int64]:
    """[CLS] A [SEP] B [SEP] of random tokens."""
    ids = np.random.default_rng(seed).integers(5, V, (rows, width))
    ids[:, 0], ids[:, width // 2], ids[:, -1] = CLS, SEP, SEP
    return ids


def within(found: float, trials: int, probability: float) -> bool:
    """Whether a count lies within five standard deviations of its binomial mean."""
    return abs(found - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability))


def test_shares_of_masked_random_and_kept_tokens() -> None:
    original = pairs(4000, 128)
    ids, labels = mask(original)
    chosen = labels >= 0
    assert (chosen.sum(1) == 19).all()  # 128 * 0.15 = 19.2
    assert (labels[chosen] == original[chosen]).all()
    assert (ids[~chosen] == original[~chosen]).all()
    assert not chosen[SPECIAL[original]].any()
    total = int(chosen.sum())
    masked, kept = ids[chosen] == MASK, ids[chosen] == labels[chosen]
    assert within(masked.sum(), total, 0.8)
    assert within(kept.sum(), total, 0.1 + 0.1 / len(ORDINARY))
    replaced = ids[chosen][~masked & ~kept]
    assert not SPECIAL[replaced].any()
    by_half = np.histogram(replaced, [5, 500, V])[0]
    assert within(by_half[0], len(replaced), 495 / 995)
    places = chosen.sum(0)[~SPECIAL[original[0]]]
    assert all(within(count, 4000, 19 / 125) for count in places)  # every place is as likely


def test_the_settings_are_used() -> None:
    original = pairs(500, 128)
    assert (mask(original, max_predictions=5)[1] >= 0).sum(1).tolist() == [5] * 500
    assert (mask(original, share=0.5)[1] >= 0).sum(1).tolist() == [64] * 500
    assert (mask(pairs(50, 5), share=0.01)[1] >= 0).sum(1).tolist() == [1] * 50
    assert (mask(original, share=1.0)[1] >= 0).sum(1).tolist() == [125] * 500
    ids, labels = mask(original, mask_share=0.0, random_share=1.0)
    assert MASK not in ids
    assert (ids != original).sum() > 0.98 * (labels >= 0).sum()
    assert (mask(original, mask_share=0.0, random_share=0.0)[0] == original).all()
    with pytest.raises(ValidationError, match=r"mask_share 0\.8 and random_share 0\.3 are more than 1"):
        MaskingConfig(random_share=0.3)


def words_of(ids: NDArray[np.int64], words: NDArray[np.bool_]) -> list[list[int]]:
    """The naive oracle: places of the tokens of each word of a row."""
    found: list[list[int]] = []
    for place, token in enumerate(ids):
        if SPECIAL[token]:
            continue
        if found and found[-1][-1] == place - 1 and not words[token]:
            found[-1].append(place)
        else:
            found.append([place])
    return found


@given(st.integers(0, 10**6), st.integers(6, 80), st.integers(1, 4), st.integers(1, 12))
def test_words_are_masked_as_a_whole(seed: int, width: int, max_ngram: int, limit: int) -> None:
    original, words = pairs(20, width, seed), np.arange(V) % 3 > 0
    _, labels = mask(original, words, whole_words=True, max_ngram=max_ngram, max_predictions=limit)
    wanted = min(limit, max(1, round(width * 0.15)))
    for row in range(len(original)):
        units = words_of(original[row], words)
        chosen = {int(place) for place in np.flatnonzero(labels[row] >= 0)}
        assert all(chosen.issuperset(unit) or chosen.isdisjoint(unit) for unit in units)
        assert len(chosen) <= wanted
        if max_ngram == 1:  # no word that would fit is left
            assert all(len(unit) > wanted - len(chosen) for unit in units if chosen.isdisjoint(unit))


def test_lengths_of_ngrams() -> None:
    # Three predictions, words of one token. A first n-gram of 3 (2/11) is all; one of 2 (3/11) leaves a single word;
    # one of 1 (6/11) leaves two, and then 2 or 3 (5/11) become 2, and 1 (6/11) leaves a last single word.
    rows, width = 20_000, 500
    original = pairs(rows, width)
    _, labels = mask(original, share=0.006, max_ngram=3)
    places = np.flatnonzero(labels.reshape(-1) >= 0).reshape(rows, 3)
    joined = (np.diff(places) == 1).sum(1)
    slack = 8 / width  # single words side by side by chance
    for runs, probability in ((2, 2 / 11), (1, 3 / 11 + 6 / 11 * 5 / 11), (0, 6 / 11 * 6 / 11)):
        found = (joined == runs).sum() / rows
        assert abs(found - probability) < 5 * math.sqrt(probability / rows) + slack, (runs, found, probability)


def test_ngrams_do_not_cross_special_tokens() -> None:
    original = pairs(3000, 9)  # segments of three and three tokens
    _, labels = mask(original, share=0.4, max_ngram=3)
    chosen = labels >= 0
    assert not chosen[:, [0, 4, 8]].any()
    assert chosen[:, 3].any()
    # if they crossed, the last word of A would begin n-grams of 2 and 3 with the first ones of B, and B be ahead
    assert abs(int(chosen[:, 1:4].sum()) - int(chosen[:, 5:8].sum())) < 5 * math.sqrt(3000 * 4)


def test_rows_do_not_depend_on_each_other() -> None:
    original = pairs(50, 64)
    ids, labels = mask(original, max_ngram=3)
    keys = keys_of(np.uint64(7), np.arange(50))
    alone, of_alone = original[31:32].copy(), np.full((1, 64), -100)
    tables = (SPECIAL, EVERY_TOKEN, ORDINARY)
    mask_tokens(alone, np.array([64]), of_alone, tables, keys[31:32], 100, MASK, (0.15, 0.8, 0.1), 0, True, 3)
    assert (alone[0] == ids[31]).all()
    assert (of_alone[0] == labels[31]).all()
    assert (labels[0] >= 0).tolist() != (labels[1] >= 0).tolist()
