"""One query's attention to the keys of its text, which lie in pages (Kwon et al. 2023, section 4.1).

A page holds 16 tokens of one layer. Keys lie channel by channel (H, D, 16), so that 16 scores come from D vector
products without a sum across lanes; values token by token (H, 16, P), where P is D padded to 16. Both are fp32 or
bfloat16; sums are fp32. Only slots that hold a token are read into the result.

Shapes: H heads, D head size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from neolm.kernels.lanes import (
    F32,
    LANES,
    Builder,
    Value,
    as_pointer,
    constant,
    emitted,
    lanes,
    load,
    loop,
    multiply_add,
    number,
    splat,
    store,
    widen_bf16,
)
from neolm.kernels.mathematics import FAST, exp, to_bf16

BLOCK_SIZE = LANES  # tokens


def _read(builder: Builder, address: Value, index: Value, bits: int) -> Value:
    """16 numbers from the `index`th of an array."""
    offset = builder.mul(index, number(bits // 8))
    return load(builder, address, offset, lanes(F32)) if bits == 32 else widen_bf16(builder, address, offset)


def _scores_tile(bits: int) -> Any:
    @emitted
    def scores(builder: Builder, q: Value, keys: Value, d: Value, result: Value) -> None:
        """The products of q (D, fp32) with the 16 keys of a page and head."""

        def add(channel: Value, sums: list[Value]) -> list[Value]:
            new = []
            for n, value in enumerate(sums):
                one = builder.add(channel, number(n))
                key = _read(builder, keys, builder.mul(one, number(BLOCK_SIZE)), bits)
                query = splat(builder, load(builder, q, builder.mul(one, number(4)), F32))
                new.append(multiply_add(builder, key, query, value))
            return new

        whole = builder.and_(d, number(-4))
        a, b, c, e = loop(builder, whole, 4, [constant(F32, 0.0)] * 4, add)
        value = builder.fadd(builder.fadd(a, b), builder.fadd(c, e))
        [value] = loop(builder, d, 1, [value], add, start=whole)
        store(builder, result, number(0), value)

    return scores


def _weigh_tile(bits: int) -> Any:
    @emitted
    def weigh(
        builder: Builder, shares: Value, values: Value, d: Value, first: Value, end: Value, result: Value
    ) -> None:
        """Result (D padded to 16) += shares[j] values[j] for `first` <= j < `end` of a page and head."""

        def columns(count: int) -> Any:
            def run(channel: Value, _: list[Value]) -> list[Value]:
                offsets = [builder.add(channel, number(LANES * n)) for n in range(count)]
                sums = [load(builder, result, builder.mul(at, number(4)), lanes(F32)) for at in offsets]

                def add(j: Value, sums: list[Value]) -> list[Value]:
                    share = splat(builder, load(builder, shares, builder.mul(j, number(4)), F32))
                    row = builder.mul(j, d)
                    return [
                        multiply_add(builder, _read(builder, values, builder.add(row, at), bits), share, value)
                        for at, value in zip(offsets, sums, strict=True)
                    ]

                for at, value in zip(offsets, loop(builder, end, 1, sums, add, start=first), strict=True):
                    store(builder, result, builder.mul(at, number(4)), value)
                return []

            return run

        whole = builder.and_(d, number(-4 * LANES))
        loop(builder, whole, 4 * LANES, [], columns(4))
        loop(builder, d, LANES, [], columns(1), start=whole)

    return weigh


_scores_fp32, _scores_bf16 = _scores_tile(32), _scores_tile(16)
_weigh_fp32, _weigh_bf16 = _weigh_tile(32), _weigh_tile(16)


@njit(inline="always")
def padded(size: int) -> int:
    """Channels of a value in a page."""
    return -(-size // LANES) * LANES


@njit(fastmath=FAST)
def store_key_and_value(key: Any, value: Any, keys: int, values: int, slot: int, bits: int) -> None:
    """Put a token's key and value (D) of one head into `slot` of the page and head at these addresses."""
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


@njit(fastmath=FAST)
def attend(
    q: Any,
    table: Any,
    first: int,
    end: int,
    keys: int,
    values: int,
    page_bytes: int,
    value_bytes: int,
    bits: int,
    shares: Any,
    result: Any,
) -> None:
    """Softmax attention of one scaled query to the tokens `first` to `end` of its text.

    Args:
        q: (D).
        table: The numbers of the text's pages.
        first: The first token that it sees.
        end: One more than the last one.
        keys: Address of the head's keys in page 0.
        values: Address of its values there.
        page_bytes: From one page's keys to the next one's.
        value_bytes: The same for values.
        bits: Of a number in the pages.
        shares: Room for a number a token, and 32 more.
        result: (D padded to 16), overwritten.
    """
    d, start = q.size, first // BLOCK_SIZE * BLOCK_SIZE
    for at in range(start, end, BLOCK_SIZE):
        address = keys + table[at // BLOCK_SIZE] * page_bytes
        if bits == 32:
            _scores_fp32(q.ctypes.data, address, d, shares.ctypes.data + 4 * (at - start))
        else:
            _scores_bf16(q.ctypes.data, address, d, shares.ctypes.data + 4 * (at - start))
    seen = shares[first - start : end - start]
    largest = seen[0]
    for i in range(seen.size):
        largest = max(largest, seen[i])
    total = np.float32(0)
    for i in range(seen.size):
        seen[i] = exp(seen[i] - largest)
        total += seen[i]
    result[:] = 0
    for at in range(start, end, BLOCK_SIZE):
        address = values + table[at // BLOCK_SIZE] * value_bytes
        low, high = max(first - at, 0), min(end - at, BLOCK_SIZE)
        share = shares.ctypes.data + 4 * (at - start)
        if bits == 32:
            _weigh_fp32(share, address, padded(d), low, high, result.ctypes.data)
        else:
            _weigh_bf16(share, address, padded(d), low, high, result.ctypes.data)
    inverse = np.float32(1) / total
    for i in range(d):
        result[i] *= inverse
