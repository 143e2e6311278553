"""Our GELU against torch's, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from neolm.models import gelu
from neolm.models.gelu import gelu_tanh


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 7, 100)])
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    monkeypatch.setattr(gelu, "MAX_CHUNK_ELEMENTS", 64)  # several chunks, the last one smaller
    x = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = gelu_tanh(ours), F.gelu(exact, approximate="tanh")
    y.backward(upstream)
    expected.backward(upstream.double())
    bounds = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=bounds[dtype], atol=bounds[dtype])
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=bounds[dtype], atol=bounds[dtype])


@pytest.mark.parametrize("value", [0.0, -0.0, 60.0, -60.0, 1e30, -1e30, float("inf"), float("nan")])
def test_extreme_values(value: float) -> None:
    x = torch.tensor([value]).requires_grad_()
    expected, given = F.gelu(x.detach(), approximate="tanh"), gelu_tanh(x)
    torch.testing.assert_close(given.detach(), expected, equal_nan=True)


def test_views_and_a_transposed_input() -> None:
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).t().requires_grad_()
    assert torch.autograd.gradcheck(gelu_tanh, (x,))
