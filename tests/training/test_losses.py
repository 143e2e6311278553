"""The objective against PyTorch's cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from neolm.data.batches import IGNORED, Batch
from neolm.models import cross_entropy
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.losses import causal_language_modelling


def test_data_and_models_ignore_the_same_label() -> None:
    assert IGNORED == cross_entropy.IGNORED


def test_the_objective_is_the_cross_entropy() -> None:
    config = decoder_config(
        "gpt-neo", vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, max_position_embeddings=12, window_size=4
    )
    model = Decoder(config).initialise(0)
    ids = torch.randint(0, 50, (3, 13), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1:].clone()
    labels[0, :5] = IGNORED
    loss = causal_language_modelling(model, Batch(ids[:, :-1], labels))
    naive = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(loss.total, naive, atol=1e-4, rtol=1e-6)
    assert loss.count.item() == 3 * 12 - 5
    with_z = causal_language_modelling(model, Batch(ids[:, :-1], labels), z_loss=0.01)
    torch.testing.assert_close(with_z.value, naive, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(with_z.total, naive + with_z.metrics["z_loss"], atol=1e-4, rtol=1e-6)
    assert 0 < with_z.metrics["z_loss"].item() / (3 * 12 - 5) == pytest.approx(0.01 * math.log(50) ** 2, rel=0.1)
