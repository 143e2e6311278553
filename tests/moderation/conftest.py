"""Tiny classifiers whose probabilities are known, and policies that use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from word_classifier import write_policy, write_word_classifier


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`: a text is fine or bad; `several`: it can be about sea, day and clock at once."""
    place = tmp_path_factory.mktemp("classifiers")
    write_word_classifier(place / "one", {"fine": [], "bad": ["cold"]})
    several = {"sea": ["sea", "water"], "day": ["day"], "clock": ["clock"]}
    write_word_classifier(place / "several", several, problem="multi_label_classification")
    return place


@pytest.fixture
def policy(classifiers: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a policy and return its path; keywords replace its keys."""

    def write(name: str = "policy.yaml", **keys: Any) -> Path:
        return write_policy(tmp_path / name, classifiers / "one", **keys)

    return write
