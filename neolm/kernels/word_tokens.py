"""Texts cut into the words of GPT-2's pre-tokenizer, whose tokens are looked up in a hash table.

The pattern (Radford et al. 2019) on ASCII: `'s 't 're 've 'm 'll 'd`, else runs of letters, of digits or of other
signs, each with a space in front, else white space up to the last one before a word. It always ends a word between an
ASCII sign and ASCII white space, so a text may be cut there. A part with other characters, or with a longer word than
MAX_WORD, is not divided into words; the library encodes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neolm.kernels.jit import cached_jit

MAX_WORD = 64  # bytes of a word or part that is kept in the table

_PRIME, _START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)  # FNV-1a
_SPACE, _SIGN, _DIGIT, _LETTER = 0, 1, 2, 3
_KINDS = np.full(128, _SIGN, np.uint8)
_KINDS[[9, 10, 11, 12, 13, 32]] = _SPACE
_KINDS[48:58], _KINDS[65:91], _KINDS[97:123] = _DIGIT, _LETTER, _LETTER


@cached_jit
def _is_space(code: int) -> bool:
    return code == 32 or 9 <= code <= 13


@cached_jit
def _word_end(text: Any, at: int, end: int, last: bool) -> int:
    """The end of the word that begins at `at`; `last`: the text ends at `end`."""
    if text[at] == 39 and at + 1 < end:  # an apostrophe
        a, b = text[at + 1], text[at + 2] if at + 2 < end else 0
        if a in (115, 116, 109, 100):
            return at + 2
        if (a in (114, 118) and b == 101) or (a == 108 and b == 108):
            return at + 3
    stop = at + 1 if text[at] == 32 and at + 1 < end and _KINDS[text[at + 1]] != _SPACE else at
    kind = _KINDS[text[stop]]
    stop += 1
    while stop < end and _KINDS[text[stop]] == kind:
        stop += 1
    return stop - 1 if kind == _SPACE and not (last and stop == end) and stop - at > 1 else stop


@cached_jit
def find_word(text: Any, start: int, end: int, table: Any, words: Any) -> Any:
    """The slot of a word in `table`, that of an empty place if it is not there, and its hash.

    A row of `table` (int64, a power of two of them) has the hash, the place of the word in `words`, its bytes, and the
    place and number of its tokens. A hash of 0 is an empty place.
    """
    mixed = _START
    for position in range(start, end):
        mixed = (mixed ^ np.uint64(text[position])) * _PRIME
    slot = np.int64((mixed ^ (mixed >> np.uint64(29))) & np.uint64(len(table) - 1))
    code = np.int64(mixed | np.uint64(1))
    while table[slot, 0] != 0:
        if table[slot, 0] == code and table[slot, 2] == end - start:
            place, same = table[slot, 1], True
            for offset in range(end - start):
                same &= words[place + offset] == text[start + offset]
            if same:
                return slot, code
        slot = (slot + 1) & (len(table) - 1)
    return slot, code


@cached_jit
def insert(text: Any, rows: Any, table: Any, words: Any, filled: int, room: int) -> Any:
    """Put words into the table, at most `room` and until `words`, of which `filled` bytes are used, is full.

    `rows` (W, 4): start and end in `text`, place and number of the tokens. Returns the new `filled`, and how many fit.
    """
    for number in range(len(rows)):
        start, end = rows[number, 0], rows[number, 1]
        if filled + end - start > len(words) or number >= room:
            return filled, number
        slot, code = find_word(text, start, end, table, words)
        words[filled : filled + end - start] = text[start:end]
        table[slot, 0], table[slot, 1], table[slot, 2] = code, filled, end - start
        table[slot, 3], table[slot, 4] = rows[number, 2], rows[number, 3]
        filled += end - start
    return filled, len(rows)


@cached_jit
def look_up(text: Any, ends: Any, table: Any, words: Any) -> Any:
    """Cut documents into words and look up their tokens.

    `text` (uint8) are the documents one after another, `ends` (D,) where each ends. Returns place and number of the
    tokens of each word (W, 2), the words of each document (D,), and for each word that is not in the table its index,
    start, end, and whether it can be kept (M, 4).
    """
    units, missing = np.empty((len(text), 2), np.int64), np.empty((len(text), 4), np.int64)
    counts = np.zeros(len(ends), np.int64)
    number = missed = at = 0
    for document in range(len(ends)):
        first, final = number, ends[document]
        while at < final:
            stop, run, plain = at, 0, True
            while stop < final and not (stop > at and 32 < text[stop - 1] < 127 and _is_space(text[stop])):
                same = stop > at and text[stop] < 128 and text[stop - 1] < 128
                run = run + 1 if same and _KINDS[text[stop]] == _KINDS[text[stop - 1]] else 1
                plain &= text[stop] < 128 and run < MAX_WORD
                stop += 1
            while at < stop:
                end = _word_end(text, at, stop, stop == final) if plain else stop
                kept = end - at <= MAX_WORD
                slot = find_word(text, at, end, table, words)[0] if kept else np.int64(-1)
                if kept and table[slot, 0] != 0:
                    units[number, 0], units[number, 1] = table[slot, 3], table[slot, 4]
                else:
                    missing[missed, 0], missing[missed, 1], missing[missed, 2] = number, at, end
                    missing[missed, 3] = kept
                    missed += 1
                number, at = number + 1, end
        counts[document] = number - first
    return units[:number].copy(), counts, missing[:missed].copy()
