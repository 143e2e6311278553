"""A tokenizer and decoders that are tiny but not dull: what they say depends on all that they read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

TEXT = """It was a bright cold day in April, and the clocks were striking thirteen. The sea is water, and more water
under it. def main(): return the sea, the day, the clock and the water of April. Größe 🙂 été."""


@cache
def build(family: str = "gpt-neo", context: int = 32, seed: int = 0, **fields: Any) -> Decoder:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 330}
    if family == "gpt-neo":
        sizes["window_size"] = 8
    model = Decoder(decoder_config(family, **{**sizes, "max_position_embeddings": context, **fields})).initialise(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.3 / parameter.std())
    return model.eval()


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
