"""bfloat16 attention on a CPU takes plain products: they must be the same attention."""

import pytest
import torch

from neolm.models import attention
from neolm.models.attention import attend


@pytest.mark.parametrize("window", [None, 8, 32])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 31, 32, 33, 64, 100])
def test_products_are_the_same_attention_forwards_and_backwards(
    monkeypatch: pytest.MonkeyPatch, window: int | None, length: int
) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v, upstream = torch.randn(4, 2, 3, length, 16, generator=generator).unbind(0)
    exact = [x.clone().requires_grad_() for x in (q, k, v)]
    attend(*exact, window, 0.25).backward(upstream)
    results = {}
    for keys in (0, 512):  # the fused kernel, then the products
        monkeypatch.setattr(attention, "PRODUCT_KEYS", keys)
        half = [x.bfloat16().requires_grad_() for x in (q, k, v)]
        y = attend(*half, window, 0.25)
        y.backward(upstream.bfloat16())
        results[keys] = [y, *(x.grad for x in half)]
    expected = [attend(q, k, v, window, 0.25), *(x.grad for x in exact)]
    for fused, products, right in zip(results[0], results[512], expected, strict=True):
        assert fused is not None
        assert products is not None
        assert right is not None
        error, fused_error = (products.float() - right).abs().mean(), (fused.float() - right).abs().mean()
        assert error < 0.01
        assert error < 4 * fused_error + 1e-3


def test_products_are_causal_and_stay_in_the_window() -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 8, generator=torch.Generator().manual_seed(0)).bfloat16().unbind(0)
    before = attend(q, k, v, 10, 1.0)
    k2, v2 = k.clone(), v.clone()
    k2[:, :, 20], v2[:, :, 20] = 9, 9
    changed = (attend(q, k2, v2, 10, 1.0) != before).flatten(0, 1).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed
    assert min(changed) >= 20
    assert max(changed) <= 29
