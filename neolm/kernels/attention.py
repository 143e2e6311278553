"""Attention of one query to the keys of its sequence in KV cache blocks (Kwon et al. 2023, section 4.1).

A block holds 16 tokens of one layer. Keys are stored by channel (H, D, 16), so that 16 scores take D vector products
without a horizontal sum; values are stored by token (H, 16, P), where P is D padded to 16. Both are fp32 or bfloat16;
sums are fp32. Slots without a token do not affect the result.

Shapes: H heads, D head size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from neolm.kernels import simd
from neolm.kernels.mathematics import FAST, exp, to_bf16
from neolm.kernels.simd import F32, LANES, Builder, Value, as_pointer

BLOCK_SIZE = LANES  # tokens in a KV cache block


def _read(builder: Builder, address: Value, index: Value, bits: int) -> Value:
    """Load 16 numbers of an array, from `index` on, as fp32."""
    offset = builder.mul(index, simd.int64(bits // 8))
    return (
        simd.load(builder, address, offset, simd.vector(F32))
        if bits == 32
        else simd.widen_bf16(builder, address, offset)
    )


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

        def columns(count: int) -> Any:
            def run(channel: Value, _: list[Value]) -> list[Value]:
                offsets = [builder.add(channel, simd.int64(LANES * n)) for n in range(count)]
                sums = [simd.load(builder, result, builder.mul(at, simd.int64(4)), simd.vector(F32)) for at in offsets]

                def add(j: Value, sums: list[Value]) -> list[Value]:
                    score = simd.splat(builder, simd.load(builder, scores, builder.mul(j, simd.int64(4)), F32))
                    row = builder.mul(j, d)
                    return [
                        simd.fma(builder, _read(builder, values, builder.add(row, at), bits), score, value)
                        for at, value in zip(offsets, sums, strict=True)
                    ]

                for at, value in zip(offsets, simd.loop(builder, end, 1, sums, add, start=first), strict=True):
                    simd.store(builder, result, builder.mul(at, simd.int64(4)), value)
                return []

            return run

        whole = builder.and_(d, simd.int64(-4 * LANES))
        simd.loop(builder, whole, 4 * LANES, [], columns(4))
        simd.loop(builder, d, LANES, [], columns(1), start=whole)

    return accumulate


_scores_fp32, _scores_bf16 = _scores_microkernel(32), _scores_microkernel(16)
_accumulate_fp32, _accumulate_bf16 = _accumulate_microkernel(32), _accumulate_microkernel(16)


@njit(inline="always")
def padded(size: int) -> int:
    """`size` rounded up to a multiple of 16."""
    return -(-size // LANES) * LANES


@njit(fastmath=FAST)
def store_key_and_value(key: Any, value: Any, keys: int, values: int, slot: int, bits: int) -> None:
    """Store a token's key and value (D) in `slot` of one block and head, at these addresses."""
    d = key.size
    if bits == 32:
        k32 = carray(as_pointer(keys), d * BLOCK_SIZE, np.float32)
        v32 = carray(as_pointer(values + 4 * slot * padded(d)), d, np.float32)
        for i in range(d):
            k32[i * BLOCK_SIZE + slot] = key[i]
            v32[i] = value[i]
    else:
        k16 = carray(as_pointer(keys), d * BLOCK_SIZE, np.uint16)
        v16 = carray(as_pointer(values + 2 * slot * padded(d)), d, np.uint16)
        for i in range(d):
            k16[i * BLOCK_SIZE + slot] = to_bf16(key[i])
            v16[i] = to_bf16(value[i])


# Inlined: otherwise a process that compiles calls another copy than one that loads the cache, with other rounding.
@njit(fastmath=FAST, forceinline=True)
def attend(
    q: Any,
    block_table: Any,
    first: int,
    end: int,
    keys: int,
    values: int,
    key_block_bytes: int,
    value_block_bytes: int,
    bits: int,
    scores: Any,
    result: Any,
) -> None:
    """Compute softmax attention of one scaled query to the tokens `first` to `end` of its sequence.

    Args:
        q: (D).
        block_table: Block numbers of the sequence.
        first: First visible token.
        end: One more than the last visible token.
        keys: Address of the head's keys in block 0.
        values: Address of the head's values in block 0.
        key_block_bytes: Bytes from one block's keys to the next block's.
        value_block_bytes: Bytes from one block's values to the next block's.
        bits: Bits of a number in the cache, 32 (fp32) or 16 (bfloat16).
        scores: Workspace of one fp32 number a token, and 32 more.
        result: (D padded to 16), overwritten.
    """
    d, start = q.size, first // BLOCK_SIZE * BLOCK_SIZE
    for at in range(start, end, BLOCK_SIZE):
        address = keys + block_table[at // BLOCK_SIZE] * key_block_bytes
        if bits == 32:
            _scores_fp32(q.ctypes.data, address, d, scores.ctypes.data + 4 * (at - start))
        else:
            _scores_bf16(q.ctypes.data, address, d, scores.ctypes.data + 4 * (at - start))
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
        address = values + block_table[at // BLOCK_SIZE] * value_block_bytes
        low, high = max(first - at, 0), min(end - at, BLOCK_SIZE)
        score = scores.ctypes.data + 4 * (at - start)
        if bits == 32:
            _accumulate_fp32(score, address, padded(d), low, high, result.ctypes.data)
        else:
            _accumulate_bf16(score, address, padded(d), low, high, result.ctypes.data)
    inverse = np.float32(1) / total
    for i in range(d):
        result[i] *= inverse
