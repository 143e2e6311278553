"""The stage `tokenizer`, and the command that encodes a text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import read_documents
from neolm.tokenizer.build import build_tokenizer
from neolm.tokenizer.config import TokenizerConfig
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer


@pytest.mark.parametrize("every", [1, 4])
def test_training_text_is_spread_over_the_documents(tmp_path: Path, text_folder: Path, every: int) -> None:
    counts = build_corpus(tmp_path, CorpusConfig(source="files", path=str(text_folder))).counts
    config = TokenizerConfig(vocab_size=300, train_bytes=-(-counts["train"]["bytes"] // every))
    assert build_tokenizer(tmp_path, config).counts == {"tokens": 300, "every": every}
    texts = [document.text for document in read_documents(tmp_path / "corpus", "train")]
    expected = train_tokenizer(iter(texts[::every]), 300)
    assert load_tokenizer(tmp_path).backend.to_str() == expected.backend.to_str()


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
