"""Segments against the documents they come from, and pairs against the stated probabilities.

The token ids of the corpora count through all documents, so that each token of an example tells its place.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from encoder_tokenizers import NumberedCorpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.segment_batches import SegmentBatches, segment_validation_batches
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sequence_lengths import SequenceLengths
from neolm.kernels import segment_pairs as kernel

PAD, CLS, SEP = 0, 2, 3
CORPUS_SEED = np.random.default_rng(0)
BOOK = [[int(n) for n in CORPUS_SEED.integers(1, 30, 300)] for _ in range(30)]  # 30 documents of 300 sentences
FIXTURES = [HealthCheck.function_scoped_fixture]


class Example(NamedTuple):
    first: list[int]
    second: list[int]
    label: int


def batches(corpus: NumberedCorpus, length: int = 64, seed: int = 1, size: int = 16, **settings: Any) -> SegmentBatches:
    """Batches of one sequence length."""
    config, sizes = SegmentsConfig(**settings), BatchSizes(size)
    lengths = SequenceLengths(length)
    return SegmentBatches(corpus.shards, corpus.tokenizer, lengths, sizes, seed, MaskingConfig(), config)


def read(batch: Batch) -> Iterator[Example]:
    """The segments of each example without masks; checks the layout of the tensors."""
    arrays = {name: batch[name].numpy() for name in batch}
    assert arrays["attention_mask"].sum(1).max() == arrays["input_ids"].shape[1]
    for ids, types, mask, labels, label in zip(*(arrays[name] for name in arrays), strict=True):
        real = int(mask.sum())
        assert mask.tolist() == [1] * real + [0] * (len(mask) - real)
        assert (ids[real:] == PAD).all()
        assert (labels[real:] == -100).all()
        tokens = np.where(labels >= 0, labels, ids)[:real].tolist()
        assert tokens[0] == CLS
        assert tokens[-1] == SEP
        end = tokens.index(SEP)
        assert types.tolist() == [0] * (end + 1) + [1] * (real - end - 1) + [0] * (len(mask) - real)
        yield Example(tokens[1:end], tokens[end + 1 : -1], int(label))


def epoch(data: SegmentBatches) -> list[Example]:
    """All examples of the first epoch."""
    steps = -(-data.examples // data.sizes.full)
    return [example for step in range(1, steps + 1) for example in read(data.batch(step))][: data.examples]


def within(found: float, trials: int, probability: float) -> bool:
    return abs(found - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability))


def consecutive(tokens: list[int]) -> bool:
    return tokens == list(range(tokens[0], tokens[0] + len(tokens)))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> NumberedCorpus:
    return NumberedCorpus(tmp_path_factory.mktemp("book"), BOOK, shard_tokens=40_000)


@settings(suppress_health_check=FIXTURES, max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=1, max_size=6).filter(any),
    st.integers(5, 40),
    st.sampled_from(["none", "nsp", "sop"]),
    st.sampled_from(["random", "single"]),
    st.integers(0, 10**6),
)
def test_labels_say_where_the_segments_are_from(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    length: int,
    task: str,
    one_sentence: str,
    seed: int,
) -> None:
    corpus = NumberedCorpus(tmp_path_factory.mktemp("shards"), documents, shard_tokens=50)
    others = sum(map(bool, documents)) > 1
    if task == "nsp" and not others:
        with pytest.raises(
            InputError, match=r"segments\.task: nsp takes segments from another document, and the split"
        ):
            batches(corpus, length, task=task)
        return
    data = batches(corpus, length, seed, task=task, one_sentence=one_sentence)
    room = length - (2 if task == "none" else 3)
    for first, second, label in epoch(data):
        assert 1 <= len(first) + len(second) <= room
        assert consecutive(first)
        assert not second or consecutive(second)
        assert {label, task} != {-100, "nsp"} or one_sentence == "single"
        own = {corpus.document_of[token] for token in first}
        other = {corpus.document_of[token] for token in second}
        assert len(own) == 1
        full = len(first) + len(second) == room
        if label == -100:
            assert not second
            assert task == "none" or one_sentence == "single" or not others
        elif label == 0:
            assert other == own
            assert second[0] > first[-1]
            assert full or second[0] == first[-1] + 1
        elif other == own:
            assert task == "sop"
            assert second[-1] < first[0]
            assert full or second[-1] + 1 == first[0]
        else:
            assert task == "nsp" or one_sentence == "random"


@pytest.mark.parametrize("task", ["none", "nsp", "sop"])
def test_chunks_leave_nothing_out(tmp_path: Path, task: str) -> None:
    corpus = NumberedCorpus(tmp_path, BOOK)
    data = batches(corpus, 64, task=task)
    plan, (file,) = data._examples.plan(64, 0), data._examples.index.files
    starts = [int(corpus.shards.read(int(place), 1)[0]) for place in file.positions[plan.sentences[0]]]
    assert not plan.pieces[0].any()
    chunks = data._examples.chunks(64, 0, np.arange(len(starts)))
    batch = data._examples.batch(chunks, range(len(starts)))
    room = 64 - (2 if task == "none" else 3)
    sentence_starts = corpus.first_of_sentence
    assert starts[0] == 5
    rows = zip(starts, [*starts[1:], 0], chunks.kinds, read(batch), strict=True)
    for start, following, kind, (first, second, _) in rows:
        assert start in sentence_starts
        document = corpus.document_of[start]
        last = not following or corpus.document_of[following] != document
        end = len(corpus.document_of) - corpus.document_of[::-1].index(document) if last else following
        own = first if kind == kernel.RANDOM else sorted(first + second)
        if kind == kernel.RANDOM:
            assert second[0] in sentence_starts or len(first) + len(second) == room
        if len(first) + len(second) < room:  # the whole chunk is in the example, and the next one continues it
            assert own == list(range(start, end))
        else:
            assert start <= own[0] <= own[-1] < end
    assert corpus.document_of[starts[-1]] == len(BOOK) - 1


def test_half_of_the_pairs_are_random_or_swapped(book: NumberedCorpus) -> None:
    for task, kind in (("nsp", kernel.RANDOM), ("sop", kernel.SWAPPED)):
        data = batches(book, 128, task=task)
        counts = data._examples.plan(128, 0).counts
        one, total = int(counts[kernel.ONE_SENTENCE]), data.examples
        of_pairs = int(counts[kind]) - (one if task == "nsp" else 0)
        assert within(of_pairs, total - one, 0.5)
        found = epoch(data)
        assert sum(example.label == 1 for example in found) == of_pairs + one
        assert 0 < one < total / 10
        lines = list(data.summary())
        assert (
            f"{one:,} ({one / total:.1%}) have one sentence and no pair: they continue with another document"
            in lines[0]
        )


def test_a_random_document_is_another_one_and_any_of_them(tmp_path: Path) -> None:
    corpus = NumberedCorpus(tmp_path, [[3] * 400 for _ in range(5)], shard_tokens=3000)
    found = [example for example in epoch(batches(corpus, 32, task="nsp")) if example.label == 1]
    pairs = np.zeros((5, 5), int)
    sentences = []
    for first, second, _ in found:
        pairs[corpus.document_of[first[0]], corpus.document_of[second[0]]] += 1
        sentences.append((second[0] - 5) // 3 % 400)
    assert (np.diag(pairs) == 0).all()
    for own in range(5):
        assert all(within(pairs[own, other], pairs[own].sum(), 1 / 4) for other in range(5) if other != own)
    assert abs(np.mean(sentences) - 200) < 5 * 116 / math.sqrt(len(found))  # from anywhere in the document


def test_short_sequences_and_the_end_of_the_first_segment(tmp_path: Path) -> None:
    corpus = NumberedCorpus(tmp_path, [[1] * 60_000, [1] * 60_000])  # sentences of one token: no overshoot
    found = epoch(batches(corpus, 35, task="sop"))  # 32 tokens
    sizes = np.array([len(first) + len(second) for first, second, _ in found])
    short = sizes[sizes < 32]
    assert within(len(short), len(found), 0.1 * 30 / 31)  # U[2, 32] can be 32
    assert all(within((short == size).sum(), len(short), 1 / 30) for size in range(2, 32))
    ends = np.array([min(len(first), len(second)) for first, second, _ in found if len(first) + len(second) == 32])
    assert all(within((ends == end).sum(), len(ends), (1 if end == 16 else 2) / 31) for end in range(1, 17))
    always = epoch(batches(corpus, 35, task="sop", short_share=1.0))
    assert within(sum(len(e.first) + len(e.second) == 2 for e in always), len(always), 1 / 31)
    never = epoch(batches(corpus, 35, task="none", short_share=0.0))
    assert [len(example.first) for example in never].count(33) >= len(never) - 2


def test_tokens_are_dropped_at_both_ends(tmp_path: Path) -> None:
    corpus = NumberedCorpus(tmp_path, [[20] * 2000])
    data = batches(corpus, 52, task="none", short_share=0.0)  # three sentences of 20 for 50 tokens
    found = epoch(data)
    front = [(example.first[0] - 5) % 60 for example in found]
    assert {len(example.first) for example in found} == {50, 40}  # the last chunk has two sentences
    assert within(sum(front), 10 * (len(found) - 1), 0.5)
    pairs = [e for e in epoch(batches(corpus, 53, task="sop", short_share=0.0)) if len(e.first) + len(e.second) == 50]
    assert {(len(first), len(second)) for first, second, _ in pairs} == {(30, 20), (20, 30)}  # the longer one loses


def test_batches_are_functions_of_the_seed_and_the_step(book: NumberedCorpus) -> None:
    def rows(data: SegmentBatches, step: int, part: slice = slice(None)) -> list[Any]:
        batch = data.batch(step, part)
        sizes = batch["attention_mask"].sum(1).tolist()
        names = ("input_ids", "token_type_ids", "labels")
        tokens = ([batch[name][row, :size].tolist() for name in names] for row, size in enumerate(sizes))
        return list(zip(tokens, batch["sentence_labels"].tolist(), batch.examples, strict=True))

    one, other = batches(book, task="nsp"), batches(book, task="nsp")
    per_epoch = one.examples // 16
    steps = [3, 1, 10**6, per_epoch, per_epoch + 1, 2]
    assert [rows(one, step) for step in steps] == [rows(other, step) for step in reversed(steps)][::-1]
    whole = rows(one, 5)
    for cuts in ([0, 16], [0, 8, 16], [0, 4, 8, 12, 16]):
        parts = [rows(one, 5, slice(a, b)) for a, b in itertools.pairwise(cuts)]
        assert [row for part in parts for row in part] == whole
    singles = batches(book, task="nsp", size=1)
    assert [rows(singles, 4 * 16 + 1 + place)[0] for place in range(16)] == whole
    assert rows(batches(book, task="nsp", seed=2), 5) != whole


def test_epochs_are_new_or_repeat_their_duplicates(book: NumberedCorpus) -> None:
    def numbered(data: SegmentBatches, number: int) -> list[tuple[Any, ...]]:
        starts = range(number * data.examples, (number + 1) * data.examples, 97)
        return [tuple(batch["input_ids"].reshape(-1).tolist()) for batch in map(data.batch, (s + 1 for s in starts))]

    size = {"size": 1, "task": "sop"}
    dynamic, static, two = (batches(book, duplicates=n, **size) for n in (None, 1, 2))
    everything = [
        {tuple(static.batch(e * static.examples + i + 1)["input_ids"][0].tolist()) for i in range(static.examples)}
        for e in range(2)
    ]
    assert everything[0] == everything[1]
    assert len(everything[0]) == static.examples
    assert numbered(static, 0) != numbered(static, 1)  # another order
    first = everything[0]
    assert first.issuperset(numbered(dynamic, 0))
    assert not first.intersection(numbered(dynamic, 2))
    assert first.issuperset(numbered(two, 2))
    assert not first.intersection(numbered(two, 1))


def test_the_length_changes_at_its_step(book: NumberedCorpus) -> None:
    lengths = SequenceLengths(128, 32, 10)
    config = SegmentsConfig(task="sop", short_share=0.0)
    data = SegmentBatches(book.shards, book.tokenizer, lengths, BatchSizes(8), 1, MaskingConfig(), config)
    assert [data.batch(step)["input_ids"].shape[1] for step in (1, 10, 11, 500)] == [32, 32, 128, 128]
    assert data.batch(11).examples == list(range(80, 88))
    assert data.examples == data.epoch_examples(128) < data.epoch_examples(32)
    assert [line.split(" tokens")[0].split()[-1] for line in data.summary()] == ["32", "128"]
    for step in (10, 11):
        batch = data.batch(step)
        named = data.documents(batch.examples)
        found = {f"d{book.document_of[t]}" for e in read(batch) for t in e.first + e.second}
        assert set(named) == found
        assert len(named) == len(found)


def test_documents_name_both_segments(book: NumberedCorpus) -> None:
    data = batches(book, task="nsp")
    for step in (1, 2, 500):
        batch = data.batch(step)
        for number, (first, second, _) in zip(batch.examples, read(batch), strict=True):
            expected = [f"d{book.document_of[first[0]]}", f"d{book.document_of[second[0]]}"]
            assert data.documents([number]) == list(dict.fromkeys(expected))


def test_validation_is_the_same_for_every_training(book: NumberedCorpus) -> None:
    def validation(limit: int, **settings: Any) -> list[Batch]:
        config = SegmentsConfig(**settings)
        return segment_validation_batches(book.shards, book.tokenizer, 64, 16, limit, MaskingConfig(), config)

    first, second = validation(100, task="sop"), validation(100, task="sop")
    assert [len(batch) for batch in first] == [16] * 6 + [4]
    for a, b in zip(first, second, strict=True):
        assert all((a[name] == b[name]).all() for name in a)
    examples = [example for batch in validation(10**6, task="nsp") for example in read(batch)]
    assert within(sum(e.label for e in examples), len(examples), 0.52)
    places = [example.first[0] for batch in first for example in read(batch)]
    assert len(np.unique(np.array(places) * 10 // len(book.document_of))) == 10  # spread over the split
