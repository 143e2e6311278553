"""A masked language model in a directory, with its WordPiece tokenizer."""

from pathlib import Path

import pytest
from encoder_runs import wordpiece_vocabulary
from tiny_encoders import tiny_encoder

from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    return wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder)


@pytest.fixture(scope="session")
def masked_model(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    directory = tmp_path_factory.mktemp("model")
    size = load_tokenizer(vocabulary).size
    save_model(tiny_encoder("bert", vocab_size=size, head="masked", pooler=False), directory)
    copy_tokenizer(vocabulary, directory)
    return directory
