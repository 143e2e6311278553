"""Attention of one query to the keys of its sequence in KV cache blocks (Kwon et al. 2023, section 4.1).

A block holds 16 tokens of one layer. Keys are stored by channel (H, D, 16), so that 16 scores take D vector products
without a horizontal sum; values are stored by token (H, 16, P), where P is D padded to 16. Both are fp32 or bfloat16;
sums are fp32. Slots without a token do not affect the result.

Shapes: H heads, D head size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, njit

from neolm.kernels import simd
from neolm.kernels.mathematics import FAST, exp, to_bf16
from neolm.kernels.simd import F32, LANES, Builder, Value, as_pointer

if TYPE_CHECKING:
    from neolm.kernels.decode_step import Model, Step, Workspace

BLOCK_SIZE = LANES  # tokens in a KV cache block


def _read(builder: Builder, address: Value, index: Value, bits: int) -> Value:
    """Load 16 numbers of an array, from `index` on, as fp32."""
    offset = builder.mul(index, simd.int64(bits // 8))
    if bits == 16:
        return simd.widen_bf16(builder, address, offset)
    return simd.load(builder, address, offset, simd.vector(F32))


def _scores_microkernel(bits: int) -> Any:
    @simd.llvm_function
    def scores(builder: Builder, q: Value, keys: Value, d: Value, result: Value) -> None:
        """Scores of q (D, fp32) and the 16 keys of one block and head."""

        def add(channel: Value, sums: list[Value]) -> list[Value]:
            new = []
            for n, value in enumerate(sums):
                one = builder.add(channel, simd.int64(n))
                key = _read(builder, keys, builder.mul(one, simd.int64(BLOCK_SIZE)), bits)
                query = simd.splat(builder, simd.load(builder, q, builder.mul(one, simd.int64(4)), F32))
                new.append(simd.fma(builder, key, query, value))
            return new

        whole = builder.and_(d, simd.int64(-4))
        a, b, c, e = simd.loop(builder, whole, 4, [simd.constant(F32, 0.0)] * 4, add)
        value = builder.fadd(builder.fadd(a, b), builder.fadd(c, e))
        [value] = simd.loop(builder, d, 1, [value], add, start=whole)
        simd.store(builder, result, simd.int64(0), value)

    return scores


def _accumulate_microkernel(bits: int) -> Any:
    @simd.llvm_function
    def accumulate(
        builder: Builder, scores: Value, values: Value, d: Value, first: Value, end: Value, result: Value
    ) -> None:
        """Add scores[j] values[j] for `first` <= j < `end` of one block and head to `result` (D padded to 16)."""

        def columns(count: int, channel: Value, _: list[Value]) -> list[Value]:
            offsets = [builder.add(channel, simd.int64(LANES * n)) for n in range(count)]
            sums = [simd.load(builder, result, builder.mul(at, simd.int64(4)), simd.vector(F32)) for at in offsets]

            def add(j: Value, sums: list[Value]) -> list[Value]:
                score = simd.splat(builder, simd.load(builder, scores, builder.mul(j, simd.int64(4)), F32))
                row = builder.mul(j, d)
                rows = [_read(builder, values, builder.add(row, at), bits) for at in offsets]
                return [simd.fma(builder, value, score, sum) for value, sum in zip(rows, sums, strict=True)]

            for at, value in zip(offsets, simd.loop(builder, end, 1, sums, add, start=first), strict=True):
                simd.store(builder, result, builder.mul(at, simd.int64(4)), value)
            return []

        whole = builder.and_(d, simd.int64(-4 * LANES))
        simd.loop(builder, whole, 4 * LANES, [], partial(columns, 4))
        simd.loop(builder, d, LANES, [], partial(columns, 1), start=whole)

    return accumulate


_scores_fp32, _scores_bf16 = _scores_microkernel(32), _scores_microkernel(16)
_accumulate_fp32, _accumulate_bf16 = _accumulate_microkernel(32), _accumulate_microkernel(16)


@njit(inline="always")
def padded(size: int) -> int:
    """`size` rounded up to a multiple of 16."""
    return -(-size // LANES) * LANES


@njit(fastmath=FAST)
def store_keys_and_values(rank: int, size: int, model: Model, step: Step, layer: int, qkv: Any) -> None:
    """Rotate and scale the queries, rotate the keys, and store keys and values in the cache."""
    H, D = model.num_heads, model.head_size
    C, half = H * D, model.rotary.shape[2]
    for item in range(rank, step.tokens.shape[0] * H, size):
        m, h = item // H, item % H
        position = step.tokens[m, 1]
        q = qkv[m, h * D : (h + 1) * D]
        k = qkv[m, C + h * D : C + (h + 1) * D]
        v = qkv[m, 2 * C + h * D : 2 * C + (h + 1) * D]
        for i in range(half):
            cosine, sine = model.rotary[0, position, i], model.rotary[1, position, i]
            q[i], q[i + half] = q[i] * cosine - q[i + half] * sine, q[i + half] * cosine + q[i] * sine
            k[i], k[i + half] = k[i] * cosine - k[i + half] * sine, k[i + half] * cosine + k[i] * sine
        for i in range(D):
            q[i] *= model.scales[layer]
        itemsize, slot = step.cache_bits // 8, position % BLOCK_SIZE
        block = step.block_tables[step.tokens[m, 2], position // BLOCK_SIZE] * H + h
        keys = step.cache_addresses[layer, 0] + itemsize * BLOCK_SIZE * D * block
        values = step.cache_addresses[layer, 1] + itemsize * padded(D) * (BLOCK_SIZE * block + slot)
        if step.cache_bits == 32:
            k32, v32 = carray(as_pointer(keys), D * BLOCK_SIZE, np.float32), carray(as_pointer(values), D, np.float32)
            for i in range(D):
                k32[i * BLOCK_SIZE + slot] = k[i]
                v32[i] = v[i]
        else:
            k16, v16 = carray(as_pointer(keys), D * BLOCK_SIZE, np.uint16), carray(as_pointer(values), D, np.uint16)
            for i in range(D):
                k16[i * BLOCK_SIZE + slot] = to_bf16(k[i])
                v16[i] = to_bf16(v[i])


# Inlined: otherwise a process that compiles calls another copy than one that loads the cache, with other rounding.
@njit(fastmath=FAST, forceinline=True)
def attend(rank: int, size: int, model: Model, step: Step, layer: int, workspace: Workspace) -> None:
    """Compute softmax attention of each token's query to the visible tokens of its sequence."""
    H, D = model.num_heads, model.head_size
    itemsize, window = step.cache_bits // 8, model.windows[layer]
    scores, result = workspace.scores[rank, padded(D) :], workspace.scores[rank, : padded(D)]
    for item in range(rank, step.tokens.shape[0] * H, size):
        m, h = item // H, item % H
        end = step.tokens[m, 1] + 1
        first = max(0, end - window) if window else 0
        start = first // BLOCK_SIZE * BLOCK_SIZE
        block_table = step.block_tables[step.tokens[m, 2]]
        q = workspace.projected[m, h * D : (h + 1) * D]
        for at in range(start, end, BLOCK_SIZE):
            block = block_table[at // BLOCK_SIZE] * H + h
            keys = step.cache_addresses[layer, 0] + itemsize * BLOCK_SIZE * D * block
            if step.cache_bits == 32:
                _scores_fp32(q.ctypes.data, keys, D, scores.ctypes.data + 4 * (at - start))
            else:
                _scores_bf16(q.ctypes.data, keys, D, scores.ctypes.data + 4 * (at - start))
        seen = scores[first - start : end - start]
        largest = seen[0]
        for i in range(seen.size):
            largest = max(largest, seen[i])
        total = np.float32(0)
        for i in range(seen.size):
            seen[i] = exp(seen[i] - largest)
            total += seen[i]
        result[:] = 0
        for at in range(start, end, BLOCK_SIZE):
            block = block_table[at // BLOCK_SIZE] * H + h
            values = step.cache_addresses[layer, 1] + itemsize * BLOCK_SIZE * padded(D) * block
            low, high = max(first - at, 0), min(end - at, BLOCK_SIZE)
            score = scores.ctypes.data + 4 * (at - start)
            if step.cache_bits == 32:
                _accumulate_fp32(score, values, padded(D), low, high, result.ctypes.data)
            else:
                _accumulate_bf16(score, values, padded(D), low, high, result.ctypes.data)
        inverse = np.float32(1) / total
        for i in range(D):
            workspace.attended[m, h * D + i] = result[i] * inverse
