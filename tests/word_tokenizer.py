"""A tiny tokenizer with the interface of an encoder's, for tests of its data."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordTokenizer:
    """Words of a text, in pieces of four letters; the later pieces begin with `##`, as in WordPiece."""

    kind = "wordpiece"
    pad_token_id, unk_token_id, cls_token_id, sep_token_id = range(4)
    mask_token_id: int | None = 4
    eos_token_id = 3

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = sorted({piece for text in texts for piece in self.pieces(text)})
        self.tokens = [*SPECIAL, *pieces]
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        self.size = len(self.tokens)
        self.special_ids = tuple(range(len(SPECIAL)))
        self.word_starts = np.array([not token.startswith("##") for token in self.tokens])

    @staticmethod
    def pieces(text: str) -> list[str]:
        return [
            word[at : at + 4] if at == 0 else f"##{word[at : at + 4]}"
            for word in re.findall(r"\w+|[^\w\s]", text)
            for at in range(0, len(word), 4)
        ]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._ids.get(piece, self.unk_token_id) for piece in self.pieces(text)] for text in texts]

    def id_to_token(self, token_id: int) -> str:
        return self.tokens[token_id]
