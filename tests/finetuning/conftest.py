"""A tiny encoder, and tables that it can learn."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_encoders import write_encoder
from topic_tables import TOPICS, sentence, write_csv


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("a base"))


@pytest.fixture
def topics(tmp_path: Path) -> Callable[[str, int, int], Path]:
    """Write a table of sentences about the coast or the time."""

    def write(name: str, count: int, seed: int) -> Path:
        draw = random.Random(seed)
        rows = [(sentence(topic, draw), topic) for topic in [*TOPICS] * (count // 2)]
        return write_csv(tmp_path / name, ("text", "label"), rows)

    return write
