"""A tiny BERT in a directory with the files of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_encoders import write_encoder


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("a model") / "tiny-bert")
