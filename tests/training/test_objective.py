"""The objective against PyTorch's cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from neolm.data.batch import IGNORED, Batch
from neolm.models import cross_entropy
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.objective import CausalLanguageModelling, gradient_factors


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
    batch = Batch({"input_ids": ids[:, :-1], "labels": labels})
    assert CausalLanguageModelling().targets(batch) == {"next_token": 3 * 12 - 5}
    term = CausalLanguageModelling()(model, batch)["next_token"]
    naive = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(term.total, naive, atol=1e-4, rtol=1e-6)
    assert not term.metrics
    with_z = CausalLanguageModelling(z_loss=0.01)(model, batch)["next_token"]
    torch.testing.assert_close(with_z.metrics["loss"], naive.detach(), atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(with_z.total, naive + with_z.metrics["z_loss"], atol=1e-4, rtol=1e-6)
    assert 0 < with_z.metrics["z_loss"].item() / (3 * 12 - 5) == pytest.approx(0.01 * math.log(50) ** 2, rel=0.1)


def test_factors_of_several_terms() -> None:
    factors, divisor = gradient_factors({"mlm": 200.0, "nsp": 8.0, "none": 0.0}, {"mlm": 1.0, "nsp": 0.5, "none": 1.0})
    assert {term: factor / divisor for term, factor in factors.items()} == {"mlm": 1 / 200, "nsp": 0.5 / 8, "none": 0.0}
    assert gradient_factors({"only": 7.0}, {"only": 1.0}) == ({"only": 1.0}, 7.0)
    assert gradient_factors({"only": 0.0}, {"only": 1.0}) == ({"only": 0.0}, 1)
