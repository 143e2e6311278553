"""Tiny tokenizers with the interface of an encoder's, and corpora, for tests of its data."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from neolm.corpus.documents import Document
from neolm.data.shards import TokenShards, write_shards

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
            for word in re.findall(r"\w+|[^\w\s\x00-\x1f]", text)
            for at in range(0, len(word), 4)
        ]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._ids.get(piece, self.unk_token_id) for piece in self.pieces(text)] for text in texts]

    def id_to_token(self, token_id: int) -> str:
        return self.tokens[token_id]


class NumberTokenizer(WordTokenizer):
    """A number is the token with that id, so that a token tells its place; multiples of 3 continue a word."""

    def __init__(self, size: int) -> None:
        self.tokens = [*SPECIAL, *map(str, range(len(SPECIAL), size))]
        self.size, self.special_ids = size, tuple(range(len(SPECIAL)))
        self.word_starts = np.arange(size) % 3 > 0

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(number) for number in text.split()] for text in texts]


class NumberedCorpus:
    """Shards of documents with sentences of the given lengths. The ids of tokens count through the corpus from 5 on."""

    def __init__(self, directory: Path, lengths: Sequence[Sequence[int]], shard_tokens: int = 2**27) -> None:
        self.document_of = [-1] * len(SPECIAL)
        self.first_of_sentence = {}
        texts = []
        for document, sentences in enumerate(lengths):
            lines = []
            for size in sentences:
                start = len(self.document_of)
                self.first_of_sentence[start] = size
                lines.append(" ".join(map(str, range(start, start + size))))
                self.document_of += [document] * size
            texts.append("\n".join(lines))
        self.tokenizer = NumberTokenizer(len(self.document_of))
        documents = [Document(f"d{i}", f"d{i}", text, "numbers", "CC0-1.0", "{}") for i, text in enumerate(texts)]
        write_shards(documents, self.tokenizer, directory, "train", shard_tokens=shard_tokens)  # type: ignore[arg-type]
        self.shards = TokenShards(directory, "train", self.tokenizer.size)
