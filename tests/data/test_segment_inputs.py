"""Inputs of an encoder's data that are unusual or wrong, and real text."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from encoder_tokenizers import NumberedCorpus, WordTokenizer

from neolm.core.errors import InputError, SettingError
from neolm.corpus.documents import Document
from neolm.data.audit import masked_text
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.segment_batches import SegmentBatches, segment_validation_batches
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sentences import split_sentences
from neolm.data.sequence_lengths import SequenceLengths
from neolm.data.shards import TokenShards, write_shards
from neolm.kernels import segment_pairs as kernel


def from_texts(
    directory: Path, texts: list[str], parents: list[str] | None = None
) -> tuple[TokenShards, WordTokenizer]:
    tokenizer = WordTokenizer(texts)
    names = parents or [f"d{i}" for i in range(len(texts))]
    documents = [Document(f"d{i}", names[i], text, "s", "CC0-1.0", "{}") for i, text in enumerate(texts)]
    write_shards(documents, tokenizer, directory, "train")
    return TokenShards(directory, "train", tokenizer.size), tokenizer


def batches(shards: TokenShards, tokenizer: Any, length: int = 32, size: int = 8, **settings: Any) -> SegmentBatches:
    config = SegmentsConfig(**settings)
    return SegmentBatches(shards, tokenizer, SequenceLengths(length), BatchSizes(size), 1, MaskingConfig(), config)


def test_documents_of_one_sentence(tmp_path: Path) -> None:
    corpus = from_texts(tmp_path, ["One sentence here.", "Another one there.", "A third."])
    data = batches(*corpus, task="sop", size=3)
    assert data.batch(1)["sentence_labels"].tolist() == [1, 1, 1]
    assert len(data.documents(data.batch(1).examples[:1])) == 2
    (line,) = data.summary()
    assert line.endswith("3 (100.0%) have one sentence and no pair: they continue with another document, labelled 1")
    data = batches(*corpus, task="sop", size=3, one_sentence="single")
    assert data.batch(1)["sentence_labels"].tolist() == [-100] * 3
    assert not data.batch(1)["token_type_ids"].any()
    assert next(data.summary()).endswith("they are one segment, without a label")


def test_a_corpus_with_one_document(tmp_path: Path) -> None:
    parts = from_texts(tmp_path, ["One. Two. Three.", "", "Four. Five."], ["book", "book", "book"])
    message = r"^segments\.task: nsp takes segments from another document, and the split 'train' has only one\. Add"
    with pytest.raises(SettingError, match=message):
        batches(*parts, task="nsp")
    data = batches(*parts, task="sop", size=1, short_share=0.5)  # a short one of one sentence has no other document
    assert {int(data.batch(step)["sentence_labels"][0]) for step in range(1, 200)} == {-100, 0, 1}
    assert "are one segment, without a label" in "".join(data.summary()) or data._examples.plan(32, 0).counts[4] == 0


def test_validation_with_one_document_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "none").mkdir()
    one, none = from_texts(tmp_path / "one", ["One. Two."]), from_texts(tmp_path / "none", ["", "\x01"])
    for corpus in (one, none):
        assert segment_validation_batches(*corpus, 32, 8, 10, MaskingConfig(), SegmentsConfig(task="nsp")) == []
        assert ("has one document, so nsp has no other" in capsys.readouterr().err) == (corpus is one)
    assert segment_validation_batches(*none, 32, 8, 10, MaskingConfig(), SegmentsConfig()) == []
    with pytest.raises(InputError, match="the split 'train' has no sentence; add text"):
        batches(*none)


@pytest.mark.parametrize("length", [5, 8, 64, 512])
@pytest.mark.parametrize("task", ["none", "nsp", "sop"])
def test_a_text_of_100_000_words_without_a_full_stop(tmp_path: Path, task: str, length: int) -> None:
    words = [f"w{number % 997}" for number in range(100_000)]
    tokens = WordTokenizer.pieces(" ".join(words))
    shards, tokenizer = from_texts(tmp_path, [" ".join(words), "A short one. It has two sentences."])
    assert shards.tokens == len(tokens) + 15
    data = batches(shards, tokenizer, length, task=task, short_share=0.0)
    room = length - (2 if task == "none" else 3)
    chunks = data._examples.chunks(length, 0, np.arange(data.examples))
    if task == "none":
        kept = int(chunks.spans[:, 0, 1].sum())
        assert kept > (0.88 if length < 512 else 0.75) * len(tokens)  # of each sequence, less than a piece is dropped
        dropped = len(tokens) + 12 - kept
        assert dropped == data._examples.plan(length, 0).counts[kernel.DROPPED_TOKENS]
        assert not dropped or f"({dropped / shards.tokens:.1%}) are dropped" in next(data.summary())
    assert chunks.spans[:, :, 1].sum(1).max() == room
    pairs = np.isin(chunks.kinds, (kernel.IN_ORDER, kernel.SWAPPED))
    assert task == "none" or pairs.mean() > 0.3
    cut = int(data._examples.plan(length, 0).counts[kernel.CUT_SENTENCES])
    lines = next(data.summary())
    if length < 512:  # a sentence has at most 1,000 characters
        assert f"{cut:,} sentences of more than {room} tokens are cut into pieces" in lines
        assert cut >= len(words) * 5 / 1000 * 0.9


def test_pieces_of_a_sentence_cover_it(tmp_path: Path) -> None:
    corpus = NumberedCorpus(tmp_path, [[1000, 7, 333]])
    data = batches(corpus.shards, corpus.tokenizer, 32, task="sop", short_share=0.0)
    chunks = data._examples.chunks(32, 0, np.arange(data.examples))
    batch = data._examples.batch(chunks, range(data.examples))
    tokens = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
    found = tokens[tokens >= 5].tolist()
    assert 0.9 * 1340 < len(found) == len(set(found))  # pieces of 3 tokens overshoot 29 by at most 2
    assert sum(kind == kernel.RANDOM for kind in chunks.kinds) == 0


def test_missing_special_tokens_and_short_lengths(tmp_path: Path) -> None:
    shards, tokenizer = from_texts(tmp_path, ["One. Two.", "Three. Four."])
    for length, task, least in ((4, "sop", 5), (3, "none", 4)):
        with pytest.raises(SettingError, match=rf"^sequence_length: {length} is too short for .*; at least {least}$"):
            batches(shards, tokenizer, length, task=task)
        batches(shards, tokenizer, least, task=task).batch(1)
    tokenizer.mask_token_id = None
    with pytest.raises(InputError, match=r"^tokenizer: its vocabulary has no \[MASK\], which an encoder is trained"):
        batches(shards, tokenizer)


def test_a_masked_example_is_readable() -> None:
    tensors = {
        "input_ids": [[2, 5, 4, 6, 7, 3, 0]],
        "labels": [[-100, -100, 8, 6, 9, -100, -100]],
        "attention_mask": [[1, 1, 1, 1, 1, 1, 0]],
        "sentence_labels": [1],
    }
    batch = Batch({name: torch.tensor(value) for name, value in tensors.items()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sat", "dog", "cat", "mat"]
    shown = masked_text(batch, 0, tokens.__getitem__)
    assert shown == "[CLS] the {[MASK]→cat} {sat} {dog→mat} [SEP]  (sentence label 1)"


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], TokenShards, WordTokenizer]:
    texts = []
    for name, many in (("wikipedia_en", 400), ("bookcorpus2", 3)):
        with zstandard.open(shared_data / "minipile" / f"{name}.jsonl.zst", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in itertools.islice(file, many)]
    return texts, *from_texts(tmp_path_factory.mktemp("real"), texts)


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_real_text(real: tuple[list[str], TokenShards, WordTokenizer], task: str) -> None:
    texts, shards, tokenizer = real
    data = SegmentBatches(
        shards,
        tokenizer,
        SequenceLengths(128),
        BatchSizes(64),
        1,
        MaskingConfig(max_ngram=3),
        SegmentsConfig(task=task),
    )
    batch = data.batch(7)
    tokens = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
    for row, number in enumerate(batch.examples):
        documents = data.documents([number])
        joined = [
            "\0".join(t for s in split_sentences(texts[int(name[1:])]) for t in WordTokenizer.pieces(s))
            for name in documents
        ]
        words = [tokenizer.id_to_token(token) for token in tokens[row].tolist()]
        end = words.index("[SEP]")
        first, second = words[1:end], words[end + 1 : words.index("[SEP]", end + 1)]
        assert "\0".join(first) in joined[0]
        assert "\0".join(second) in joined[-1]
        assert len(documents) == 1 or batch["sentence_labels"][row] == 1
    real_tokens, predicted = batch.tokens, int((batch["labels"] >= 0).sum())
    assert abs(predicted / real_tokens - 0.15) < 0.01
    assert "{[MASK]→" in masked_text(batch, 0, tokenizer.id_to_token)
