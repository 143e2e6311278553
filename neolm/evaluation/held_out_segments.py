"""Held-out text as the masked sequences that encoders are measured on.

The sequences are those of pretraining (`neolm.data.segments`) with a protocol of their own: 15% of the tokens are
predicted, chosen one by one, whatever the training chose; documents are divided at the full length; a sequence of one
sentence has no sentence label. Segments and masks are a function of the text, the length, the task and a fixed seed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neolm.core.errors import InputError
from neolm.core.files import digest_json
from neolm.corpus.documents import Document
from neolm.data.batch import Batch
from neolm.data.segments import SegmentExamples
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.shards import TokenShards, write_shards
from neolm.evaluation.measurement import TextDocument, data_of, group_of
from neolm.tokenizer.tokenizer import Tokenizer

SEED = 0
MASKING = MaskingConfig()
SPLIT = "held-out"

Task = Literal["none", "nsp", "sop"]


class HeldOutSegments:
    """Masked sequences of documents, for the measurements of encoders."""

    def __init__(
        self, documents: Sequence[TextDocument], tokenizer: Tokenizer, length: int, task: Task = "none"
    ) -> None:
        """Encode the documents into sequences of at most `length` tokens, with pairs for the sentence task `task`.

        Raises:
            InputError: the tokenizer is not one of an encoder, there is no sentence, the length is too short, or the
                task is nsp and there is one document.
        """
        tokenizer.require_token("mask")
        self.task, self.vocab_size = task, tokenizer.size
        self.special_ids = tokenizer.special_ids
        self._groups = [group_of(document) for document in documents]
        numbers = {group: str(number) for number, group in enumerate(self._groups)}
        numbered = (
            Document(str(number), numbers[group_of(document)], document.text, "", "", "")
            for number, document in enumerate(documents)
        )
        segments = SegmentsConfig(task=task, short_share=0.0, one_sentence="single")
        with tempfile.TemporaryDirectory(prefix="neolm-") as folder:  # the files stay mapped when they are removed
            write_shards(numbered, tokenizer, Path(folder), SPLIT, len(documents))
            self.shards = TokenShards(Path(folder), SPLIT, tokenizer.size)
            self._examples = SegmentExamples(self.shards, tokenizer, [length], SEED, MASKING, segments)
            self.shards.documents(0, 1)  # reads the index
        if self._examples.index.sentences == 0:
            raise InputError("evaluation: the documents to measure on have no sentence")
        if task == "nsp" and self._examples.index.documents < 2:
            raise InputError("evaluation: nsp takes segments from another document, and there is only one")
        self._length = length
        self._record: dict[str, Any] = {
            "data": data_of(documents),
            "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
            "sequence_length": length,
            "segments": segments.model_dump(),
        }
        if task != "none":
            labelled = self._examples.labelled(length)
            self._record |= {"pairs": labelled, "without_label": len(self) - labelled}

    def __len__(self) -> int:
        """Number of sequences."""
        return int(self._examples.plan(self._length, 0).bounds[-1])

    def batches(self, batch_size: int = 16) -> Iterator[tuple[Batch, list[str]]]:
        """The sequences in order, with the group (the whole document of the first segment) of each."""
        for start in range(0, len(self), batch_size):
            numbers = np.arange(start, min(start + batch_size, len(self)))
            chunks = self._examples.chunks(self._length, 0, numbers)
            firsts = [self.shards.documents(int(place), 1)[0] for place in chunks.spans[:, 0, 0]]
            yield self._examples.batch(chunks, numbers.tolist()), [self._groups[int(first)] for first in firsts]

    def protocol(self) -> dict[str, Any]:
        """The text, the tokenizer and the rules of the sequences, as JSON."""
        return dict(self._record)

    @staticmethod
    def masking() -> dict[str, Any]:
        """The rules of the masks, as JSON."""
        return {**MASKING.model_dump(), "seed": SEED}

    def __repr__(self) -> str:
        return f"HeldOutSegments({len(self)} sequences of {self._length} tokens, {digest_json(self._record)[:12]})"
