"""The stage `tokenizer`, and the command that encodes a text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import read_documents
from neolm.tokenizer.build import MIN_PARTS, Sample, build_tokenizer
from neolm.tokenizer.config import TokenizerConfig
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer


def test_a_corpus_within_train_bytes_is_read_whole(tmp_path: Path, text_folder: Path) -> None:
    total = build_corpus(tmp_path, CorpusConfig(source="files", path=str(text_folder))).counts["train"]["bytes"]
    counts = build_tokenizer(tmp_path, TokenizerConfig(vocab_size=300, train_bytes=total)).counts
    assert counts == {"tokens": 300, "bytes": total}
    expected = train_tokenizer((document.text for document in read_documents(tmp_path / "corpus", "train")), 300)
    assert load_tokenizer(tmp_path).backend.to_str() == expected.backend.to_str()


def test_few_documents_of_unequal_sizes_are_all_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("A tiny first document.", encoding="utf-8")
    for name in "bc":
        lines = (f"{name}: people number {line} talk about the weather and walls of stone\n" for line in range(300))
        (texts / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    corpus = CorpusConfig(source="files", path=str(texts), validation_fraction=0.01)
    total = build_corpus(tmp_path, corpus).counts["train"]["bytes"]
    counts = build_tokenizer(tmp_path, TokenizerConfig(vocab_size=300, train_bytes=10_000)).counts
    assert counts["tokens"] == 300
    assert counts["bytes"] == pytest.approx(10_000, rel=0.1)
    assert f"trained on {counts['bytes']:,} of {total:,} bytes" in capfd.readouterr().err


WORDS = st.lists(st.sampled_from(["the sea", "Größe", "海\n", "x" * 40, " ", "\n\n"]), max_size=200).map("".join)


@given(st.lists(WORDS, max_size=30), st.integers(1, 20_000))
def test_a_sample_has_about_the_bytes_asked_for_from_everywhere(texts: list[str], limit: int) -> None:
    total = sum(len(text.encode()) for text in texts)
    sample = Sample(limit, total)
    parts = list(sample.of(texts))
    assert sample.bytes == sum(len(part.encode()) for part in parts)
    assert parts == list(Sample(limit, total).of(texts))
    if total <= limit:
        assert parts == texts
        return
    longest = 4 * -(-limit // MIN_PARTS)  # bytes of a part
    assert sample.bytes <= limit + longest
    rest = "\0".join(texts)
    place = 0
    for part in parts:  # in order, and without long gaps
        place = rest.index(part, place) + len(part)
    for text in texts:  # a document of more than its share of parts is not left out
        size = len(text.encode())
        if size * limit / total > 2 * longest:
            assert any(part and part in text for part in parts)
    assert sample.bytes >= limit - longest


def test_encode_reads_an_argument_or_standard_input(
    tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_tokenizer(iter(["the sea, the sea"]), 258)
    tokenizer.save(tmp_path)
    (t, h), minus = tokenizer.encode("th"), tokenizer.encode("-")[0]
    assert neolm_("tokenizer", "encode", tmp_path, "th") == (0, f'{t}\t"t"\n{h}\t"h"\n', "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"t\xff-")))
    byte = tokenizer.encode_bytes(b"\xff")[0]
    assert neolm_("tokenizer", "encode", tmp_path, "-")[1] == f'{t}\t"t"\n{byte}\t"\ufffd"\n{minus}\t"-"\n'
