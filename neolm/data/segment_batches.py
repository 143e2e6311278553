"""Batches of an encoder's training and validation, each a pure function of (seed, step).

Example e of a run, counted from 0 over all steps and devices, is chunk `Permutation(epoch)[e mod N]` of epoch
`e div N`. N is the number of chunks of the first epoch, so that the epoch of an example is known without planning those
before it. Another epoch has some chunks more, of which as many are left out, or fewer, of which some are read twice.

If the length changes in the course of the training, N does too, and the count of examples goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import InputError, SettingError
from neolm.core.progress import say
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.order import Permutation
from neolm.data.segments import Chunks, EncoderTokenizer, SegmentExamples
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sequence_lengths import SequenceLengths
from neolm.data.shards import TokenShards

VALIDATION_SEED = 0


class SegmentBatches:
    """The training split in shuffled sequences of segments; `lengths` and `sizes` are those of each step."""

    def __init__(
        self,
        shards: TokenShards,
        tokenizer: EncoderTokenizer,
        lengths: SequenceLengths,
        sizes: BatchSizes,
        seed: int,
        masking: MaskingConfig,
        segments: SegmentsConfig,
    ) -> None:
        """Raises InputError: tokenizer, lengths or corpus do not allow such sequences."""
        self.lengths, self.sizes, self.seed = lengths, sizes, seed
        self._examples = SegmentExamples(shards, tokenizer, lengths.all, seed, masking, segments)
        if self._examples.index.sentences == 0:
            raise InputError(f"{shards.directory}: the split '{shards.split}' has no sentence; add text to the corpus")
        if segments.task == "nsp" and self._examples.index.documents < 2:
            raise SettingError(
                "segments.task",
                f"nsp takes segments from another document, and the split '{shards.split}' has only one. "
                "Add documents, or choose sop or none",
            )

    @property
    def examples(self) -> int:
        """Sequences of an epoch, at the length that the training ends with."""
        return self.epoch_examples(self.lengths.full)

    @lru_cache(maxsize=2)  # noqa: B019 - one instance a run
    def epoch_examples(self, length: int) -> int:
        """Sequences of `length` of an epoch."""
        return int(self._examples.plan(length, 0).bounds[-1])

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of `step`, counted from 1, or the sequences `rows` of it, as a rank reads them.

        It has `input_ids`, `token_type_ids`, `attention_mask` and `labels` (B, T) and `sentence_labels` (B,). Labels
        are -100 where nothing is predicted.
        """
        examples = np.asarray(self.sizes.examples(step))[rows]
        return self._examples.batch(self._chunks(self.lengths.at(step), examples), examples.tolist())

    def documents(self, examples: Sequence[int]) -> list[str]:
        """Ids of all documents in these examples, also those that random segments are from, each once."""
        found: dict[str, None] = {}
        for example in examples:
            length = self.lengths.at(self.sizes.steps_for(example + 1))
            found |= dict.fromkeys(self._examples.documents(self._chunks(length, np.array([example]))))
        return list(found)

    def summary(self) -> Iterator[str]:
        """Lines about the sequences of the first epoch, for the log of a run: one for each length."""
        for length in self.lengths.all:
            yield self._examples.summary(length)

    def _chunks(self, length: int, examples: NDArray[np.int64]) -> Chunks:
        """The segments of examples (B,) of one length."""
        epochs, index = np.divmod(examples, self.epoch_examples(length))
        parts = []
        for epoch in np.unique(epochs):  # in ascending order, as the examples are
            duplicates = self._examples.segments.duplicates
            variant = int(epoch) % duplicates if duplicates else int(epoch)
            size = int(self._examples.plan(length, variant).bounds[-1])
            order = self._permutation(size, int(epoch))
            parts.append(self._examples.chunks(length, variant, order(index[epochs == epoch] % size)))
        return Chunks(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    @lru_cache(maxsize=2)  # noqa: B019 - one instance a run
    def _permutation(self, size: int, epoch: int) -> Permutation:
        return Permutation(size, self.seed, epoch)


def segment_validation_batches(
    shards: TokenShards,
    tokenizer: EncoderTokenizer,
    length: int,
    batch_size: int,
    limit: int,
    masking: MaskingConfig,
    segments: SegmentsConfig,
) -> list[Batch]:
    """Return at most `limit` sequences of a split, evenly spread, in order; the same ones for every training seed.

    There are none if the split has no sentence, or one document under NSP.
    """
    examples = SegmentExamples(shards, tokenizer, [length], VALIDATION_SEED, masking, segments)
    if segments.task == "nsp" and examples.index.documents == 1:
        say(f"the split '{shards.split}' has one document, so nsp has no other document to take a segment from")
        return []
    total = int(examples.plan(length, 0).bounds[-1])
    if total == 0:
        return []
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))
    starts = range(0, len(chosen), batch_size)
    parts = [chosen[start : start + batch_size] for start in starts]
    return [examples.batch(examples.chunks(length, 0, part), part.tolist()) for part in parts]
