"""Encode texts with a byte-level BPE by looking up words: the ids of the library, several times as fast.

A BPE encodes each word of its pre-tokenizer by itself, so a word that was met before needs only a look-up, in machine
code and without the GIL (`neolm.kernels.word_tokens`). All other text is encoded by the library.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neolm.kernels.word_tokens import insert, look_up
from neolm.tokenizer.byte_level_tokenizer import Tokenizer, without_surrogates

SLOTS = 2**19  # of the table, half of which are used before it is emptied
WORD_BYTES = 2**22


def encodes_words(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer encodes each word of GPT-2's pre-tokenizer by itself, and text never holds other tokens."""
    content = json.loads(tokenizer.backend.to_str())
    before, model = content["pre_tokenizer"] or {}, content["model"]
    return (
        (before.get("type"), before.get("add_prefix_space"), before.get("use_regex")) == ("ByteLevel", False, True)
        and content["normalizer"] is None
        and all(token["special"] for token in content["added_tokens"])
        and model["type"] == "BPE"
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    )


class WordCache:
    """The words that one thread has met, with their tokens. Results do not depend on what was met before."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` is one that `encodes_words`."""
        self._tokenizer = tokenizer
        self._clear()

    def _clear(self) -> None:
        self._table, self._words = np.zeros((SLOTS, 5), np.int64), np.zeros(WORD_BYTES, np.uint8)
        self._tokens, self._used, self._filled = np.empty(0, np.uint32), 0, 0

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each text, as `Tokenizer.encode_batch` gives them."""
        raw = [without_surrogates(text).encode() for text in texts]
        joined, ends = b"".join(raw), np.cumsum([len(one) for one in raw])
        text = np.frombuffer(joined, np.uint8)
        units, counts, missing = look_up(text, ends, self._table, self._words)
        missing = missing[np.argsort(-missing[:, 3], kind="stable")]  # first those that are kept
        pieces = [joined[start:end] for start, end in missing[:, 1:3].tolist()]
        firsts: dict[bytes, int] = {}
        number = [firsts.setdefault(piece, len(firsts)) for piece in pieces]
        encoded = self._tokenizer.encode_batch([piece.decode() for piece in firsts])
        sizes = np.array([len(ids) for ids in encoded], np.int64)
        places = np.column_stack([len(self._tokens) + np.cumsum(sizes) - sizes, sizes])  # (pieces, 2)
        new = np.fromiter(itertools.chain.from_iterable(encoded), np.uint32, int(sizes.sum()))
        tokens = np.concatenate([self._tokens, new])
        units[missing[:, 0]] = places[number]
        ends = np.concatenate([[0], np.cumsum(units[:, 1])])
        found = tokens[np.arange(ends[-1]) + np.repeat(units[:, 0] - ends[:-1], units[:, 1])]
        _, rows = np.unique(np.array(number, np.int64), return_index=True)
        rows = rows[missing[rows, 3] == 1]
        spans = np.column_stack([missing[rows, 1:3], places[: len(rows)]])
        room = SLOTS // 2 - self._used
        self._filled, inserted = insert(text, spans, self._table, self._words, self._filled, room)
        self._used += inserted
        self._tokens = tokens[: len(self._tokens) + int(sizes[: len(rows)].sum())]
        if inserted < len(rows):
            self._clear()
        return np.split(found, ends[np.cumsum(counts)[:-1]])
