"""Our GELU against torch's, values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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


@pytest.mark.parametrize("function", [gelu.gelu, gelu_tanh])
def test_bfloat16_is_correctly_rounded(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    approximate = "tanh" if function is gelu_tanh else "none"
    every = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    numbers = every[every.isfinite()].repeat(5)  # more than one thread's share
    upstream = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = numbers.double().requires_grad_()
    expected = F.gelu(exact, approximate=approximate)
    expected.backward(upstream.double())
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        x = numbers.clone().requires_grad_()
        y = function(x)
        y.backward(upstream)
        torch.set_num_threads(before)
        found.append((y.detach(), x.grad))
    assert torch.equal(found[0][0], expected.detach().bfloat16())
    # the derivative is rounded to float32 first
    torch.testing.assert_close(found[0][1].double(), exact.grad, rtol=2**-8, atol=1e-30)
    assert all(torch.equal(y, found[0][0]) and torch.equal(g, found[0][1]) for y, g in found)


def test_bfloat16_of_nan_and_of_views() -> None:
    x = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]], dtype=torch.bfloat16).t()
    torch.testing.assert_close(gelu.gelu(x), F.gelu(x), equal_nan=True)


def test_the_table_may_be_made_in_inference_mode() -> None:
    gelu._tables.cache_clear()
    x = torch.linspace(-3, 3, 50).bfloat16()
    with torch.inference_mode():
        y = gelu.gelu(x)
    ours = x.clone().requires_grad_()
    gelu.gelu(ours).sum().backward()
    torch.testing.assert_close(y, F.gelu(x), rtol=1e-2, atol=1e-2)
    assert ours.grad is not None


def test_the_table_may_be_made_in_a_recomputed_block() -> None:
    gelu._tables.cache_clear()
    x = torch.linspace(-3, 3, 50).bfloat16().requires_grad_()
    checkpoint(gelu.gelu, x, use_reentrant=False).sum().backward()
    assert x.grad is not None
