"""One decode step of a decoder for a few tokens: all layers in one compiled function, run by a thread pool.

Between two barriers the threads divide one operation: norms by token, products by output, attention by token and head.
Tokens may belong to several sequences or follow each other in one. A layer stores all keys and values before its
attention starts; each token attends by its position. No sum depends on the other tokens of the step.

The equations are those of `neolm.models.decoder`. What it leaves out: dropout, padding masks, gradients.

Shapes: M tokens, C channels, H heads, D head size, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from neolm.kernels import matmul
from neolm.kernels.attention import BLOCK_SIZE, attend, padded, store_key_and_value
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import FAST, activate, as_float, from_half, layer_norm
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.simd import as_pointer
from neolm.kernels.thread_pool import barrier

QKV, OUTPUT, EXPAND, CONTRACT = range(4)  # weights of a layer, in this order


class DecoderShape(NamedTuple):
    """Hyperparameters of the decoder."""

    hidden_size: int
    num_layers: int
    num_heads: int
    head_size: int
    rotary_size: int  # 0: learned positions
    parallel_residual: bool
    activation: int
    epsilon: float
    windows: NDArray[np.int64]  # (L); 0: global
    scales: NDArray[np.float32]  # (L)


class Weights(NamedTuple):
    """Weight descriptors (`neolm.kernels.matmul`) and small parameters."""

    layers: NDArray[np.int64]  # (L x 4, 6)
    embedding: NDArray[np.int64]  # (6)
    positions: NDArray[np.int64]  # (6)
    head: NDArray[np.int64]  # (6)
    norms: NDArray[np.float32]  # (2 L + 1, 2, C), weights and biases
    rotary: NDArray[np.float32]  # (2, context, rotary size / 2), cosines and sines


class KVCacheView(NamedTuple):
    """Keys and values of the sequences."""

    addresses: NDArray[np.int64]  # (L, 2), keys and values
    bits: int  # 32: fp32; 16: bfloat16
    block_tables: NDArray[np.int64]  # (rows, blocks)


class Workspace(NamedTuple):
    """Buffers for intermediate results, one row a token."""

    hidden: NDArray[np.float32]  # (M, C)
    attention: NDArray[np.float32]  # (M, C)
    normed: NDArray[np.float32]  # (M, C)
    projected: NDArray[np.float32]  # (M, outputs of the largest product)
    attended: NDArray[np.float32]  # (M, H x D padded)
    packed: NDArray[np.uint8]  # (M, packed bytes of the widest inputs)
    scores: NDArray[np.float32]  # (threads, context + 32)


@cached_jit
def decode_step(
    rank: int,
    size: int,
    shared: Any,
    shape: DecoderShape,
    weights: Weights,
    kv_cache: KVCacheView,
    workspace: Workspace,
    tokens: Any,
    logit_indices: Any,
    logits: Any,
) -> None:
    """Run the model on `tokens` and compute the logits after those at `logit_indices`.

    Args:
        rank: Index of this thread; all other arguments are the same in each thread.
        size: Number of threads.
        shared: State of the barrier.
        shape: The decoder's hyperparameters.
        weights: The decoder's weights.
        kv_cache: Keys and values of the sequences.
        workspace: Buffers for at least M tokens.
        tokens: (M, 3): id, position and row of the block tables; the tokens of a sequence are in order.
        logit_indices: Indices into `tokens`.
        logits: (logit_indices, V padded to 16), overwritten.
    """
    M = tokens.shape[0]
    hidden, packed = workspace.hidden[:M], workspace.packed
    for m in range(rank, M, size):
        _embed(weights.embedding, tokens[m, 0], hidden[m], False)
        if shape.rotary_size == 0:
            _embed(weights.positions, tokens[m, 1], hidden[m], True)
    phase = 0
    for layer in range(shape.num_layers):
        phase = _attention_layer(rank, size, shared, phase, layer, shape, weights, kv_cache, workspace, tokens)
        if phase:
            phase = _mlp_layer(rank, size, shared, phase, layer, shape, weights, workspace, M)
        if not phase:
            return
    for i in range(rank, logit_indices.size, size):
        norm, normed = weights.norms[-1], workspace.normed[i]
        layer_norm(hidden[logit_indices[i]], norm[0], norm[1], shape.epsilon, normed)
        matmul.pack_activations(weights.head[matmul.FORMAT], normed, packed[i].ctypes.data, 0, shape.hidden_size)
    if barrier(size, shared, phase + 1):
        _product(rank, size, weights.head, logit_indices.size, packed, logits)


@njit(inline="always")
def _attention_layer(
    rank: int,
    size: int,
    shared: Any,
    phase: int,
    layer: int,
    shape: DecoderShape,
    weights: Weights,
    kv_cache: KVCacheView,
    workspace: Workspace,
    tokens: Any,
) -> int:
    """Attention of one layer, added to `hidden` (parallel: kept apart); returns the last phase or 0 (failure)."""
    M, C, projected = tokens.shape[0], shape.hidden_size, workspace.projected
    qkv, output = weights.layers[4 * layer + QKV], weights.layers[4 * layer + OUTPUT]
    hidden = workspace.hidden[:M]
    _norm(rank, size, shape, weights.norms[2 * layer], qkv[matmul.FORMAT], hidden, workspace)
    if not barrier(size, shared, phase + 1):
        return 0
    _product(rank, size, qkv, M, workspace.packed, projected)
    if not barrier(size, shared, phase + 2):
        return 0
    _store_kv(rank, size, shape, weights.rotary, kv_cache, layer, tokens, projected)
    if not barrier(size, shared, phase + 3):
        return 0
    _attention(rank, size, shape, kv_cache, layer, tokens, workspace)
    if not barrier(size, shared, phase + 4):
        return 0
    _pack_rows(rank, size, output[matmul.FORMAT], workspace.attended[:M], C, workspace.packed)
    if not barrier(size, shared, phase + 5):
        return 0
    first, end = _product(rank, size, output, M, workspace.packed, projected)
    _add(
        projected,
        workspace.attention if shape.parallel_residual else hidden,
        not shape.parallel_residual,
        M,
        first,
        end,
    )
    return phase + 6 if barrier(size, shared, phase + 6) else 0


@njit(inline="always")
def _mlp_layer(
    rank: int,
    size: int,
    shared: Any,
    phase: int,
    layer: int,
    shape: DecoderShape,
    weights: Weights,
    workspace: Workspace,
    M: int,
) -> int:
    """MLP of one layer, added to `hidden`; returns the last phase or 0 (failure)."""
    projected, hidden = workspace.projected, workspace.hidden[:M]
    expand, contract = weights.layers[4 * layer + EXPAND], weights.layers[4 * layer + CONTRACT]
    _norm(rank, size, shape, weights.norms[2 * layer + 1], expand[matmul.FORMAT], hidden, workspace)
    if not barrier(size, shared, phase + 1):
        return 0
    first, end = _product(rank, size, expand, M, workspace.packed, projected)
    for m in range(M):
        activate(shape.activation, projected[m, first:end])
    if not barrier(size, shared, phase + 2):
        return 0
    _pack_rows(rank, size, contract[matmul.FORMAT], projected[:M], contract[matmul.INPUTS], workspace.packed)
    if not barrier(size, shared, phase + 3):
        return 0
    first, end = _product(rank, size, contract, M, workspace.packed, projected)
    _add(projected, hidden, True, M, first, end)
    if shape.parallel_residual:
        _add(workspace.attention, hidden, True, M, first, end)
    return phase + 4 if barrier(size, shared, phase + 4) else 0


@njit
def _add(values: Any, target: Any, add: bool, m: int, first: int, end: int) -> None:
    """Copy columns `first` to `end` of M rows of `values` to `target`, or add them."""
    for row in range(m):
        for n in range(first, end):
            target[row, n] = values[row, n] + (target[row, n] if add else np.float32(0))


@njit(inline="always")
def _pack_rows(rank: int, size: int, kind: int, rows: Any, inputs: int, packed: Any) -> None:
    """Pack this thread's part of `rows` for weights of format `kind`: whole rows, or groups if there are few rows."""
    parts, groups = 1 if rows.shape[0] >= size else size, -(-inputs // GROUP)
    for item in range(rank, rows.shape[0] * parts, size):
        m, part = item // parts, item % parts
        first, end = groups * part // parts * GROUP, min(groups * (part + 1) // parts * GROUP, inputs)
        if first < end:
            matmul.pack_activations(kind, rows[m, :inputs], packed[m].ctypes.data, first, end)


@njit(fastmath=FAST)
def _embed(weights: Any, row: int, target: Any, add: bool) -> None:
    """Copy one row of a weight matrix of any format to `target`, or add it."""
    kind, address, k = weights[matmul.FORMAT], weights[matmul.VALUES], target.size
    if not add:
        target[:] = 0
    if kind == matmul.FP32:
        plain = carray(as_pointer(address + 4 * k * row), k, np.float32)
        for i in range(k):
            target[i] += plain[i]
    elif kind == matmul.BF16:
        short = carray(as_pointer(address + 2 * k * row), k, np.uint16)
        for i in range(k):
            target[i] += as_float(np.int32(np.uint32(short[i]) << np.uint32(16)))
    else:
        groups, bits = -(-k // GROUP), 8 if kind == matmul.INT8 else 4
        panel, r = row // PANEL, row % PANEL
        group_bytes = GROUP * PANEL * bits // 8
        values = carray(as_pointer(address + panel * groups * group_bytes), groups * group_bytes, np.uint8)
        scales = carray(as_pointer(weights[matmul.SCALES] + 2 * PANEL * groups * panel), groups * PANEL, np.uint16)
        for i in range(k):
            g, j = i // GROUP, i % GROUP
            if bits == 8:
                q = np.int32(values[g * group_bytes + j // 4 * 64 + 4 * r + j % 4]) - 128
            else:
                q = np.int32((values[g * group_bytes + j // 8 * 64 + 4 * r + j % 4] >> (4 * (j // 4 % 2))) & 15) - 8
            target[i] += np.float32(q) * from_half(scales[g * PANEL + r])


@njit(inline="always")
def _norm(rank: int, size: int, shape: DecoderShape, norm: Any, kind: int, hidden: Any, workspace: Workspace) -> None:
    """Layer norm of each token, packed for weights of format `kind`."""
    for m in range(rank, hidden.shape[0], size):
        layer_norm(hidden[m], norm[0], norm[1], shape.epsilon, workspace.normed[m])
        matmul.pack_activations(kind, workspace.normed[m], workspace.packed[m].ctypes.data, 0, shape.hidden_size)


@njit(inline="always")
def _product(rank: int, size: int, weights: Any, m: int, packed: Any, y: Any) -> tuple[int, int]:
    """Compute this thread's outputs of a product, with bias; returns (first, end)."""
    first, end = matmul.thread_outputs(weights[matmul.OUTPUTS], rank, size)
    matmul.matmul(weights, packed.ctypes.data, packed.strides[0], m, y.ctypes.data, y.strides[0], first, end)
    if weights[matmul.BIAS]:
        bias = carray(as_pointer(weights[matmul.BIAS]), weights[matmul.OUTPUTS], np.float32)
        for row in range(m):
            for n in range(first, end):
                y[row, n] += bias[n]
    return first, end


@njit(fastmath=FAST)
def _store_kv(
    rank: int, size: int, shape: DecoderShape, rotary: Any, kv_cache: KVCacheView, layer: int, tokens: Any, qkv: Any
) -> None:
    """Rotate and scale the queries, rotate the keys, and store keys and values in the cache."""
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
        itemsize = kv_cache.bits // 8
        block = kv_cache.block_tables[tokens[m, 2], position // BLOCK_SIZE]
        keys = kv_cache.addresses[layer, 0] + itemsize * BLOCK_SIZE * D * (block * H + h)
        values = kv_cache.addresses[layer, 1] + itemsize * BLOCK_SIZE * padded(D) * (block * H + h)
        store_key_and_value(k, v, keys, values, position % BLOCK_SIZE, kv_cache.bits)


@njit(fastmath=FAST)
def _attention(
    rank: int, size: int, shape: DecoderShape, kv_cache: KVCacheView, layer: int, tokens: Any, workspace: Workspace
) -> None:
    H, D = shape.num_heads, shape.head_size
    itemsize, window = kv_cache.bits // 8, shape.windows[layer]
    scores, result = workspace.scores[rank, padded(D) :], workspace.scores[rank, : padded(D)]
    for item in range(rank, tokens.shape[0] * H, size):
        m, h = item // H, item % H
        end = tokens[m, 1] + 1
        first = max(0, end - window) if window else 0
        keys = kv_cache.addresses[layer, 0] + itemsize * BLOCK_SIZE * D * h
        values = kv_cache.addresses[layer, 1] + itemsize * BLOCK_SIZE * padded(D) * h
        key_block_bytes, value_block_bytes = itemsize * BLOCK_SIZE * D * H, itemsize * BLOCK_SIZE * padded(D) * H
        q = workspace.projected[m, h * D : (h + 1) * D]
        attend(
            q,
            kv_cache.block_tables[tokens[m, 2]],
            first,
            end,
            keys,
            values,
            key_block_bytes,
            value_block_bytes,
            kv_cache.bits,
            scores,
            result,
        )
        workspace.attended[m, h * D : (h + 1) * D] = result[:D]
