"""A tiny tokenizer and tiny models whose greedy output varies from token to token."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tiny_models import tiny_decoder

from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt-neo": {"window_size": 8},
    "gpt-neox": {"rotary_fraction": 0.5},
    "gpt-neox-sequential": {"rotary_fraction": 0.25, "parallel_residual": False},
}
TEXT = """User: What is the sea? Assistant: The sea is water, and more water under it. It was a bright cold day in
April, and the clocks were striking thirteen. def main(): return the sea, the day, the clock and the water of April."""


@cache
def build(family: str, vocab_size: int = 330, context: int = 64, seed: int = 0, **fields: Any) -> Decoder:
    given = {**FAMILIES[family], "vocab_size": vocab_size, **fields}
    return tiny_decoder(family.removesuffix("-sequential"), context, seed, **given)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter([TEXT] * 3), 310)


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Decoder:
    """One model of each family; its embedding is padded beyond the tokenizer's size."""
    return build(request.param)


@pytest.fixture(scope="session")
def neo() -> Decoder:
    return build("gpt-neo")


@pytest.fixture(scope="session")
def make() -> Callable[..., Decoder]:
    return build
