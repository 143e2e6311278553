"""A decoder reads a few tokens: all layers in one compiled function that a team of threads runs together.

Between two barriers each thread does its share of one thing: norms by token, products by output, attention by token
and head. Tokens may belong to several texts, or be neighbours in one; each goes into its text's pages before any of
the layer's attention runs, and sees what its position lets it see. No sum depends on which other tokens are read.

The equations are those of `neolm.models.decoder`. What it leaves out: dropout, padding masks, gradients.

Shapes: M tokens, C channels, H heads, D head size, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from neolm.kernels.attention import BLOCK_SIZE, attend, padded, store_key_and_value
from neolm.kernels.compiled import compiled
from neolm.kernels.lanes import as_pointer
from neolm.kernels.mathematics import FAST, activate, as_float, from_half, layer_norm
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.products import (
    BF16,
    BIAS,
    FORMAT,
    FP32,
    INPUTS,
    INT8,
    OUTPUTS,
    SCALES,
    VALUES,
    multiply,
    prepare,
    share,
)
from neolm.kernels.team import meet

QKV, OUTPUT, EXPAND, CONTRACT = range(4)  # the weights of a block, in this order


class Shape(NamedTuple):
    """What a decoder's computation depends on besides its weights."""

    hidden_size: int
    num_layers: int
    num_heads: int
    head_size: int
    rotary_size: int  # 0: positions are learned
    parallel_residual: bool
    activation: int
    epsilon: float
    windows: NDArray[np.int64]  # (L); 0: global
    scales: NDArray[np.float32]  # (L)


class Weights(NamedTuple):
    """Addresses and small parameters."""

    blocks: NDArray[np.int64]  # (L x 4, 6), as `products` says
    embedding: NDArray[np.int64]  # (6)
    positions: NDArray[np.int64]  # (6)
    head: NDArray[np.int64]  # (6)
    norms: NDArray[np.float32]  # (2 L + 1, 2, C), weights and biases
    rotary: NDArray[np.float32]  # (2, context, rotary size / 2), cosines and sines


class Pages(NamedTuple):
    """Where keys and values lie."""

    addresses: NDArray[np.int64]  # (L, 2), of keys and values
    bits: int  # 32: fp32; 16: bfloat16


class Space(NamedTuple):
    """Room for what is computed, by token; rows of fp32."""

    stream: NDArray[np.float32]  # (M, C)
    branch: NDArray[np.float32]  # (M, C)
    normed: NDArray[np.float32]  # (M, C)
    wide: NDArray[np.float32]  # (M, the largest product's outputs)
    attended: NDArray[np.float32]  # (M, H x D padded)
    prepared: NDArray[np.uint8]  # (M, prepared bytes of the widest inputs)
    shares: NDArray[np.float32]  # (threads, context + 32)


@compiled
def read_tokens(
    rank: int,
    size: int,
    shared: Any,
    shape: Shape,
    weights: Weights,
    pages: Pages,
    space: Space,
    tokens: Any,
    tables: Any,
    wanted: Any,
    logits: Any,
) -> None:
    """Read `tokens` and give the logits of those that follow the `wanted` ones of them.

    Args:
        rank: As all that follow, the same in each of the `size` threads but for this.
        size: Threads.
        shared: The team's words.
        shape: The decoder's shape.
        weights: Its weights.
        pages: Where its keys and values lie.
        space: For at least as many tokens.
        tokens: (M, 3): id, position, number of its text's row in `tables`. A text's tokens come in order.
        tables: (rows, pages): the page that holds each 16 positions of a text.
        wanted: Indices into `tokens`.
        logits: (wanted, V padded to 16), overwritten.
    """
    M = tokens.shape[0]
    stream, prepared = space.stream[:M], space.prepared
    for m in range(rank, M, size):
        _read_row(weights.embedding, tokens[m, 0], stream[m], False)
        if shape.rotary_size == 0:
            _read_row(weights.positions, tokens[m, 1], stream[m], True)
    turn = 0
    for layer in range(shape.num_layers):
        turn = _attend(rank, size, shared, turn, layer, shape, weights, pages, space, tokens, tables)
        if turn:
            turn = _transform(rank, size, shared, turn, layer, shape, weights, space, M)
        if not turn:
            return
    for i in range(rank, wanted.size, size):
        layer_norm(stream[wanted[i]], weights.norms[-1, 0], weights.norms[-1, 1], shape.epsilon, space.normed[i])
        prepare(weights.head[FORMAT], space.normed[i], prepared[i].ctypes.data, 0, shape.hidden_size)
    if meet(size, shared, turn + 1):
        _product(rank, size, weights.head, wanted.size, prepared, logits)


@njit(inline="always")
def _attend(
    rank: int,
    size: int,
    shared: Any,
    turn: int,
    layer: int,
    shape: Shape,
    weights: Weights,
    pages: Pages,
    space: Space,
    tokens: Any,
    tables: Any,
) -> int:
    """Attention of one block, added to the stream (parallel: put aside); returns the last turn, 0 if one broke off."""
    M, C, wide = tokens.shape[0], shape.hidden_size, space.wide
    qkv, output = weights.blocks[4 * layer + QKV], weights.blocks[4 * layer + OUTPUT]
    stream = space.stream[:M]
    _norm(rank, size, shape, weights.norms[2 * layer], qkv[FORMAT], stream, space)
    if not meet(size, shared, turn + 1):
        return 0
    _product(rank, size, qkv, M, space.prepared, wide)
    if not meet(size, shared, turn + 2):
        return 0
    _remember(rank, size, shape, weights.rotary, pages, layer, tokens, tables, wide)
    if not meet(size, shared, turn + 3):
        return 0
    _attention(rank, size, shape, pages, layer, tokens, tables, space)
    if not meet(size, shared, turn + 4):
        return 0
    _prepare_rows(rank, size, output[FORMAT], space.attended[:M], C, space.prepared)
    if not meet(size, shared, turn + 5):
        return 0
    first, end = _product(rank, size, output, M, space.prepared, wide)
    _add(wide, space.branch if shape.parallel_residual else stream, not shape.parallel_residual, M, first, end)
    return turn + 6 if meet(size, shared, turn + 6) else 0


@njit(inline="always")
def _transform(
    rank: int,
    size: int,
    shared: Any,
    turn: int,
    layer: int,
    shape: Shape,
    weights: Weights,
    space: Space,
    M: int,
) -> int:
    """The MLP of one block, added to the stream; returns the last turn, 0 if one broke off."""
    wide, stream = space.wide, space.stream[:M]
    expand, contract = weights.blocks[4 * layer + EXPAND], weights.blocks[4 * layer + CONTRACT]
    _norm(rank, size, shape, weights.norms[2 * layer + 1], expand[FORMAT], stream, space)
    if not meet(size, shared, turn + 1):
        return 0
    first, end = _product(rank, size, expand, M, space.prepared, wide)
    for m in range(M):
        activate(shape.activation, wide[m, first:end])
    if not meet(size, shared, turn + 2):
        return 0
    _prepare_rows(rank, size, contract[FORMAT], wide[:M], contract[INPUTS], space.prepared)
    if not meet(size, shared, turn + 3):
        return 0
    first, end = _product(rank, size, contract, M, space.prepared, wide)
    _add(wide, stream, True, M, first, end)
    if shape.parallel_residual:
        _add(space.branch, stream, True, M, first, end)
    return turn + 4 if meet(size, shared, turn + 4) else 0


@njit
def _add(values: Any, target: Any, add: bool, m: int, first: int, end: int) -> None:
    """Columns `first` to `end` of M rows of `values` into `target`, or added to it."""
    for row in range(m):
        for n in range(first, end):
            target[row, n] = values[row, n] + (target[row, n] if add else np.float32(0))


@njit(inline="always")
def _prepare_rows(rank: int, size: int, kind: int, rows: Any, inputs: int, prepared: Any) -> None:
    """This thread's share of `rows`, prepared for weights of format `kind`: whole rows, or groups if rows are few."""
    parts, groups = 1 if rows.shape[0] >= size else size, -(-inputs // GROUP)
    for item in range(rank, rows.shape[0] * parts, size):
        m, part = item // parts, item % parts
        first, end = groups * part // parts * GROUP, min(groups * (part + 1) // parts * GROUP, inputs)
        if first < end:
            prepare(kind, rows[m, :inputs], prepared[m].ctypes.data, first, end)


@njit(fastmath=FAST)
def _read_row(weights: Any, row: int, target: Any, add: bool) -> None:
    """One row of a matrix of any format, into `target` or added to it."""
    kind, address, k = weights[FORMAT], weights[VALUES], target.size
    if not add:
        target[:] = 0
    if kind == FP32:
        plain = carray(as_pointer(address + 4 * k * row), k, np.float32)
        for i in range(k):
            target[i] += plain[i]
    elif kind == BF16:
        short = carray(as_pointer(address + 2 * k * row), k, np.uint16)
        for i in range(k):
            target[i] += as_float(np.int32(np.uint32(short[i]) << np.uint32(16)))
    else:
        groups, bits = -(-k // GROUP), 8 if kind == INT8 else 4
        block, r = row // PANEL, row % PANEL
        piece = GROUP * PANEL * bits // 8
        values = carray(as_pointer(address + block * groups * piece), groups * piece, np.uint8)
        scales = carray(as_pointer(weights[SCALES] + 2 * PANEL * groups * block), groups * PANEL, np.uint16)
        for i in range(k):
            g, j = i // GROUP, i % GROUP
            if bits == 8:
                q = np.int32(values[g * piece + j // 4 * 64 + 4 * r + j % 4]) - 128
            else:
                q = np.int32((values[g * piece + j // 8 * 64 + 4 * r + j % 4] >> (4 * (j // 4 % 2))) & 15) - 8
            target[i] += np.float32(q) * from_half(scales[g * PANEL + r])


@njit(inline="always")
def _norm(rank: int, size: int, shape: Shape, norm: Any, kind: int, stream: Any, space: Space) -> None:
    """The norm of each token, prepared for weights of format `kind`."""
    for m in range(rank, stream.shape[0], size):
        layer_norm(stream[m], norm[0], norm[1], shape.epsilon, space.normed[m])
        prepare(kind, space.normed[m], space.prepared[m].ctypes.data, 0, shape.hidden_size)


@njit(inline="always")
def _product(rank: int, size: int, weights: Any, m: int, prepared: Any, y: Any) -> tuple[int, int]:
    """This thread's outputs of the product, with bias; returns from where to where they go."""
    first, end = share(weights[OUTPUTS], rank, size)
    multiply(weights, prepared.ctypes.data, prepared.strides[0], m, y.ctypes.data, y.strides[0], first, end)
    if weights[BIAS]:
        bias = carray(as_pointer(weights[BIAS]), weights[OUTPUTS], np.float32)
        for row in range(m):
            for n in range(first, end):
                y[row, n] += bias[n]
    return first, end


@njit(fastmath=FAST)
def _remember(
    rank: int, size: int, shape: Shape, rotary: Any, pages: Pages, layer: int, tokens: Any, tables: Any, qkv: Any
) -> None:
    """Turn and scale the queries, turn the keys, and put keys and values into the pages."""
    H, D = shape.num_heads, shape.head_size
    C, half = H * D, rotary.shape[2]
    for item in range(rank, tokens.shape[0] * H, size):
        m, h = item // H, item % H
        position = tokens[m, 1]
        q = qkv[m, h * D : (h + 1) * D]
        k = qkv[m, C + h * D : C + (h + 1) * D]
        v = qkv[m, 2 * C + h * D : 2 * C + (h + 1) * D]
        for i in range(half):
            cosine, sine = rotary[0, position, i], rotary[1, position, i]
            q[i], q[i + half] = q[i] * cosine - q[i + half] * sine, q[i + half] * cosine + q[i] * sine
            k[i], k[i + half] = k[i] * cosine - k[i + half] * sine, k[i + half] * cosine + k[i] * sine
        for i in range(D):
            q[i] *= shape.scales[layer]
        number = pages.bits // 8
        page = tables[tokens[m, 2], position // BLOCK_SIZE]
        keys = pages.addresses[layer, 0] + number * BLOCK_SIZE * D * (page * H + h)
        values = pages.addresses[layer, 1] + number * BLOCK_SIZE * padded(D) * (page * H + h)
        store_key_and_value(k, v, keys, values, position % BLOCK_SIZE, pages.bits)


@njit(fastmath=FAST)
def _attention(
    rank: int, size: int, shape: Shape, pages: Pages, layer: int, tokens: Any, tables: Any, space: Space
) -> None:
    H, D = shape.num_heads, shape.head_size
    number, window = pages.bits // 8, shape.windows[layer]
    shares, result = space.shares[rank, padded(D) :], space.shares[rank, : padded(D)]
    for item in range(rank, tokens.shape[0] * H, size):
        m, h = item // H, item % H
        end = tokens[m, 1] + 1
        first = max(0, end - window) if window else 0
        keys = pages.addresses[layer, 0] + number * BLOCK_SIZE * D * h
        values = pages.addresses[layer, 1] + number * BLOCK_SIZE * padded(D) * h
        page_bytes, value_bytes = number * BLOCK_SIZE * D * H, number * BLOCK_SIZE * padded(D) * H
        q = space.wide[m, h * D : (h + 1) * D]
        attend(q, tables[tokens[m, 2]], first, end, keys, values, page_bytes, value_bytes, pages.bits, shares, result)
        space.attended[m, h * D : (h + 1) * D] = result[:D]
