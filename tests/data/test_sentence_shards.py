"""Positions of sentences in token shards: only for tokenizers of encoders, and with the checks of the other files."""

import re
from pathlib import Path

import numpy as np
import pytest
from encoder_tokenizers import WordTokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neolm.core.artifact import Stage
from neolm.core.errors import InputError
from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import Document, read_documents
from neolm.data import build
from neolm.data.build import build_shards
from neolm.data.sentence_index import SentenceIndex
from neolm.data.sentences import split_sentences
from neolm.data.shards import TokenShards, write_shards
from neolm.tokenizer.tokenizer import train_tokenizer

WORDS = "the cat sat on every mat because dogs were outside."


def documents(texts: list[str], parents: list[str] | None = None) -> list[Document]:
    whole = parents or [f"note#{i}" for i in range(len(texts))]
    return [Document(f"note#{i}", whole[i], text, "note", "CC0-1.0", "{}") for i, text in enumerate(texts)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from(["The cat.", "Dogs sat!", "\x01", "On every mat: why?", ""])), max_size=8),
    st.integers(8, 60),
)
def test_sentences_lie_where_their_positions_say(
    tmp_path_factory: pytest.TempPathFactory, notes: list[list[str]], shard_tokens: int
) -> None:
    directory, tokenizer = tmp_path_factory.mktemp("shards"), WordTokenizer([WORDS, "The Dogs On ! : ?"])
    texts = [" ".join(sentences) for sentences in notes]
    counts = write_shards(documents(texts), tokenizer, directory, "train", shard_tokens=shard_tokens)
    shards = TokenShards(directory, "train", tokenizer.size)
    index = SentenceIndex(shards)
    expected = [tokenizer.encode_batch(split_sentences(text)) for text in texts]
    expected = [[ids for ids in sentences if ids] for sentences in expected]
    found = []
    for file, start in zip(index.files, shards.file_starts, strict=False):
        for document, end in enumerate(file.ends):
            positions = file.positions[file.firsts[document] : file.firsts[document + 1]].astype(int)
            ends = [*positions[1:], end]
            spans = zip(positions, ends, strict=False)
            found.append([shards.read(int(start + a), int(b - a)).tolist() for a, b in spans if b > a])
    assert found == expected
    assert index.sentences == counts["sentences"] == sum(map(len, expected))
    assert index.documents == sum(1 for sentences in expected if sentences)


def test_parts_of_a_document_count_as_one(tmp_path: Path) -> None:
    texts = ["The cat.", "", "The dog. It sat.", "Mats.", "A cat.", ""]
    tokenizer = WordTokenizer(texts)
    write_shards(documents(texts, ["a", "b", "c", "c", "d", "d"]), tokenizer, tmp_path, "train", shard_tokens=9)
    index = SentenceIndex(TokenShards(tmp_path, "train", tokenizer.size))
    assert len(index.files) > 1
    assert index.documents == 3
    places = list(zip(index.file_of, index.row_of, strict=True))
    own = [index.parts_of_the_same(int(file), np.array([row])) for file, row in places]
    assert [(int(first[0]), int(last[0])) for first, last in own] == [(0, 1), (1, 3), (1, 3), (3, 4)]


def test_the_shards_of_a_decoder_have_no_sentences(tmp_path: Path) -> None:
    text = "The cat sat. The dog sat.\nThe end. " * 20
    tokenizer = train_tokenizer(iter([text]), 268)
    counts = write_shards(documents([text]), tokenizer, tmp_path, "train")
    assert "sentences" not in counts
    assert {path.name for path in tmp_path.iterdir()} == {
        "train-00000.bin",
        "train-00000.crc32",
        "train-00000.index.parquet",
    }
    assert np.fromfile(tmp_path / "train-00000.bin", "<u2")[1:-1].tolist() == tokenizer.encode(text)
    with pytest.raises(InputError, match=r"train-00000\.sentences is missing"):
        SentenceIndex(TokenShards(tmp_path, "train", tokenizer.size))


def test_damaged_positions_are_one_line(tmp_path: Path) -> None:
    tokenizer = WordTokenizer([WORDS])

    def make(directory: Path) -> dict[str, int]:
        return write_shards(documents([WORDS, WORDS]), tokenizer, directory, "train")

    Stage("shards", "data", tmp_path / "shards", {}, {}).build(make)
    shards = TokenShards(tmp_path / "shards", "train", tokenizer.size)
    assert SentenceIndex(shards).sentences == 2
    file = tmp_path / "shards" / "train-00000.sentences"
    for damaged in (b"", file.read_bytes()[:-1], bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]):
        file.write_bytes(damaged)
        message = re.escape(f"{file} is missing, or differs from what was written. Delete")
        with pytest.raises(InputError, match=message):
            SentenceIndex(shards)


def test_the_stage_asks_the_tokenizer(tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_corpus(tmp_path, CorpusConfig(source="files", path=str(text_folder), validation_fraction=0.2))
    texts = [document.text for document in read_documents(tmp_path / "corpus", "train")]
    decoder = train_tokenizer(iter(texts), 300)
    decoder.save(tmp_path / "tokenizer")
    before = build_shards(tmp_path)
    assert before.config == {"vocab_size": 300, "eos_token_id": decoder.eos_token_id}
    assert {name.partition(".")[2] for name in before.outputs} == {"json", "bin", "crc32", "index.parquet"}
    encoder = WordTokenizer(texts)
    monkeypatch.setattr(build, "load_tokenizer", lambda path: encoder)
    after = build_shards(tmp_path)
    assert after.config == {"vocab_size": encoder.size, "eos_token_id": encoder.sep_token_id, "sentences": True}
    assert {"train-00000.sentences", "validation-00000.sentences"} <= {*after.outputs}
    shards = TokenShards(tmp_path / "shards", "train", encoder.size)
    assert after.counts["train"]["sentences"] == sum(len(split_sentences(text)) for text in texts)
    assert SentenceIndex(shards).sentences == after.counts["train"]["sentences"]
