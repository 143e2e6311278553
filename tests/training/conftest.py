"""A run directory in which only the training is missing."""

import shutil
from pathlib import Path

import pytest

from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.data.build import build_shards
from neolm.tokenizer.build import build_tokenizer
from neolm.tokenizer.config import TokenizerConfig


@pytest.fixture(scope="session")
def built_shards(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    output = tmp_path_factory.mktemp("shards")
    build_corpus(output, CorpusConfig(source="files", path=str(text_folder)))
    build_tokenizer(output, TokenizerConfig(vocab_size=300))
    build_shards(output)
    return output


@pytest.fixture
def run_directory(built_shards: Path, tmp_path: Path) -> Path:
    """A copy of corpus, tokenizer and shards, to train in."""
    return Path(shutil.copytree(built_shards, tmp_path / "run"))
