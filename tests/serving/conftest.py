"""Tiny models whose output varies from token to token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tiny_models import tiny_decoder

from neolm.models.decoder import Decoder


def build(family: str = "gpt-neo", context: int = 96, **fields: Any) -> Decoder:
    window = {"window_size": 24} if family == "gpt-neo" else {}
    return tiny_decoder(family, context, **window, **fields)


@pytest.fixture(scope="session")
def make() -> Callable[..., Decoder]:
    return build


@pytest.fixture(scope="session")
def model() -> Decoder:
    return build()
