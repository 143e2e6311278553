"""The loss against the naive one, in value and gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from neolm.data.batches import IGNORED, Batch
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training import losses
from neolm.training.losses import causal_language_modelling, linear_cross_entropy


def inputs(rows: int, channels: int, classes: int, ignored: float = 0.2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * 1000 + classes)
    hidden = torch.randn(rows, channels, generator=generator, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(classes, channels, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < ignored] = IGNORED
    return hidden, weight, labels


@given(
    st.integers(1, 40), st.integers(1, 8), st.integers(2, 30), st.integers(1, 200), st.integers(1, 9), st.floats(0, 0.5)
)
def test_it_is_the_cross_entropy_and_z_loss_in_value_and_gradient(
    rows: int, channels: int, classes: int, chunk: int, chunk_rows: int, z: float
) -> None:
    hidden, weight, labels = inputs(rows, channels, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_ELEMENTS", chunk)
        patch.setattr(losses, "CHUNK_ROWS", chunk_rows)
        ours, entropy = linear_cross_entropy(hidden, weight, labels, z)
        grads = torch.autograd.grad(ours * 0.7, [hidden, weight])
    logits = hidden @ weight.t()
    theirs = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    both = theirs + z * logits.logsumexp(1)[labels != IGNORED].square().sum()
    expected = torch.autograd.grad(both * 0.7, [hidden, weight])
    torch.testing.assert_close(entropy, theirs.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours, both, atol=1e-4, rtol=1e-5)
    assert ours.requires_grad
    assert not entropy.requires_grad
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_logits_far_apart_lose_nothing() -> None:
    hidden = torch.tensor([[80.0], [-80.0], [0.0]])
    weight = torch.tensor([[1.0], [-1.0]])
    _, entropy = linear_cross_entropy(hidden, weight, torch.tensor([1, 1, 0]))
    assert entropy.item() == pytest.approx(160 + 0 + math.log(2))


def test_every_target_masked_is_a_finite_loss_of_zero_weight() -> None:
    hidden, weight, labels = inputs(6, 4, 5)
    labels.fill_(IGNORED)
    total, _ = linear_cross_entropy(hidden, weight, labels, z_loss=0.1)
    grads = torch.autograd.grad(total, [hidden, weight])
    assert total.item() == 0.0
    assert all(g.abs().max() == 0 for g in grads)


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, labels = inputs(6, 4, 5)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, labels)
    assert not total.requires_grad
    only, _ = linear_cross_entropy(hidden.detach(), weight, labels)
    assert torch.autograd.grad(only, weight)[0].shape == weight.shape


def test_half_precision_is_summed_in_full() -> None:
    hidden, weight, labels = inputs(200, 16, 50, ignored=0)
    exact, _ = linear_cross_entropy(hidden, weight, labels)
    half, _ = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.01)


def test_the_objective_is_the_naive_one() -> None:
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
