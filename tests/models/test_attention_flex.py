"""FlexAttention, which models compiled for a GPU use for local layers, computes the same attention."""

import pytest
import torch

from neolm.core.device import compiler
from neolm.models import attention
from neolm.models.attention import attend

# It warns that it is slow when it is not compiled, and the compiler uses deprecated parts of torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch.nn.attention.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


@pytest.mark.parametrize(("length", "window"), [(40, 8), (300, 64)])
def test_flex_is_the_same_attention(length: int, window: int) -> None:
    q, k, v = torch.randn(3, 2, 3, length, 16, generator=torch.Generator().manual_seed(length)).unbind(0)
    found = attention._attend_by_flex(q, k, v, window, 0.25)  # no gradients: torch has no backward pass for it on a CPU
    torch.testing.assert_close(found, attend(q, k, v, window, 0.25), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_flex_compiles_with_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    if compiler() is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    q, k, v = torch.randn(3, 2, 3, 300, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = attend(q, k, v, 64, 0.25)
    calls = []
    monkeypatch.setattr(attention, "_flex_pays", lambda q: calls.append(1) or True)
    found = torch.compile(attend, fullgraph=True)(q, k, v, 64, 0.25)
    assert calls
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
