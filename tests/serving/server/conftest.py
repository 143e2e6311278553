"""A real server in a thread, with tiny models: one whose answers vary, an encoder and a classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Running, running, write_model
from tiny_encoders import write_classifier, write_encoder
from word_classifier import CATEGORY, write_policy, write_word_classifier

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


def observing_policy(place: Path) -> Path:
    words = write_word_classifier(place / "words", {"fine": [], "bad": ["cold"]})
    category = {**CATEGORY, "perspective": "TOXICITY", "openai": "harassment"}
    return write_policy(place / "policy.yaml", words, mode="observe", categories={"coldness": category})


@pytest.fixture(scope="module")
def server(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("kept") / "deep" / "feedback.sqlite"
    encoder = write_encoder(tmp_path_factory.mktemp("an encoder") / "bert")
    classifier = write_classifier(tmp_path_factory.mktemp("a classifier") / "topics", {"pair": True})
    policy = observing_policy(tmp_path_factory.mktemp("a policy"))  # it changes no answer
    fields = {"feedback": f"sqlite:///{place}", "moderation": str(policy), "max_tokens": 512, "choices": 8}
    with running([str(directory), str(encoder), str(classifier)], **fields) as one:
        yield one
