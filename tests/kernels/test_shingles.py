"""Shingles, MinHash, similarity and clusters of the kernels, compared with plain Python."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neolm.kernels import shingles
from neolm.kernels.shingles import connect, hash_shingles, jaccard, minima, similarities

SETS = st.sets(st.integers(0, 12)).map(lambda values: np.array(sorted(values), np.uint32))
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ü", "aa"]), max_size=12)


def flat(sets):
    """Values one after another, and the end of each set."""
    values = np.concatenate([np.zeros(0, np.uint32), *sets])
    return values, np.cumsum([len(one) for one in sets], dtype=np.int64)


def clusters(members, bucket_ends, values, ends, threshold):
    """All buckets at once, and one after another with the same roots: the same."""
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    found = connect(np.arange(len(ends)), members, bucket_ends, values, starts, ends, threshold)
    roots, start = np.arange(len(ends)), 0
    for end in bucket_ends:
        connect(roots, members[start:end], np.array([end - start]), values, starts, ends, threshold)
        start = end
    assert roots.tolist() == found.tolist()
    return found


def brute_components(number, edges):
    """The smallest node that is reachable from each node."""
    label = list(range(number))
    for _ in range(number):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 4))
def test_equal_shingles_have_equal_hashes_and_others_do_not(texts, ngram):
    data, ends = flat([np.frombuffer("  ".join(words).encode() + b" ", np.uint8) for words in texts])
    hashes, counts = hash_shingles(data, ends, ngram)
    expected = [tuple(words[i : i + ngram]) for words in texts for i in range(len(words) - ngram + 1)]
    assert counts.tolist() == [max(0, len(words) - ngram + 1) for words in texts]
    assert len(hashes) == len(expected)
    assert len(set(zip(hashes.tolist(), expected, strict=True))) == len(set(expected)) == len(set(hashes.tolist()))


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=6), min_size=1, max_size=4))
def test_minima(documents):
    masks, multipliers = np.array([0, 7, 2**31], np.uint32), np.array([1, 3, 2**32 - 5], np.uint32)
    hashes, _ = flat([np.array(values, np.uint32) for values in documents])
    found = minima(hashes, np.array([len(values) for values in documents]), masks, multipliers)
    permutations = list(zip(masks.tolist(), multipliers.tolist(), strict=True))
    for row, values in zip(found.tolist(), documents, strict=True):
        assert row == [min([(x ^ m) * a % 2**32 for x in values], default=2**32 - 1) for m, a in permutations]


@given(SETS, SETS)
def test_jaccard(left, right):
    a, b = set(left.tolist()), set(right.tolist())
    assert jaccard(left, right) == (len(a & b) / len(a | b) if a | b else 0)


@given(st.lists(SETS, min_size=1, max_size=8), st.data())
def test_clusters_are_the_components_of_the_verified_pairs_of_each_bucket(sets, data):
    number, threshold = len(sets), data.draw(st.sampled_from([0.2, 0.5, 1.0]))
    bucket = st.sets(st.integers(0, number - 1), min_size=1).map(sorted)
    buckets = data.draw(st.lists(bucket, max_size=6))
    edges = [pair for one in buckets for pair in itertools.combinations(one, 2)]
    edges = [(a, b) for a, b in edges if jaccard(sets[a], sets[b]) >= threshold]
    values, ends = flat(sets)
    members, bucket_ends = flat([np.array(one, np.int64) for one in buckets])
    found = clusters(members.astype(np.int64), bucket_ends, values, ends, threshold)
    assert found.tolist() == brute_components(number, edges)


@given(st.integers(1, 10), st.data())
def test_the_threshold_0_connects_buckets_also_without_shingles(number, data):
    edges = data.draw(st.lists(st.tuples(*[st.integers(0, number - 1)] * 2), max_size=12))
    members, bucket_ends = np.array(edges, np.int64).ravel(), np.arange(2, 2 * len(edges) + 2, 2)
    found = clusters(members, bucket_ends, np.zeros(0, np.uint32), np.zeros(number, np.int64), 0.0)
    assert found.tolist() == brute_components(number, edges)


def test_similarities():
    values, ends = np.array([1, 2, 3, 1, 2, 4], np.uint32), np.array([3, 6])
    assert similarities(np.array([0, 1, 1]), np.array([1, 1, 0]), values, ends - 3, ends).tolist() == [0.5, 1, 0.5]


def test_the_comparisons_of_a_large_bucket_are_bounded():
    """One bucket of 3,000 different documents, and a copy of the first: each is compared with the first ones only."""
    number = 3000
    values, ends = np.append(np.arange(number), 0).astype(np.uint32), np.arange(1, number + 2)
    found = clusters(np.arange(number + 1), np.array([number + 1]), values, ends, 0.5)
    assert found.tolist() == [*range(number), 0]
    values[-1] = values[shingles.CENTRES]  # a copy of the first document that is not one of those
    found = clusters(np.arange(number + 1), np.array([number + 1]), values, ends, 0.5)
    assert found.tolist() == [*range(number + 1)]
