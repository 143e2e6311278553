"""The similarity of tokens at the start, which tells a training that will stay at the unigram entropy."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import padded_batch, tiny_encoder
from torch.nn import functional as F

from neolm.data.batch import Batch
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.training.token_similarity import LIMIT, diagnosis, similarity_line, token_similarity


def test_it_is_the_mean_over_pairs_of_different_tokens() -> None:
    model = tiny_encoder("bert").train()
    lengths = [9, 4, 1]
    tensors = padded_batch(97, lengths, 9)
    found = token_similarity(model, Batch(tensors))
    assert model.training
    hidden = model.eval().hidden_states(**tensors)
    pairs = [
        F.cosine_similarity(hidden[row, i], hidden[row, j], dim=0).item()
        for row, length in enumerate(lengths)
        for i in range(length)
        for j in range(length)
        if i != j
    ]
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def new_encoder(family: str, layers: int, deviation: float) -> Encoder:
    fields = {"embedding_size": 64} if family == "albert" else {}
    sizes = {"vocab_size": 500, "hidden_size": 128, "num_layers": layers, "num_heads": 4, "max_position_embeddings": 64}
    return Encoder(encoder_config(family, initializer_range=deviation, **sizes, **fields)).initialise(1)


def test_large_weights_deep_models_and_shared_layers_make_tokens_alike() -> None:
    batch = Batch(padded_batch(500, [40, 40], 40))

    def similarity(family: str, layers: int, deviation: float) -> float:
        return token_similarity(new_encoder(family, layers, deviation), batch)

    assert similarity("bert", 4, 0.02) < 0.5 < LIMIT < 0.9 < similarity("bert", 12, 0.1)
    assert similarity("albert", 4, 0.06) > similarity("bert", 4, 0.06)
    assert similarity("albert", 24, 0.06) > similarity("albert", 4, 0.06)


def test_the_line_says_what_to_change() -> None:
    model = new_encoder("albert", 12, 0.1)
    assert similarity_line(0.36, model).endswith("a mean cosine similarity of 0.36")
    line = similarity_line(0.998, model)
    assert "Set model.initializer_range lower (now 0.1), or optimiser=muon" in line


def test_one_token_has_nothing_to_be_compared_with() -> None:
    assert token_similarity(tiny_encoder("bert"), Batch(padded_batch(97, [1], 1))) == pytest.approx(0, abs=1e-5)
    assert torch.is_grad_enabled()


def test_an_alarm_says_whether_the_tokens_look_alike() -> None:
    batch = Batch(padded_batch(500, [40, 40], 40))
    assert "similarity of 1.00: they look alike to the model" in diagnosis(batch, new_encoder("albert", 24, 0.2))
    assert "that is not the reason" in diagnosis(batch, new_encoder("albert", 4, 0.02))
