"""A masked language model in a directory, with its WordPiece tokenizer."""

from pathlib import Path

import pytest
from tiny_encoders import tiny_encoder
from tokenizers import BertWordPieceTokenizer

from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    directory = tmp_path_factory.mktemp("vocabulary")
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train([str(path) for path in text_folder.iterdir()], vocab_size=300, show_progress=False)
    tokenizer.save_model(str(directory))
    return directory


@pytest.fixture(scope="session")
def masked_model(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    directory = tmp_path_factory.mktemp("model")
    size = load_tokenizer(vocabulary).size
    save_model(tiny_encoder("bert", vocab_size=size, head="masked", pooler=False), directory)
    copy_tokenizer(vocabulary, directory)
    return directory
