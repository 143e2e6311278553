"""A tokenizer and decoders that are tiny, but whose output depends on all of their input."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import tiny_decoder

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

TEXT = """It was a bright cold day in April, and the clocks were striking thirteen. The sea is water, and more water
under it. def main(): return the sea, the day, the clock and the water of April. Größe 🙂 été."""


@cache
def build(family: str = "gpt-neo", context: int = 32, seed: int = 0, **fields: Any) -> Decoder:
    window = {"window_size": 8} if family == "gpt-neo" else {}
    return tiny_decoder(family, context, seed, 0.3, **{"num_heads": 2, **window, **fields})


@pytest.fixture(scope="session")
def make() -> Callable[..., Decoder]:
    return build


@pytest.fixture(scope="session")
def neo() -> Decoder:
    return build()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter([TEXT] * 3), 320)


@pytest.fixture(scope="session")
def uniform() -> Decoder:
    """A model to which every token is equally likely."""
    model = Decoder(
        decoder_config("gpt2", vocab_size=512, hidden_size=16, num_layers=1, num_heads=2, max_position_embeddings=32)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()
