"""Attention in blocks of queries against its definition: values, gradients, dropout, saved and recomputed weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.models import block_attention as module
from neolm.models.attention import attend, causal_mask
from neolm.models.block_attention import block_attention, blocks, full_attention, products_are_faster
from neolm.models.dropout import draw_mask, masked


def inputs(T: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(T)
    drawn = torch.randn(4, 2, 3, T, 8, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype).requires_grad_() for x in drawn.unbind(0))


def definition(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    visible = causal_mask(torch.ones(len(q), q.shape[2]), window)
    return (q @ k.transpose(-1, -2) * 0.25).masked_fill(~visible, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("saved_keys", [0, 1024])
@pytest.mark.parametrize("window", [None, 1, 64, 130, 256])
@pytest.mark.parametrize("T", [1, 2, 127, 128, 129, 257, 400])
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, T: int, window: int | None, saved_keys: int) -> None:
    monkeypatch.setattr(module, "MAX_SAVED_KEYS", saved_keys)
    q, k, v, upstream = inputs(T)
    got, expected = block_attention(q, k, v, window, 0.25), definition(q, k, v, window)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    found, wanted = (torch.autograd.grad((y * upstream.detach()).sum(), (q, k, v)) for y in (got, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("saved_keys", [0, 1024])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("T", [1, 127, 128, 300])
def test_values_and_gradients_without_a_causal_mask(
    monkeypatch: pytest.MonkeyPatch, T: int, padded: bool, saved_keys: int
) -> None:
    monkeypatch.setattr(module, "MAX_SAVED_KEYS", saved_keys)
    q, k, v, upstream = inputs(T)
    lengths = torch.tensor([[T], [T], [max(1, T // 2)], [1]])[: len(q)]
    mask = (torch.arange(T) < lengths)[:, None, None, :] if padded else None
    got = full_attention(q, k, v, mask, 0.25)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.25)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    found, wanted = (torch.autograd.grad((y * upstream.detach()).sum(), (q, k, v)) for y in (got, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("saved_keys", [0, 1024])
def test_gradients_with_dropout(monkeypatch: pytest.MonkeyPatch, saved_keys: int) -> None:
    monkeypatch.setattr(module, "MAX_SAVED_KEYS", saved_keys)
    q, k, v, _ = inputs(7)

    def dropped(*tensors: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same weights are dropped each time
        return block_attention(*tensors, 4, 0.25, 0.4)

    assert torch.autograd.gradcheck(dropped, (q, k, v))


@pytest.mark.parametrize("saved_keys", [0, 1024])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("T", [7, 300])
def test_values_and_gradients_with_the_mask_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, T: int, causal: bool, saved_keys: int
) -> None:
    monkeypatch.setattr(module, "MAX_SAVED_KEYS", saved_keys)
    q, k, v, upstream = inputs(T, torch.float32)
    torch.manual_seed(1)
    kept = torch.zeros(6, T, T)
    for queries, keys in blocks(T, None, causal):
        ones = torch.ones_like(kept[:, queries, keys])
        kept[:, queries, keys] = masked(ones, draw_mask(ones, 0.4), 0.4)
    scores = q @ k.transpose(-1, -2) * 0.25
    if causal:
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
    expected = scores.softmax(-1) * kept.view(2, 3, T, T) @ v
    torch.manual_seed(1)
    got = block_attention(q, k, v, None, 0.25, 0.4) if causal else full_attention(q, k, v, None, 0.25, 0.4)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    found, wanted = (torch.autograd.grad((y * upstream.detach()).sum(), (q, k, v)) for y in (got, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_everything_can_be_dropped(dtype: torch.dtype) -> None:
    q, k, v, _ = inputs(20, dtype)
    y = block_attention(q, k, v, None, 0.25, 1.0)
    y.sum().backward()
    assert all(x is not None and not x.count_nonzero() for x in (y, q.grad, k.grad, v.grad))


def test_products_are_chosen_on_a_cpu_in_bfloat16_or_with_dropout() -> None:
    q = torch.zeros(1, 1, 2, 4)
    chosen = {(d, p): products_are_faster(q.to(d), p) for d in (torch.float32, torch.bfloat16) for p in (0.0, 0.1)}
    assert [key for key, value in chosen.items() if not value] == [(torch.float32, 0.0)]
    assert not products_are_faster(q.to("meta"), 0.1)


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    q, k, v, _ = (x.detach() for x in inputs(150))
    expected = block_attention(q, k, v, None, 0.25)
    mean = torch.stack([block_attention(q, k, v, None, 0.25, 0.3) for _ in range(400)]).mean(0)
    error = (mean - expected).abs()
    assert 0 < error.mean() < 0.05
    assert abs((mean - expected).mean()) < 0.005


@pytest.mark.parametrize(("T", "window"), [(300, None), (1024, 256), (2048, None), (2048, 2048), (1000, 70)])
def test_the_work_is_proportional_to_the_window(T: int, window: int | None) -> None:
    seen = list(blocks(T, window))
    assert [q.start for q, _ in seen] == [0, *(q.stop for q, _ in seen[:-1])]
    assert seen[-1][0].stop == T
    pairs = sum((q.stop - q.start) * (k.stop - k.start) for q, k in seen)
    needed = sum(min(i + 1, window or T) for i in range(T))
    assert needed <= pairs <= needed + T * (max(128, min(T, window or T) // 8) + 64)


@pytest.mark.parametrize("window", [None, 8, 32])
@pytest.mark.parametrize("T", [2, 31, 32, 33, 100, 300])
def test_bfloat16_is_as_accurate_as_the_fused_kernel(T: int, window: int | None) -> None:
    exact = inputs(T, torch.float32)
    attend(*exact[:3], window, 0.25).backward(exact[3].detach())
    right = [definition(*exact[:3], window), *(x.grad for x in exact[:3])]
    results = []
    for fused in (True, False):
        q, k, v = half = [x.detach().bfloat16().requires_grad_() for x in exact[:3]]
        if fused:
            visible = causal_mask(torch.ones(len(q), T), window)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=0.25)
        else:
            y = attend(q, k, v, window, 0.25)
        y.backward(exact[3].detach().bfloat16())
        results.append([y, *(x.grad for x in half)])
    for kernel, products, expected in zip(*results, right, strict=True):
        assert kernel is not None
        assert products is not None
        assert expected is not None
        error, fused_error = ((x.float() - expected).abs().mean() for x in (products, kernel))
        assert error < 0.01
        assert error < 4 * fused_error + 1e-3


def test_queries_attend_to_no_later_key_and_within_the_window() -> None:
    q, k, v = (x.detach().bfloat16() for x in inputs(300)[:3])
    before = attend(q, k, v, 140, 1.0)
    k2, v2 = k.clone(), v.clone()
    k2[:, :, 20], v2[:, :, 20] = 9, 9
    changed = (attend(q, k2, v2, 140, 1.0) != before).flatten(0, 1).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed
    assert min(changed) >= 20
    assert max(changed) <= 159
