"""Heads that look at neighbouring tokens, as new weights of an encoder."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neolm.core.errors import SettingError
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.models.neighbour_heads import PEAK

T = 64


def new_encoder(family: str, **fields: object) -> Encoder:
    shape = {"vocab_size": 200, "hidden_size": 128, "num_layers": 2, "num_heads": 8, "max_position_embeddings": T}
    return Encoder(encoder_config(family, **{**shape, "initialisation": "informed", **fields})).initialise(3).eval()


@torch.no_grad()
def logits_of(model: Encoder, block: int) -> Tensor:
    """Logits of attention (B, H, T, T) of the embeddings of four sequences of random tokens."""
    ids = torch.randint(0, 200, (4, T), generator=torch.Generator().manual_seed(5))
    x = model.embedding_norm(model.embedding(ids) + model.positions.weight + model.token_types.weight[0])
    if model.projection is not None:
        x = model.projection(x)
    H = model.config.num_heads
    queries, keys, _ = model.blocks[block].attention.qkv(x).view(4, T, 3, H, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    return queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5


def attention_of(model: Encoder, block: int) -> Tensor:
    """Attention weights (H, T, T), mean of the sequences."""
    return logits_of(model, block).softmax(dim=3).mean(dim=0)


def favourite_distance(weights: Tensor) -> int:
    """The distance from -10 to 10 that gets the most attention, mean of all tokens."""
    return max(range(-10, 11), key=lambda distance: float(weights.diagonal(distance).mean()))


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("bert", {}),
        ("albert", {"embedding_size": 64}),
        ("albert", {"embedding_size": 128}),
        ("albert", {"embedding_size": 16}),  # narrower than a head
        ("albert", {"embedding_size": 72, "sharing": "none"}),  # not a multiple of a head
    ],
)
def test_each_head_looks_at_its_neighbour(family: str, fields: dict[str, object]) -> None:
    model = new_encoder(family, **fields)
    for block in range(len(model.blocks)):
        weights = attention_of(model, block)
        assert [favourite_distance(head) for head in weights[:4]] == [-1, 1, -2, 2]
        assert weights[0].diagonal(-1).mean() > (0.1 if fields.get("embedding_size") == 16 else 0.2)
        assert float(weights[4:].max()) < 4 / T  # the other half sees the whole sequence


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_neighbour_has_the_stated_logit(family: str) -> None:
    factorised = {"embedding_size": 128} if family == "albert" else {}
    logits = logits_of(new_encoder(family, hidden_size=256, **factorised), 0)[:, 0]  # of a head with the distance -1
    above_others = logits.diagonal(-1, 1, 2).mean() - logits.mean()
    assert float(above_others) == pytest.approx(PEAK, rel=0.15)


def test_random_heads_look_nowhere_in_particular() -> None:
    weights = attention_of(new_encoder("bert", initialisation="published"), 0)
    assert float(weights.max()) < 4 / T


def test_narrow_embeddings_keep_their_size() -> None:
    model = new_encoder("albert", embedding_size=32)
    assert model.projection is not None
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert math.isclose(float(model.projection(x).std()), 1.0, rel_tol=0.05)


def test_weights_depend_on_the_seed_alone() -> None:
    config = new_encoder("albert", embedding_size=32).config
    first, again, other = (Encoder(config).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["positions.weight"], other["positions.weight"])


@settings(max_examples=30, deadline=None)
@given(heads=st.integers(1, 4), size=st.integers(2, 9), embedding=st.integers(2, 40), layers=st.integers(1, 3))
def test_every_shape_gets_finite_weights(heads: int, size: int, embedding: int, layers: int) -> None:
    width = heads * size
    shape = {"hidden_size": width, "num_heads": heads, "num_layers": layers, "max_position_embeddings": 9}
    model = new_encoder("albert", **shape, embedding_size=min(embedding, width))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert float(model.positions.weight.detach().abs().max()) > 0


def test_a_head_of_one_channel_is_refused() -> None:
    with pytest.raises(SettingError, match="initialisation: 'informed' needs heads and embeddings of at least 2"):
        new_encoder("bert", hidden_size=4, num_heads=4)
