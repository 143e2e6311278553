"""The cross-entropy with its output layer against PyTorch's, in value and gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from neolm.models import cross_entropy
from neolm.models.config import decoder_config
from neolm.models.cross_entropy import IGNORED, linear_cross_entropy
from neolm.models.decoder import Decoder


def inputs(rows: int, channels: int, classes: int, ignored: float = 0.2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * 1000 + classes)
    hidden = torch.randn(rows, channels, generator=generator, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(classes, channels, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < ignored] = IGNORED
    return hidden, weight, labels


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(2, 30),
    st.integers(1, 200),
    st.integers(1, 9),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_value_and_gradient_equal_pytorch_s(
    rows: int, channels: int, classes: int, chunk: int, chunk_rows: int, z: float, has_bias: bool
) -> None:
    hidden, weight, labels = inputs(rows, channels, classes)
    bias = torch.linspace(-2, 2, classes, requires_grad=True) if has_bias else None
    parameters = [hidden, weight, *([] if bias is None else [bias])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_ELEMENTS", chunk)
        patch.setattr(cross_entropy, "MIN_CHUNK_ROWS", chunk_rows)
        ours, entropy, correct = linear_cross_entropy(hidden, weight, labels, z, bias)
        grads = torch.autograd.grad(ours * 0.7, parameters)
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    theirs = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    both = theirs + z * logits.logsumexp(1)[labels != IGNORED].square().sum()
    expected = torch.autograd.grad(both * 0.7, parameters)
    torch.testing.assert_close(entropy, theirs.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours, both, atol=1e-4, rtol=1e-5)
    assert ours.requires_grad
    assert not entropy.requires_grad
    assert correct == (logits.argmax(1) == labels).sum()
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_large_logits_are_exact() -> None:
    hidden = torch.tensor([[80.0], [-80.0], [0.0]])
    weight = torch.tensor([[1.0], [-1.0]])
    entropy = linear_cross_entropy(hidden, weight, torch.tensor([1, 1, 0]))[1]
    assert entropy.item() == pytest.approx(160 + 0 + math.log(2))


def test_ignored_labels_only_give_a_zero_loss_and_zero_gradients() -> None:
    hidden, weight, labels = inputs(6, 4, 5)
    labels.fill_(IGNORED)
    total = linear_cross_entropy(hidden, weight, labels, z_loss=0.1)[0]
    grads = torch.autograd.grad(total, [hidden, weight])
    assert total.item() == 0.0
    assert all(g.abs().max() == 0 for g in grads)


def test_gradients_are_computed_only_if_needed() -> None:
    hidden, weight, labels = inputs(6, 4, 5)
    with torch.no_grad():
        total = linear_cross_entropy(hidden, weight, labels)[0]
    assert not total.requires_grad
    only = linear_cross_entropy(hidden.detach(), weight, labels)[0]
    assert torch.autograd.grad(only, weight)[0].shape == weight.shape


def test_sums_over_half_precision_are_float32() -> None:
    hidden, weight, labels = inputs(200, 16, 50, ignored=0)
    exact = linear_cross_entropy(hidden, weight, labels)[0]
    half = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), labels)[0]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.01)


def test_bfloat16_gradients_of_the_weight_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "MAX_PRODUCT_ROWS", 7)
    hidden, weight, labels = inputs(200, 16, 50)
    [exact] = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels)[0], weight)
    [half] = torch.autograd.grad(linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), labels)[0], weight)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
@pytest.mark.parametrize("rows", [4096, 16])
def test_float16_gradients_are_scaled_before_they_are_rounded(rows: int, device: str) -> None:
    """The unscaled gradient of 4,096 equal rows exceeds float16's largest number, 65,504; that of 16 rows does not."""
    hidden = torch.full((rows, 4), 64.0, dtype=torch.float16, device=device)
    weight = torch.zeros(8, 4, dtype=torch.float16, device=device, requires_grad=True)
    total = linear_cross_entropy(hidden, weight, torch.zeros(rows, dtype=torch.int64, device=device))[0]
    (total / rows).backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float16
    torch.testing.assert_close(weight.grad[0].cpu(), torch.full((4,), 64 * (1 / 8 - 1), dtype=torch.float16))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_labels_returns_its_loss(tied: bool) -> None:
    config = decoder_config(
        "gpt-neo",
        vocab_size=50,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_position_embeddings=12,
        window_size=4,
        tie_embeddings=tied,
    )
    model = Decoder(config).initialise(0)
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    labels[:, -1] = IGNORED
    total, entropy = model(ids, labels=labels, z_loss=0.01)
    expected_total, expected, _ = linear_cross_entropy(
        model(ids, logits=False).flatten(0, 1), model.head.weight, labels.flatten(), 0.01
    )
    assert (total, entropy) == (expected_total, expected)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_hooks_of_the_head_run_when_the_loss_is_computed() -> None:
    config = decoder_config("gpt2", vocab_size=50, hidden_size=16, num_layers=1, num_heads=2)
    model = Decoder(config).initialise(0)
    calls: list[str] = []
    model.head.register_forward_pre_hook(lambda *_: calls.append("forward"))
    model.head.register_full_backward_hook(lambda *_: calls.append("backward"))
    total, _ = model(torch.zeros(1, 4, dtype=torch.int64), labels=torch.zeros(1, 4, dtype=torch.int64))
    total.backward()
    assert calls == ["forward", "backward"]
