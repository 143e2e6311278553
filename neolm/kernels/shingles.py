"""Shingles (word n-grams) of texts as 64-bit hashes, their MinHash signatures, and clusters of similar documents."""

from __future__ import annotations

from typing import Any

import numpy as np

from neolm.kernels.jit import cached_jit

# A document is compared with this many documents of its LSH bucket, those with the smallest numbers. So a bucket of n
# documents takes at most 64 n comparisons.
CENTRES = 64

_SPACE, _NEWLINE = 32, 10
_PRIME = np.uint64(0x100000001B3)  # FNV-1a
_START = np.uint64(0xCBF29CE484222325)
_MIX = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finalizer
_HALF = np.uint64(32)


@cached_jit
def hash_shingles(text: Any, ends: Any, ngram: int) -> Any:
    """The hash of every run of `ngram` words of each document.

    Args:
        text: The documents one after another, words separated by spaces. uint8
        ends: Where each document ends. int64, (documents,)
        ngram: Words of a shingle.

    Returns:
        The hashes of all documents one after another (uint64), and the number of each (int64, (documents,)). A document
        of fewer words has none.
    """
    hashes = np.empty((len(text) + len(ends)) // 2 + 1, np.uint64)
    counts = np.zeros(len(ends), np.int64)
    words = np.empty(ngram, np.uint64)  # the last words of the document, as a ring
    total = position = 0
    for document in range(len(ends)):
        number = oldest = 0
        while position < ends[document]:
            if text[position] == _SPACE:
                position += 1
                continue
            word = _START
            while position < ends[document] and text[position] != _SPACE:
                word = (word ^ np.uint64(text[position])) * _PRIME
                position += 1
            words[oldest] = word
            oldest = (oldest + 1) % ngram
            number += 1
            if number >= ngram:
                shingle = _START
                for offset in range(ngram):
                    index = oldest + offset
                    shingle = (shingle ^ words[index - ngram if index >= ngram else index]) * _MIX
                    shingle ^= shingle >> _HALF
                hashes[total] = shingle * _MIX
                total += 1
        counts[document] = max(0, number - ngram + 1)
    return hashes[:total].copy(), counts


@cached_jit
def minima(hashes: Any, counts: Any, masks: Any, multipliers: Any) -> Any:
    """MinHash signatures (Broder, 1997): the minimum of each permutation over the shingles of each document.

    Permutation i of the 32-bit integers is x -> (x xor masks[i]) * multipliers[i]; the multipliers are odd.

    `hashes` and `counts` are those of `hash_shingles`; 2^32 - 1 is the minimum of a document without shingles. Returns
    uint32, (documents, permutations).
    """
    signatures = np.full((len(counts), len(masks)), 0xFFFFFFFF, np.uint32)
    first = 0
    for document in range(len(counts)):
        signature = signatures[document]
        for position in range(first, first + counts[document]):
            shingle = hashes[position]
            for i in range(len(masks)):  # six times as fast as with this loop outside
                value = np.uint32(np.uint32(shingle ^ masks[i]) * multipliers[i])
                signature[i] = value if value < signature[i] else signature[i]
        first += counts[document]
    return signatures


@cached_jit
def jaccard(left: Any, right: Any) -> Any:
    """The Jaccard similarity of two sets, given as sorted arrays without repetition; 0 if both are empty."""
    common = i = j = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        common += a == b
        i += a <= b
        j += b <= a
    union = len(left) + len(right) - common
    return common / union if union else 0.0


@cached_jit
def similarities(left: Any, right: Any, shingles: Any, starts: Any, ends: Any) -> Any:
    """The `jaccard` of the documents `left[i]` and `right[i]`, for each i. See `connect`. float64."""
    found = np.empty(len(left), np.float64)
    for pair in range(len(left)):
        found[pair] = _similarity(left[pair], right[pair], shingles, starts, ends, 0.0)
    return found


@cached_jit
def connect(roots: Any, members: Any, bucket_ends: Any, shingles: Any, starts: Any, ends: Any, threshold: float) -> Any:
    """Clusters: the connected components of the pairs that share a bucket and are similar.

    The result depends on the set of pairs alone, not on the order of the buckets: a pair is left out only if its
    documents are connected already. So it may be called for some buckets at a time.

    Args:
        roots: For each document a smaller number in its cluster, or its own; changed. At first 0, 1, 2, ... int64
        members: Numbers of the documents of each bucket, ascending within a bucket. int64
        bucket_ends: Where each bucket ends in `members`. int64
        shingles: Those of the documents, each sorted and without repetition.
        starts: Where each document starts in `shingles`. int64, (documents,)
        ends: Where each document ends.
        threshold: The smallest Jaccard similarity of a pair; 0 connects all documents of a bucket.

    Returns:
        `roots`, each the smallest number in the cluster of the document.
    """
    start = 0
    for end in bucket_ends:
        for i in range(start, min(end, start + CENTRES)):
            for j in range(i + 1, end):
                a, b = _root(roots, members[i]), _root(roots, members[j])
                if a != b and _similarity(members[i], members[j], shingles, starts, ends, threshold) >= threshold:
                    roots[max(a, b)] = min(a, b)
        start = end
    for document in range(len(roots)):
        roots[document] = _root(roots, document)
    return roots


@cached_jit
def _root(roots: Any, node: int) -> int:
    while roots[node] != node:
        roots[node] = roots[roots[node]]
        node = roots[node]
    return node


@cached_jit
def _similarity(a: int, b: int, shingles: Any, starts: Any, ends: Any, threshold: float) -> Any:
    """The similarity of two documents; 0 if the sizes of their sets show that it is below the threshold."""
    left, right = shingles[starts[a] : ends[a]], shingles[starts[b] : ends[b]]
    if min(len(left), len(right)) < threshold * max(len(left), len(right)):
        return 0.0
    return jaccard(left, right)


@cached_jit
def split_words(codes: Any, classes: Any, space: int, own_word: int) -> Any:
    """Where each word begins and ends (int64), its hash (uint64), and the number of line ends before it (int64).

    Words are separated by characters of the class `space`; a character of a class from `own_word` on is a word.
    `codes` are code points (uint32), `classes` has the class of each.
    """
    starts, ends = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    hashes = np.empty(len(codes), np.uint64)
    lines = np.zeros(len(codes) + 1, np.int64)
    number, previous, value = 0, space, _START
    for position in range(len(codes)):
        kind = classes[codes[position]]
        if kind == space:
            lines[number] += codes[position] == _NEWLINE
        else:
            if previous == space or previous >= own_word or kind >= own_word:
                starts[number], value, number = position, _START, number + 1
            value = (value ^ np.uint64(codes[position])) * _PRIME
            ends[number - 1], hashes[number - 1] = position + 1, value
        previous = kind
    return starts[:number].copy(), ends[:number].copy(), hashes[:number].copy(), lines[:number].copy()
