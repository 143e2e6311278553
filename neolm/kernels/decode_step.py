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
from neolm.kernels.attention import attend, store_keys_and_values
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import FAST, activate, as_float, from_half, layer_norm
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.simd import as_pointer
from neolm.kernels.thread_pool import barrier

QKV, OUTPUT, EXPAND, CONTRACT = range(4)  # weights of a layer, in this order


class Model(NamedTuple):
    """Hyperparameters, weight descriptors (`neolm.kernels.matmul`) and small parameters of a decoder."""

    hidden_size: int
    num_heads: int
    head_size: int
    parallel_residual: bool
    activation: int
    epsilon: float
    windows: NDArray[np.int64]  # (L); 0: global
    scales: NDArray[np.float32]  # (L)
    layers: NDArray[np.int64]  # (L x 4, 6)
    embedding: NDArray[np.int64]  # (6)
    positions: NDArray[np.int64]  # (6); unused with rotary positions
    head: NDArray[np.int64]  # (6)
    norms: NDArray[np.float32]  # (2 L + 1, 2, C), weights and biases
    rotary: NDArray[np.float32]  # (2, context, rotary size / 2), cosines and sines; rotary size 0: learned positions


class Step(NamedTuple):
    """The tokens of one step and the KV cache of their sequences."""

    cache_addresses: NDArray[np.int64]  # (L, 2), keys and values
    cache_bits: int  # 32: fp32; 16: bfloat16
    block_tables: NDArray[np.int64]  # (rows, blocks)
    tokens: NDArray[np.int64]  # (M, 3): id, position and row of the block tables; tokens of a sequence are in order
    logit_indices: NDArray[np.int64]  # of the tokens after which logits are computed
    logits: NDArray[np.float32]  # (logit_indices, V padded to 16), overwritten


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
def decode_step(rank: int, size: int, shared: Any, model: Model, step: Step, workspace: Workspace) -> None:
    """Run the model on the tokens of `step` and compute its logits; `workspace` holds at least M rows."""
    M = step.tokens.shape[0]
    hidden, packed = workspace.hidden[:M], workspace.packed
    for m in range(rank, M, size):
        _embed(model.embedding, step.tokens[m, 0], hidden[m], False)
        if model.rotary.shape[2] == 0:
            _embed(model.positions, step.tokens[m, 1], hidden[m], True)
    for layer in range(model.windows.size):
        _attention_layer(rank, size, shared, layer, model, step, workspace)
        _mlp_layer(rank, size, shared, layer, model, workspace, M)
    for i in range(rank, step.logit_indices.size, size):
        norm, normed = model.norms[-1], workspace.normed[i]
        layer_norm(hidden[step.logit_indices[i]], norm[0], norm[1], model.epsilon, normed)
        matmul.pack_activations(model.head[matmul.FORMAT], normed, packed[i].ctypes.data, 0, model.hidden_size)
    barrier(size, shared)
    matmul.product(rank, size, model.head, step.logit_indices.size, packed, step.logits)


@njit(inline="always")
def _attention_layer(
    rank: int, size: int, shared: Any, layer: int, model: Model, step: Step, workspace: Workspace
) -> None:
    """Attention of one layer, added to `hidden` (parallel: kept apart)."""
    M, C, projected = step.tokens.shape[0], model.hidden_size, workspace.projected
    qkv, output = model.layers[4 * layer + QKV], model.layers[4 * layer + OUTPUT]
    hidden = workspace.hidden[:M]
    _norm(rank, size, model, model.norms[2 * layer], qkv[matmul.FORMAT], hidden, workspace)
    barrier(size, shared)
    matmul.product(rank, size, qkv, M, workspace.packed, projected)
    barrier(size, shared)
    store_keys_and_values(rank, size, model, step, layer, projected)
    barrier(size, shared)
    attend(rank, size, model, step, layer, workspace)
    barrier(size, shared)
    _pack_rows(rank, size, output[matmul.FORMAT], workspace.attended[:M], C, workspace.packed)
    barrier(size, shared)
    first, end = matmul.product(rank, size, output, M, workspace.packed, projected)
    target = workspace.attention if model.parallel_residual else hidden
    _add(projected, target, not model.parallel_residual, M, first, end)
    barrier(size, shared)


@njit(inline="always")
def _mlp_layer(rank: int, size: int, shared: Any, layer: int, model: Model, workspace: Workspace, M: int) -> None:
    """MLP of one layer, added to `hidden`."""
    projected, hidden = workspace.projected, workspace.hidden[:M]
    expand, contract = model.layers[4 * layer + EXPAND], model.layers[4 * layer + CONTRACT]
    _norm(rank, size, model, model.norms[2 * layer + 1], expand[matmul.FORMAT], hidden, workspace)
    barrier(size, shared)
    first, end = matmul.product(rank, size, expand, M, workspace.packed, projected)
    for m in range(M):
        activate(model.activation, projected[m, first:end])
    barrier(size, shared)
    _pack_rows(rank, size, contract[matmul.FORMAT], projected[:M], contract[matmul.INPUTS], workspace.packed)
    barrier(size, shared)
    first, end = matmul.product(rank, size, contract, M, workspace.packed, projected)
    _add(projected, hidden, True, M, first, end)
    if model.parallel_residual:
        _add(workspace.attention, hidden, True, M, first, end)
    barrier(size, shared)


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
def _norm(rank: int, size: int, model: Model, norm: Any, kind: int, hidden: Any, workspace: Workspace) -> None:
    """Layer norm of each token, packed for weights of format `kind`."""
    for m in range(rank, hidden.shape[0], size):
        layer_norm(hidden[m], norm[0], norm[1], model.epsilon, workspace.normed[m])
        matmul.pack_activations(kind, workspace.normed[m], workspace.packed[m].ctypes.data, 0, model.hidden_size)
