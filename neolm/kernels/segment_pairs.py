"""Chunks of consecutive sentences, and the two segments that each becomes.

Devlin et al. 2019, appendix A.2, and Lan et al. 2020, section 3.1, in the manner of `create_instances_from_document` of
both codes: sentences are taken to a target number of tokens or to the end of the document; A is a random number of the
first ones. NSP: in half of the chunks B is from another document, and the sentences after A are put back. SOP: in half
of them A and B are swapped. Pairs that are too long lose tokens of the longer segment, from its front or its back.

What differs from those codes: each chunk draws its target, not each document, so that the share of short sequences does
not depend on the lengths of documents; "another document" is never the same one; a sentence of more tokens than a
sequence holds is cut into equal pieces, eight or more to a sequence, where those codes drop its end.

A file of shards has `positions` (S,) of its sentences, and for each of its D documents the first sentence (D + 1,) and
the end (D,), the position after its last token. All draws of a chunk are those of its key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neolm.kernels.jit import cached_jit
from neolm.kernels.random_draws import below, draw, uniform

NONE, NSP, SOP = range(3)
IN_ORDER, SWAPPED, RANDOM, SINGLE = range(4)
ONE_SENTENCE, CUT_SENTENCES, DROPPED_TOKENS = 4, 5, 6  # places of further counts after those of the four kinds
COUNTS = 7
# counters of the draws of a chunk
_IS_SHORT, _TARGET, _FIRST_SEGMENT, _COIN, _DOCUMENT, _SENTENCE, _TRUNCATION = range(7)
MASKING = 2**20  # masks use the draws from here on


@cached_jit
def plan_chunks(positions: Any, firsts: Any, ends: Any, first_chunk: int, root: Any, rule: Any) -> Any:
    """Where each chunk of a file begins: sentence and piece (chunks,), and the counts of the kinds.

    `first_chunk` is the number of chunks in the files before, `root` the key that the keys of chunks are drawn from.
    `rule` is (task, tokens of a sequence without special ones, share of short ones, whether a chunk of one sentence
    gets a segment from another document).
    """
    sentences, pieces = np.empty(1024, np.uint32), np.empty(1024, np.uint16)
    counts, chunks = np.zeros(COUNTS, np.int64), 0
    for document in range(len(ends)):
        sentence, piece, last = firsts[document], 0, firsts[document + 1]
        for number in range(sentence, last):
            counts[CUT_SENTENCES] += _length(positions, number, last, ends[document]) > rule[1]
        while sentence < last:
            if chunks == len(sentences):
                sentences = np.concatenate((sentences, np.empty(chunks, np.uint32)))
                pieces = np.concatenate((pieces, np.empty(chunks, np.uint16)))
            sentences[chunks], pieces[chunks] = sentence, piece
            key = draw(root, first_chunk + chunks)
            found = _chunk(positions, last, ends[document], sentence, piece, key, rule)
            kind, taken, sentence, piece = found[0], found[1], found[5], found[6]
            counts[kind] += 1
            counts[ONE_SENTENCE] += taken == 1
            if kind != RANDOM:
                counts[DROPPED_TOKENS] += max(0, found[2] + found[3] - rule[1])
            chunks += 1
    return sentences[:chunks].copy(), pieces[:chunks].copy(), counts


@cached_jit
def read_chunks(
    positions: Any, firsts: Any, ends: Any, sentences: Any, pieces: Any, keys: Any, rule: Any, spans: Any, kinds: Any
) -> Any:
    """Write the segments of chunks that begin at `sentences` and `pieces` (B,).

    `spans` (B, 2, 2) receives the position in the file and the length of A and of B, `kinds` (B,) the kind. The length
    of a random B is the tokens that are wanted. Returns the documents (B,).
    """
    documents = np.searchsorted(firsts, sentences, side="right") - 1
    for row in range(len(sentences)):
        document, sentence, piece = documents[row], np.int64(sentences[row]), np.int64(pieces[row])
        last, end = firsts[document + 1], ends[document]
        found = _chunk(positions, last, end, sentence, piece, keys[row], rule)
        kind, first, second, wanted = found[0], found[2], found[3], found[4]
        start = _start(positions, last, end, sentence, piece, rule[1])
        order = 1 if kind == SWAPPED else 0
        spans[row, order, 0], spans[row, order, 1] = start, first
        spans[row, 1 - order, 0], spans[row, 1 - order, 1] = start + first, second
        if kind == RANDOM:
            spans[row, 1, 1] = max(1, wanted - first)
        kinds[row] = kind
    return documents


@cached_jit
def other_documents(keys: Any, starts: Any, ends: Any, documents: int) -> Any:
    """A random one of `documents` for each row, but none from `starts` to `ends` - 1 (B,), the parts of its own."""
    chosen = np.empty(len(keys), np.int64)
    for row in range(len(keys)):
        other = below(keys[row], _DOCUMENT, documents - (ends[row] - starts[row]))
        chosen[row] = other + (ends[row] - starts[row] if other >= starts[row] else 0)
    return chosen


@cached_jit
def random_segments(positions: Any, firsts: Any, ends: Any, documents: Any, keys: Any, rule: Any, spans: Any) -> None:
    """Write segments from a random sentence of `documents` (B,) on; `spans` (B, 2) has the tokens that are wanted."""
    for row in range(len(documents)):
        first, last, end = firsts[documents[row]], firsts[documents[row] + 1], ends[documents[row]]
        sentence = first + below(keys[row], _SENTENCE, last - first)
        found = _walk(positions, last, end, sentence, 0, np.iinfo(np.int64).max, spans[row, 1], rule[1])
        spans[row, 0], spans[row, 1] = positions[sentence], found[3]


@cached_jit
def truncate(spans: Any, keys: Any, room: int) -> None:
    """Drop tokens of the longer segment (B if they are as long) until the two of each row have at most `room`."""
    for row in range(len(spans)):
        counter = _TRUNCATION
        while spans[row, 0, 1] + spans[row, 1, 1] > room:
            longer = 0 if spans[row, 0, 1] > spans[row, 1, 1] else 1
            spans[row, longer, 1] -= 1
            spans[row, longer, 0] += np.int64(draw(keys[row], counter) >> np.uint64(63))  # front or back
            counter += 1


@cached_jit
def _chunk(positions: Any, last: int, end: int, sentence: int, piece: int, key: Any, rule: Any) -> Any:
    """The chunk at a sentence: kind, sentences, tokens of A and of the rest, target, and where the next one begins."""
    task, room, short_share, fills = rule
    everything = np.iinfo(np.int64).max
    target = room
    if uniform(key, _IS_SHORT) < short_share:
        target = 2 + below(key, _TARGET, room - 1)
    after, after_piece, taken, tokens = _walk(positions, last, end, sentence, piece, everything, target, room)
    if task == NONE:
        return SINGLE, taken, tokens, 0, target, after, after_piece
    if taken == 1:
        return (RANDOM if fills else SINGLE), taken, tokens, 0, target, after, after_piece
    of_first = 1 + below(key, _FIRST_SEGMENT, taken - 1)
    middle, middle_piece, _, first = _walk(positions, last, end, sentence, piece, of_first, everything, room)
    if uniform(key, _COIN) >= 0.5:
        return IN_ORDER, taken, first, tokens - first, target, after, after_piece
    if task == SOP:
        return SWAPPED, taken, first, tokens - first, target, after, after_piece
    return RANDOM, taken, first, tokens - first, target, middle, middle_piece


@cached_jit
def _walk(positions: Any, last: int, end: int, sentence: int, piece: int, units: int, target: int, room: int) -> Any:
    """Take sentences (or their pieces) until there are `units`, or `target` tokens, or the document ends.

    Returns the sentence and the piece after them, their number and their tokens.
    """
    taken = tokens = 0
    while sentence < last and taken < units and tokens < target:
        length = _length(positions, sentence, last, end)
        pieces = _pieces(length, room)
        tokens += (piece + 1) * length // pieces - piece * length // pieces
        taken += 1
        piece += 1
        if piece == pieces:
            sentence, piece = sentence + 1, 0
    return sentence, piece, taken, tokens


@cached_jit
def _start(positions: Any, last: int, end: int, sentence: int, piece: int, room: int) -> Any:
    """Position of the first token of a piece of a sentence."""
    length = _length(positions, sentence, last, end)
    return int(positions[sentence]) + piece * length // _pieces(length, room)


@cached_jit
def _length(positions: Any, sentence: int, last: int, end: int) -> Any:
    """Tokens of a sentence of the document whose sentences end before `last` and whose tokens end before `end`."""
    after = np.int64(positions[sentence + 1]) if sentence + 1 < last else end
    return after - np.int64(positions[sentence])


@cached_jit
def _pieces(length: int, room: int) -> int:
    """Number of the pieces that a sentence is cut into: one if it fits into a sequence."""
    return 1 if length <= room else -(-length // max(1, room // 8))
