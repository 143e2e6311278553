"""Activations, exp, layer norm and bfloat16 rounding of the kernels, compared with torch in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit
from torch.nn import functional as F

from neolm.kernels.mathematics import ACTIVATIONS, activate, exp, layer_norm, to_bf16

EXACT = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([0.0, -0.0, 1e-30, -50.0, 50.0])])
    y = x.numpy().copy()
    activate(ACTIVATIONS.index(name), y)
    error = (torch.from_numpy(y).double() - EXACT[name](x.double())).abs()
    assert (error / x.double().abs().clamp(min=1e-6)).max() < 6e-7
    broken = np.array([np.nan], np.float32)
    activate(ACTIVATIONS.index(name), broken)
    assert np.isnan(broken[0])


@njit
def exps(x: np.ndarray, y: np.ndarray) -> None:
    for i in range(x.size):
        y[i] = exp(x[i])


def test_exp() -> None:
    x = np.linspace(-87, 88, 200_001).astype(np.float32)
    y = np.empty_like(x)
    exps(x, y)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(y - exact) / exact).max() < 3e-7
    far = np.array([-1e30, 1e30], np.float32)
    exps(far, y[:2])
    assert 0 <= y[0] < 1e-37
    assert np.isfinite(y[1])


def test_layer_norm() -> None:
    x, weight, bias = (torch.randn(96, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    y = np.empty(96, np.float32)
    layer_norm((3 + x).numpy(), weight.numpy(), bias.numpy(), 1e-5, y)
    exact = F.layer_norm((3 + x).double(), (96,), weight.double(), bias.double(), 1e-5)
    assert (torch.from_numpy(y) - exact).abs().max() < 2e-6


@njit
def round_to_bf16(x: np.ndarray, y: np.ndarray) -> None:
    for i in range(x.size):
        y[i] = to_bf16(x[i])


def test_bfloat16_rounding_equals_torch() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf"), 0.0])  # ties and special values
    y = np.empty(10_000, np.uint16)
    round_to_bf16(x.numpy(), y)
    assert torch.equal(torch.from_numpy(y).view(torch.bfloat16), x.bfloat16())
