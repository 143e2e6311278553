"""Masked language modelling: the choice of the tokens to predict and their replacement, row by row.

Devlin et al. 2019, section 3.1 and appendix A.1; n-grams of whole words: Lan et al. 2020, section 3.1 (p(n) ~ 1/n), in
the manner of `create_masked_lm_predictions` of ALBERT's code. The units are visited in random order. At each, n is
drawn; the n-gram is made shorter while it exceeds what is left to predict; it is passed over if it still does or if it
overlaps an earlier one. Tokens are replaced one by one.

What differs from that code: special tokens, [UNK] among them, are never predicted; a word or an n-gram never crosses a
special token (there, an n-gram could contain the end of A and the beginning of B).

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neolm.kernels.jit import cached_jit
from neolm.kernels.random_draws import below, uniform


@cached_jit
def mask_tokens(
    ids: Any,
    lengths: Any,
    labels: Any,
    tables: Any,
    keys: Any,
    first_draw: int,
    mask_token_id: int,
    shares: Any,
    limit: int,
    whole_words: bool,
    max_ngram: int,
) -> None:
    """Replace tokens of `ids` (B, T) and write the original ones to `labels` (B, T), which holds ignored labels.

    `tables` has `special` (V,) and `word_starts` (V,), both boolean, and the ids that a random token is drawn from;
    `shares` are those of predicted, masked and random tokens. `limit` is the most predictions of a row, 0 for no limit.
    Row r uses the draws of `keys[r]` (B,) from `first_draw` on.
    """
    special, word_starts, ordinary = tables
    share, mask_share, random_share = shares
    width = ids.shape[1]
    starts, ends, order = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
    weight = 0.0
    for n in range(1, max_ngram + 1):
        weight += 1.0 / n
    for row in range(len(ids)):
        key, counter = keys[row], first_draw
        units = _units(ids[row], lengths[row], special, word_starts, whole_words, starts, ends)
        wanted = max(1, int(np.rint(lengths[row] * share)))
        if limit > 0:
            wanted = min(wanted, limit)
        for unit in range(units):
            order[unit] = unit
        predicted = visited = 0
        while visited < units and predicted < wanted:
            other = visited + below(key, counter, units - visited)
            order[visited], order[other] = order[other], order[visited]
            first = order[visited]
            visited += 1
            last = first + _ngram(uniform(key, counter + 1) * weight, max_ngram) - 1
            counter += 2
            last = _fitting(first, last, units, starts, ends, wanted - predicted)
            if last < first or _covered(labels[row], starts[first], ends[last]):
                continue
            for place in range(starts[first], ends[last]):
                labels[row, place] = ids[row, place]
                coin = uniform(key, counter)
                if coin < mask_share:
                    ids[row, place] = mask_token_id
                elif coin < mask_share + random_share:
                    ids[row, place] = ordinary[below(key, counter + 1, len(ordinary))]
                counter += 2
            predicted += ends[last] - starts[first]


@cached_jit
def _units(ids: Any, length: int, special: Any, word_starts: Any, whole_words: bool, starts: Any, ends: Any) -> int:
    """Write where each word (or token) of a row begins and ends, without special tokens; returns their number."""
    units = 0
    for place in range(length):
        if special[ids[place]]:
            continue
        continues = units > 0 and ends[units - 1] == place and not word_starts[ids[place]]
        if whole_words and continues:
            ends[units - 1] = place + 1
        else:
            starts[units], ends[units] = place, place + 1
            units += 1
    return units


@cached_jit
def _ngram(number: float, max_ngram: int) -> int:
    """The n from 1 to `max_ngram` with a probability in proportion to 1/n; `number` is uniform below their sum."""
    n = 1
    while n < max_ngram and number >= 1.0 / n:
        number -= 1.0 / n
        n += 1
    return n


@cached_jit
def _fitting(first: int, last: int, units: int, starts: Any, ends: Any, room: int) -> int:
    """The last unit of the n-gram from `first` to `last`, cut at gaps and at `room` tokens; `first` - 1: none fits."""
    end = first
    while end < last and end + 1 < units and starts[end + 1] == ends[end]:
        end += 1
    while end >= first and ends[end] - starts[first] > room:
        end -= 1
    return end


@cached_jit
def _covered(labels: Any, start: int, end: int) -> bool:
    covered = False
    for place in range(start, end):
        covered |= labels[place] >= 0
    return covered
