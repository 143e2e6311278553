"""A real server in a thread, with a tiny model whose answers vary, and a tiny encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Running, running, write_model
from tiny_encoders import write_encoder

from neolm.models.hf import load_model
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    return write_model


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("a model") / "tiny")


@pytest.fixture(scope="session")
def model(directory: Path) -> Any:
    return load_model(directory, "cpu")


@pytest.fixture(scope="session")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def start() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    return running


@pytest.fixture(scope="module")
def server(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("kept") / "deep" / "feedback.sqlite"
    encoder = write_encoder(tmp_path_factory.mktemp("an encoder") / "bert")
    with running([str(directory), str(encoder)], feedback=f"sqlite:///{place}", max_tokens=512, choices=8) as one:
        yield one
