"""Matrix products of few rows by weights of every format and any size, compared with fp64."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from neolm.kernels import jit
from neolm.kernels.matmul import (
    BF16,
    FP32,
    INT4,
    INT8,
    matmul,
    pack_activations,
    packed_activation_bytes,
    thread_outputs,
)
from neolm.kernels.packing import pack, unpack

# The rounding of activations: none, to 8 bits, to 16 bits of the largest in a group.
TOLERANCE = {FP32: 2e-6, BF16: 1e-2, INT8: 1e-4, INT4: 1e-4}


@njit
def product(weights: Any, x: Any, packed_x: Any, y: Any, parts: int) -> None:
    for m in range(x.shape[0]):
        half = x.shape[1] // 2 // 64 * 64  # in two parts, the second first
        pack_activations(weights[0], x[m], packed_x[m].ctypes.data, half, x.shape[1])
        if half:
            pack_activations(weights[0], x[m], packed_x[m].ctypes.data, 0, half)
    for part in range(parts):
        first, end = thread_outputs(weights[4], part, parts)
        matmul(weights, packed_x.ctypes.data, packed_x.strides[0], x.shape[0], y.ctypes.data, y.strides[0], first, end)


def run(kind: int, weight: torch.Tensor, x: torch.Tensor, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the kernels' product, and the fp64 product with the stored weights."""
    scales = 0
    if kind in (FP32, BF16):
        stored = weight if kind == FP32 else weight.bfloat16()
        exact, values = stored.double(), stored.data_ptr()
    else:
        packed = pack(weight, 8 if kind == INT8 else 4)
        exact, values, scales = unpack(packed).double(), packed.values.data_ptr(), packed.scales.data_ptr()
    N, K = weight.shape
    row = np.array([kind, values, scales, 0, N, K], np.int64)
    y = np.full((len(x), -(-N // 16) * 16 + 16), np.nan, np.float32)
    product(row, x.numpy(), np.zeros((len(x), packed_activation_bytes(K)), np.uint8), y, parts)
    return torch.from_numpy(y[:, :N]), x.double() @ exact.T


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([FP32, BF16, INT8, INT4]),
    st.integers(1, 75),
    st.integers(1, 200),
    st.integers(1, 19),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_any_size(kind: int, N: int, K: int, M: int, parts: int, seed: int) -> None:
    K = K + K % 2 if kind == BF16 else K
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(N, K, generator=generator)
    x = torch.randn(M, K, generator=generator) * torch.randn(M, 1, generator=generator).exp()
    y, exact = run(kind, weight, x, parts)
    scale = (x.double().square().sum(1, keepdim=True).sqrt() * weight.double().norm(dim=1)).clamp(min=1e-9)
    assert ((y - exact).abs() / scale).max() < TOLERANCE[kind]
    for m in range(M):  # a row alone has the same bits
        assert torch.equal(run(kind, weight, x[m : m + 1])[0][0], y[m])


@pytest.mark.parametrize("kind", [FP32, BF16, INT8, INT4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs_give_non_finite_outputs(kind: int, bad: float) -> None:
    x = torch.ones(2, 64)
    x[0, 3] = bad
    y, _ = run(kind, torch.ones(16, 64), x)
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()


def test_zeros(kind: int = INT8) -> None:
    y, exact = run(kind, torch.zeros(16, 64), torch.zeros(1, 64))
    assert torch.equal(y.double(), exact)


@pytest.mark.slow
def test_without_vnni_and_bfloat16(tmp_path: Path) -> None:
    """Run the same tests compiled for AVX2 only."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+sse4.2,+ssse3,+sse3,+popcnt,+bmi,+bmi2",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    if "x86_64" not in os.uname().machine:
        pytest.skip("names features of x86 processors")
    script = "from neolm.kernels.simd import *; assert not (HAS_AVX512 or HAS_VNNI or HAS_AVX512_BF16)"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    here = Path(__file__)
    tests = [here, here.parents[1] / "generation" / "test_model_runners.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_change_in_any_kernel_recompiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "twice.py"
    path.write_text("def twice(x):\n    return 2 * x\n", encoding="utf-8")

    def hits(digest: str) -> int:
        monkeypatch.setattr(jit, "_digest", lambda: digest)
        spec = importlib.util.spec_from_file_location("twice", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = jit.cached_jit(module.twice)
        assert function(4) == 8
        return sum(function.stats.cache_hits.values())

    assert [hits("one"), hits("one"), hits("other")] == [0, 1, 0]


def test_an_unwritable_cache_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jit.FunctionCache, "save_overload", full)

    @jit.cached_jit
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8
