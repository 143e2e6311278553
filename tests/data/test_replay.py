"""Batches of a domain's text with a share of replayed text."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_encoder import TOKENIZER, write_corpus

from neolm.corpus.documents import Document
from neolm.data.batch import IGNORED
from neolm.data.batch_sizes import BatchSizes
from neolm.data.batches import TrainingBatches
from neolm.data.replay import ReplayBatches, part_sizes
from neolm.data.segment_batches import SegmentBatches
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sequence_lengths import SequenceLengths
from neolm.data.shards import TokenShards, write_shards
from neolm.tokenizer.tokenizer import train_tokenizer


@settings(max_examples=80)
@given(
    st.integers(1, 40),
    st.floats(0.01, 0.99),
    st.integers(1, 60),
    st.sampled_from([(0, 0), (1, 30)]),
)
def test_each_step_is_divided_without_gaps(full: int, share: float, steps: int, ramp: tuple[int, int]) -> None:
    sizes = BatchSizes(full, *ramp)
    domain, replayed = part_sizes(sizes, share)
    ends = [0, 0]
    for step in range(1, steps + 1):
        parts = domain.examples(step), replayed.examples(step)
        assert sum(map(len, parts)) == len(sizes.examples(step))
        assert [part.start for part in parts] == ends
        ends = [part.stop for part in parts]
        for part, size in zip(parts, (domain, replayed), strict=True):
            assert not part or size.steps_for(part.stop) == step
    assert ends[1] == int(sizes.examples(steps).stop * share)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> ReplayBatches:
    place = tmp_path_factory.mktemp("shards")
    tokenizer = train_tokenizer(iter(["the sea is water and the day is cold"] * 3), 280)
    parts = []
    for name, word in (("domain", "sea"), ("replayed", "day")):
        texts = [f"the {word} {number} is cold " * 6 for number in range(12)]
        documents = [Document(f"{name} {n}", f"{name} {n}", text, "s", "l", "{}") for n, text in enumerate(texts)]
        (place / name).mkdir()
        write_shards(documents, tokenizer, place / name, "train")
        parts.append(TokenShards(place / name, "train", tokenizer.size))
    sizes = part_sizes(BatchSizes(8), 0.25)
    return ReplayBatches([TrainingBatches(shards, 16, one, 5) for shards, one in zip(parts, sizes, strict=True)], sizes)


def test_the_share_is_kept_and_documents_are_named(batches: ReplayBatches) -> None:
    for step in (1, 7, 1000):
        batch = batches.batch(step)
        assert [part for part, _ in batch.examples] == [0] * 6 + [1] * 2
        assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
        assert all(name.startswith("domain") for name in batches.documents(batch.examples[:6]))
        assert all(name.startswith("replayed") for name in batches.documents(batch.examples[6:]))
    first, again = batches.batch(3), batches.batch(3)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert first.examples == again.examples


def test_rows_of_ranks_are_those_of_the_whole_batch(batches: ReplayBatches) -> None:
    whole = batches.batch(5)
    for size in (1, 2, 3, 4, 8):
        parts = [batches.batch(5, slice(start, start + size)) for start in range(0, 8, size)]
        assert torch.equal(torch.cat([part["input_ids"] for part in parts]), whole["input_ids"])
        assert [*itertools.chain.from_iterable(part.examples for part in parts)] == whole.examples


def test_parts_of_an_encoder_are_padded_to_the_longer(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    shards = TokenShards(tmp_path / "c", "train", TOKENIZER.size)
    sizes = part_sizes(BatchSizes(6), 0.5)
    kinds = MaskingConfig(), SegmentsConfig()
    lengths = SequenceLengths(48), SequenceLengths(24)
    parts = [
        SegmentBatches(shards, TOKENIZER, length, one, 1, *kinds)  # type: ignore[arg-type]
        for length, one in zip(lengths, sizes, strict=True)
    ]
    both = ReplayBatches(parts, sizes)
    batch = both.batch(2)
    short = parts[1].batch(2)
    T = short["input_ids"].shape[1]
    assert T < batch["input_ids"].shape[1]
    assert torch.equal(batch["labels"][3:, :T], short["labels"])
    assert bool((batch["labels"][3:, T:] == IGNORED).all())
    assert not batch["attention_mask"][3:, T:].any()
    assert torch.equal(batch["sentence_labels"][3:], short["sentence_labels"])
    assert both.batch(2, slice(4, 6)).examples == batch.examples[4:]  # only replayed ones
    assert both.batch(2, slice(0, 2)).examples == batch.examples[:2]
