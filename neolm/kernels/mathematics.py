"""Activations, exp, layer norm and bfloat16 rounding in fp32, in a form that LLVM vectorises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types

from neolm.kernels.simd import F16, F32, I32, conversion

# LLVM may reorder sums and fuse products, but must keep infinities and NaN.
FAST = {"reassoc", "contract", "arcp", "nsz"}

_one = np.float32(1)
_half = np.float32(0.5)
_log2_e = np.float32(math.log2(math.e))
_ln2_high = np.float32(0.693359375)  # few bits: its products with integers below 256 are exact
_ln2_low = np.float32(math.log(2) - 0.693359375)
_series = tuple(np.float32(1 / math.factorial(n)) for n in range(8))
_root_half = np.float32(math.sqrt(0.5))
_gelu_slope, _gelu_cubic = np.float32(2 * math.sqrt(2 / math.pi)), np.float32(0.044715)
_quick = np.float32(1.702)


# Between an fp32 number and its 32 bits; from the 16 bits of an fp16 number to fp32.
as_float = conversion(types.int32, types.float32, lambda builder, bits: builder.bitcast(bits, F32))
as_bits = conversion(types.float32, types.int32, lambda builder, value: builder.bitcast(value, I32))
from_half = conversion(
    types.uint16, types.float32, lambda builder, bits: builder.fpext(builder.bitcast(bits, F16), F32)
)


@njit(inline="always")
def to_bf16(x: Any) -> Any:
    """Round an fp32 number to bfloat16 (16 bits), to nearest even."""
    bits = np.uint32(as_bits(x))
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded)


@njit(fastmath=FAST, error_model="numpy", inline="always")
def exp(x: Any) -> Any:
    """e^x within 2 ulp; x is clamped to -87 ... 88, where e^x is near 1e-38 and 1e38."""
    x = min(max(x, np.float32(-87)), np.float32(88))
    whole = np.floor(x * _log2_e + _half)
    r = x - whole * _ln2_high - whole * _ln2_low  # |r| <= ln(2)/2: the series' next term is below 6e-9
    value = _series[7]
    for n in range(6, -1, -1):
        value = value * r + _series[n]
    return value * as_float((np.int32(whole) + np.int32(127)) << np.int32(23))


@njit(fastmath=FAST, error_model="numpy", inline="always")
def _gelu_tanh(x: Any) -> Any:
    return x / (_one + exp(-_gelu_slope * (x + _gelu_cubic * x * x * x)))


def _tail_series() -> tuple[tuple[np.float32, ...], np.float32, np.float32]:
    """Polynomial for erfc(z) e^(z^2), 0 <= z <= 6, in t = 1 / (1 + 0.3 z) scaled to -1 ... 1; error 1e-8."""
    low = 1 / (1 + _TAIL_SCALE * 6)
    t = ((1 - low) * np.cos((np.arange(64) + 0.5) / 64 * np.pi) + 1 + low) / 2
    z = (1 / t - 1) / _TAIL_SCALE
    values = [math.erfc(number) * math.exp(number * number) for number in z]
    fit = np.polynomial.Chebyshev.fit(t, values, 8, domain=[low, 1])
    coefficients = tuple(np.float32(c) for c in np.polynomial.chebyshev.cheb2poly(fit.coef))
    return coefficients, np.float32(2 / (1 - low)), np.float32(-(1 + low) / (1 - low))


_TAIL_SCALE = 0.3
_tail, _tail_slope, _tail_start = _tail_series()
_tail_scale = np.float32(_TAIL_SCALE)


@njit(fastmath=FAST, error_model="numpy", inline="always")
def _gelu(x: Any) -> Any:
    """X Phi(x), with the normal distribution function Phi computed from its tail: exact where Phi is small."""
    z = abs(x) * _root_half
    s = _tail_slope / (_one + _tail_scale * z) + _tail_start
    value = _tail[8]
    for n in range(7, -1, -1):
        value = value * s + _tail[n]
    value *= _half * exp(-z * z)  # Phi(-|x|)
    return x * (value if x < 0 else _one - value)


ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh")


@njit(fastmath=FAST, error_model="numpy")
def activate(kind: int, values: Any) -> None:
    """Apply ACTIVATIONS[kind] to `values` (fp32) in place."""
    if kind == 0:
        for i in range(values.size):
            values[i] = _gelu(values[i])
    elif kind == 1:
        for i in range(values.size):
            values[i] = _gelu_tanh(values[i])
    elif kind == 2:
        for i in range(values.size):
            values[i] = values[i] / (_one + exp(-_quick * values[i]))
    elif kind == 3:
        for i in range(values.size):
            values[i] = values[i] if not values[i] < 0 else np.float32(0)  # NaN stays
    elif kind == 4:
        for i in range(values.size):
            values[i] = values[i] / (_one + exp(-values[i]))
    else:
        for i in range(values.size):
            values[i] = math.tanh(values[i])


@njit(fastmath=FAST, error_model="numpy")
def layer_norm(x: Any, weight: Any, bias: Any, epsilon: float, y: Any) -> None:
    """Store (x - mean) / sqrt(variance + epsilon) * weight + bias in `y`, all (C)."""
    total = np.float32(0)
    for i in range(x.size):
        total += x[i]
    mean = total / np.float32(x.size)
    squares = np.float32(0)
    for i in range(x.size):
        squares += (x[i] - mean) * (x[i] - mean)
    scale = _one / np.sqrt(squares / np.float32(x.size) + np.float32(epsilon))
    for i in range(x.size):
        y[i] = (x[i] - mean) * scale * weight[i] + bias[i]
