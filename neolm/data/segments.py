"""Sequences of one or two segments with masked tokens, as BERT and ALBERT are trained on.

    [CLS] A [SEP]            without a sentence task: sentences up to the length
    [CLS] A [SEP] B [SEP]    with one; `token_type_ids` are 0 up to the first [SEP] and 1 after it

`neolm.kernels.segment_pairs` describes the chunks and pairs, `neolm.kernels.token_masking` the masks. A
sequence is a function of the seed, the length, the variant (an epoch, or one of the static duplicates) and the number
of its chunk: all its draws are those of a key that is made of these.

Shapes: B sequences, T tokens of the longest one of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neolm.core.errors import InputError, SettingError
from neolm.core.progress import count
from neolm.data.batch import IGNORED, Batch
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sentence_index import SentenceIndex
from neolm.data.shards import TokenShards
from neolm.kernels import segment_pairs as pairs
from neolm.kernels.random_draws import draw, keys_of
from neolm.kernels.token_masking import mask_tokens

_TASKS = {"none": pairs.NONE, "nsp": pairs.NSP, "sop": pairs.SOP}
_LABELS = np.zeros(4, np.int64)
_LABELS[[pairs.IN_ORDER, pairs.SWAPPED, pairs.RANDOM, pairs.SINGLE]] = 0, 1, 1, IGNORED


class EncoderTokenizer(Protocol):
    """What is needed of a tokenizer: the ids of its special tokens, and which tokens begin a word."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def pad_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def cls_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def sep_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def mask_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def special_ids(self) -> Any: ...  # noqa: D102
    @property
    def word_starts(self) -> NDArray[np.bool_]: ...  # noqa: D102


class Plan(NamedTuple):
    """Where the chunks of an epoch begin."""

    sentences: list[NDArray[np.uint32]]  # for each file, the first sentence of each chunk, counted in the file
    pieces: list[NDArray[np.uint16]]  # and the piece of it
    bounds: NDArray[np.int64]  # number of the first chunk of each file, and of all chunks
    counts: NDArray[np.int64]  # of kinds, chunks of one sentence and cut sentences


class Chunks(NamedTuple):
    """Segments in the stream of tokens."""

    spans: NDArray[np.int64]  # (B, 2, 2) position and length of A and of B
    kinds: NDArray[np.int64]  # (B,)
    keys: NDArray[np.uint64]  # (B,)


class SegmentExamples:
    """The examples of a split, by sequence length, variant (an epoch, or one of the duplicates) and chunk."""

    def __init__(
        self,
        shards: TokenShards,
        tokenizer: EncoderTokenizer,
        lengths: Sequence[int],
        seed: int,
        masking: MaskingConfig,
        segments: SegmentsConfig,
    ) -> None:
        """Raises InputError: a special token is missing, the shards have no sentences, or a length is too short."""
        found = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "cls", "sep", "mask")}
        missing = [f"[{name.upper()}]" for name, number in found.items() if number is None]
        if missing:
            raise InputError(
                f"tokenizer: its vocabulary has no {', '.join(missing)}, which an encoder is trained with; "
                "train a WordPiece or Unigram tokenizer, or choose one of BERT or ALBERT"
            )
        shortest = 4 if segments.task == "none" else 5
        if min(lengths) < shortest:
            what = "a segment of two tokens" if segments.task == "none" else "a pair of segments"
            raise SettingError("sequence_length", f"{min(lengths)} is too short for {what}; at least {shortest}")
        self._special = {name: int(number) for name, number in found.items() if number is not None}
        self.shards, self.seed, self.masking, self.segments = shards, seed, masking, segments
        self.index = SentenceIndex(shards)
        special = np.zeros(tokenizer.size, bool)
        special[[*tokenizer.special_ids]] = True
        self._tables = special, np.asarray(tokenizer.word_starts, bool), np.flatnonzero(~special)

    def rule(self, length: int) -> tuple[int, int, float, bool]:
        """The rule of the kernels for sequences of `length`."""
        fills = self.segments.one_sentence == "random" and self.index.documents > 1
        room = length - (2 if self.segments.task == "none" else 3)
        return _TASKS[self.segments.task], room, self.segments.short_share, fills

    def root(self, length: int, variant: int) -> np.uint64:
        """The key from which the keys of chunks are drawn."""
        root = np.uint64(self.seed % 2**64)
        for number in (length, variant):
            root = np.uint64(draw(root, number))
        return root

    @lru_cache(maxsize=4)  # noqa: B019 - one instance a run
    def plan(self, length: int, variant: int) -> Plan:
        """The chunks of a variant: one pass over the positions of all sentences."""
        root, rule, bounds = self.root(length, variant), self.rule(length), [0]
        sentences, pieces, counts = [], [], np.zeros(pairs.COUNTS, np.int64)
        for file in self.index.files:
            found = pairs.plan_chunks(*file, bounds[-1], root, rule)
            sentences.append(found[0])
            pieces.append(found[1])
            counts += found[2]
            bounds.append(bounds[-1] + len(found[0]))
        return Plan(sentences, pieces, np.array(bounds), counts)

    def labelled(self, length: int) -> int:
        """Number of pairs with a sentence label in the first variant."""
        return int(self.plan(length, 0).counts[[pairs.IN_ORDER, pairs.SWAPPED, pairs.RANDOM]].sum())

    def chunks(self, length: int, variant: int, numbers: NDArray[np.int64]) -> Chunks:
        """The segments of the chunks with these `numbers` (B,)."""
        plan, rule = self.plan(length, variant), self.rule(length)
        keys = keys_of(self.root(length, variant), numbers)
        spans, kinds = np.zeros((len(numbers), 2, 2), np.int64), np.zeros(len(numbers), np.int64)
        file_of = np.searchsorted(plan.bounds, numbers, side="right") - 1
        for file in np.unique(file_of):
            rows = np.flatnonzero(file_of == file)
            own = numbers[rows] - plan.bounds[file]
            part, kind = spans[rows], kinds[rows]
            places = plan.sentences[file][own], plan.pieces[file][own]
            documents = pairs.read_chunks(*self.index.files[file], *places, keys[rows], rule, part, kind)
            part[:, :, 0] += self.shards.file_starts[file]
            drawn = np.flatnonzero(kind == pairs.RANDOM)
            own_parts = self.index.parts_of_the_same(int(file), documents[drawn])
            part[drawn, 1] = self._random_segments(own_parts, keys[rows[drawn]], part[drawn, 1], rule)
            spans[rows], kinds[rows] = part, kind
        pairs.truncate(spans, keys, rule[1])
        return Chunks(spans, kinds, keys)

    def _random_segments(
        self,
        own_parts: tuple[NDArray[np.int64], NDArray[np.int64]],
        keys: NDArray[np.uint64],
        spans: NDArray[np.int64],
        rule: tuple[int, int, float, bool],
    ) -> NDArray[np.int64]:
        """Position and length (B, 2) of segments of other documents; `spans` has the tokens that are wanted."""
        index = self.index
        chosen = pairs.other_documents(keys, *own_parts, len(index.row_of))
        for file in np.unique(index.file_of[chosen]):
            rows = np.flatnonzero(index.file_of[chosen] == file)
            part = spans[rows]
            pairs.random_segments(*index.files[file], index.row_of[chosen[rows]], keys[rows], rule, part)
            part[:, 0] += self.shards.file_starts[file]
            spans[rows] = part
        return spans

    def batch(self, chunks: Chunks, examples: Sequence[Any]) -> Batch:
        """The tensors of `chunks` (B,), padded to the longest one; `examples` are their ids."""
        special, (B, _, _) = self._special, chunks.spans.shape
        single = chunks.kinds == pairs.SINGLE
        first, second = chunks.spans[:, 0, 1], chunks.spans[:, 1, 1]
        lengths = first + second + np.where(single, 2, 3)
        places = np.arange(max(lengths))
        ids = np.full((B, len(places)), special["pad"], np.int64)
        ids[:, 0] = special["cls"]
        for row, ((start, size), (other, more)) in enumerate(chunks.spans.tolist()):
            ids[row, 1 : size + 1] = self.shards.read(start, size)
            ids[row, size + 1] = special["sep"]
            if more:
                ids[row, size + 2 : size + more + 2] = self.shards.read(other, more)
                ids[row, size + more + 2] = special["sep"]
        real = places < lengths[:, None]  # (B, T)
        types = real & (places > first[:, None] + 1)
        labels = np.full_like(ids, IGNORED)
        masking = self.masking
        mask_tokens(
            ids,
            lengths,
            labels,
            self._tables,
            chunks.keys,
            pairs.MASKING,
            special["mask"],
            (masking.share, masking.mask_share, masking.random_share),
            masking.max_predictions or 0,
            masking.whole_words or masking.max_ngram > 1,
            masking.max_ngram,
        )
        arrays = {
            "input_ids": ids,
            "token_type_ids": types.astype(np.int64),
            "attention_mask": real.astype(np.int64),
            "labels": labels,
            "sentence_labels": _LABELS[chunks.kinds],
        }
        return Batch({name: torch.from_numpy(array) for name, array in arrays.items()}, examples)

    def documents(self, chunks: Chunks) -> list[str]:
        """Ids of the documents of all segments, each once."""
        spans = chunks.spans.reshape(-1, 2).tolist()
        found = (self.shards.documents(start, size) for start, size in spans if size)
        return list(dict.fromkeys(identity for ids in found for identity in ids))

    def summary(self, length: int) -> str:
        """What the sequences of the first variant are: their number, chunks of one sentence, cut sentences."""
        counts, (task, room, _, fills) = self.plan(length, 0).counts, self.rule(length)
        total = int(counts[: pairs.ONE_SENTENCE].sum())
        parts = [f"{count(total)} sequences of {length} tokens an epoch"]
        if task != pairs.NONE:
            kinds = {pairs.IN_ORDER: "in order", pairs.SWAPPED: "swapped", pairs.RANDOM: "with another document"}
            parts.append(", ".join(f"{counts[kind]:,} {word}" for kind, word in kinds.items() if counts[kind]))
            if one := int(counts[pairs.ONE_SENTENCE]):
                become = "continue with another document, labelled 1" if fills else "are one segment, without a label"
                parts.append(f"{one:,} ({one / total:.1%}) have one sentence and no pair: they {become}")
        if dropped := int(counts[pairs.DROPPED_TOKENS]):
            share = dropped / self.shards.tokens
            parts.append(
                f"{count(dropped)} tokens ({share:.1%}) are dropped where whole sentences are too long together"
            )
        if cut := int(counts[pairs.CUT_SENTENCES]):
            parts.append(f"{cut:,} sentences of more than {room} tokens are cut into pieces")
        return "; ".join(parts)
