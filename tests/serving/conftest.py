"""The models of the generation tests: tiny, but their output varies from token to token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder


def build(family: str = "gpt-neo", context: int = 96, seed: int = 0, **fields: Any) -> Decoder:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 330, "max_position_embeddings": context}
    more = {"window_size": 24} if family == "gpt-neo" else {}
    model = Decoder(decoder_config(family, **{**sizes, **more, **fields})).initialise(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.2 / parameter.std())
    return model.eval()


@pytest.fixture(scope="session")
def make() -> Callable[..., Decoder]:
    return build


@pytest.fixture(scope="session")
def model() -> Decoder:
    return build()
