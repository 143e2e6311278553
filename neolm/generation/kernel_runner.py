"""Model runner that uses compiled kernels for few tokens and torch's matrix products for many.

Spans of up to `max_decode_tokens` tokens go through `neolm.kernels.decode_step` together; no bit of their logits
depends on the other spans. A longer span, a prefill, is faster with torch's products, which reach the CPU's full speed
when there are enough rows. It is computed alone, so its logits do not depend on other spans either.

Shapes: M tokens, C channels, L layers, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neolm.generation.kv_cache import KVCache, Span
from neolm.generation.model_runner import MAX_DECODE_TOKENS, TorchRunner, block_tables_of
from neolm.kernels import decode_step, matmul
from neolm.kernels.attention import padded
from neolm.kernels.mathematics import ACTIVATIONS
from neolm.kernels.simd import FEATURES
from neolm.kernels.thread_pool import thread_pool
from neolm.models.adapters import LoraLinear
from neolm.models.attention import rotary_table
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.quantized import QuantizedEmbedding, QuantizedLinear

MAX_KERNEL_TOKENS = 64  # in one call of the kernels
_ROTARY_POSITIONS = 2**16  # with rotary tables from the start; more are computed when a text reaches them
_FORMATS = {torch.float32: matmul.FP32, torch.bfloat16: matmul.BF16}
_ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def why_not(model: Decoder) -> str | None:
    """Reason why the kernels cannot run `model`; None if they can."""
    if type(model) is not Decoder:
        return f"it is a {type(model).__name__}"
    if model.device.type != "cpu":
        return f"it is on {model.device}"
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear) and not module.merged:
            return f"{name} has a LoRA adapter"
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | nn.Embedding) and weight is not None:
            if weight.dtype not in _FORMATS:
                return f"{name} is {weight.dtype}"
            if weight.dtype == torch.bfloat16 and weight.shape[1] % 2:
                return f"{name} has an odd width"
    return None


class KernelRunner:
    """Runs the compiled kernels; it keeps the addresses of the model's weights, which must not move."""

    def __init__(self, model: Decoder, max_decode_tokens: int | None = None) -> None:
        """Collect the weights; spans of more than `max_decode_tokens` (None: `longest_decode`) go through torch."""
        assert why_not(model) is None
        self.model, self.max_decode_tokens = model, max_decode_tokens or longest_decode(model)
        self._prefill_runner = TorchRunner(model)
        self._referenced: list[Any] = []  # keeps alive what the addresses point to
        self._model = self._collect(model)
        config, M = model.config, MAX_KERNEL_TOKENS
        C, context = config.hidden_size, config.max_position_embeddings
        hidden, attention, normed, attended = np.empty((4, M, C), np.float32)
        self._workspace = decode_step.Workspace(
            hidden=hidden,
            attention=attention,
            normed=normed,
            projected=np.empty((M, padded(max(3 * C, config.mlp_size)) + 16), np.float32),
            attended=attended,
            packed=_aligned(M, matmul.packed_activation_bytes(max(C, config.mlp_size))),
            scores=np.empty((thread_pool().size, padded(context) + 32 + padded(config.head_size)), np.float32),
        )

    def run(self, kv_cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `neolm.generation.model_runner.ModelRunner`."""
        short = [span for span in spans if len(span.ids) <= self.max_decode_tokens]
        logits = self._decode(kv_cache, short) if short else torch.empty(0)
        if len(short) == len(spans):  # the common case needs no copy
            return logits
        parts = list(torch.split(logits, [span.num_logits for span in short]))
        for index, span in enumerate(spans):
            if len(span.ids) > self.max_decode_tokens:
                parts.insert(index, self._prefill_runner.run(kv_cache, [span]))
        return torch.cat(parts)

    def _decode(self, kv_cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """Call the kernels for all tokens of `spans`, some at a time."""
        tokens: list[tuple[int, int, int]] = []
        logit_indices: list[int] = []
        for row, span in enumerate(spans):
            tokens += [(token, span.start + n, row) for n, token in enumerate(span.ids)]
            logit_indices += range(len(tokens) - span.num_logits, len(tokens))
        V = self.model.config.vocab_size
        logits = np.empty((len(logit_indices), padded(V) + 16), np.float32)  # new, because callers keep it
        block_tables = block_tables_of(spans)
        self._extend_rotary(max(span.start + len(span.ids) for span in spans))
        for start in range(0, len(tokens), MAX_KERNEL_TOKENS):
            first, end = (bisect_left(logit_indices, at) for at in (start, start + MAX_KERNEL_TOKENS))
            step = decode_step.Step(
                cache_addresses=kv_cache.addresses,
                cache_bits=8 * kv_cache.dtype.itemsize,
                block_tables=block_tables,
                tokens=np.array(tokens[start : start + MAX_KERNEL_TOKENS], np.int64),
                logit_indices=np.array([index - start for index in logit_indices[first:end]], np.int64),
                logits=logits[first:end],
            )
            thread_pool().run(decode_step.decode_step, self._model, step, self._workspace)
        return torch.from_numpy(logits)[:, :V]

    def _extend_rotary(self, length: int) -> None:
        """Compute rotary tables for a text of `length` tokens: a config may claim more positions than memory holds."""
        count = self._model.rotary.shape[1]
        if self.model.positions is None and length > count:
            while count < length:
                count *= 2
            self._model = self._model._replace(rotary=_rotary(self.model.config, count))

    def _collect(self, model: Decoder) -> decode_step.Model:
        config = model.config
        layers: list[nn.Module] = []
        norms: list[nn.Module] = []
        for block in model.blocks:
            layers += [block.attention.qkv, block.attention.output, block.mlp.expand, block.mlp.contract]  # type: ignore[union-attr,list-item]
            norms += [block.attention_norm, block.mlp_norm]  # type: ignore[list-item]
        norms.append(model.norm)
        rotary = np.zeros((2, 1, 0), np.float32)
        if model.positions is None:
            rotary = _rotary(config, min(config.max_position_embeddings, _ROTARY_POSITIONS))
        embedding = model.embedding.head if isinstance(model.embedding, QuantizedEmbedding) else model.embedding
        return decode_step.Model(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            head_size=config.head_size,
            parallel_residual=config.parallel_residual,
            activation=ACTIVATIONS.index(_ALIASES.get(config.activation, config.activation)),
            epsilon=config.norm_epsilon,
            windows=np.array([config.window(layer) or 0 for layer in range(config.num_layers)], np.int64),
            scales=np.array([config.scale(layer) for layer in range(config.num_layers)], np.float32),
            layers=np.array([self._descriptor(layer) for layer in layers], np.int64),
            embedding=np.array(self._descriptor(embedding), np.int64),
            positions=np.array(self._descriptor(model.positions) if model.positions is not None else [0] * 6, np.int64),
            head=np.array(self._descriptor(model.head), np.int64),
            norms=np.array([[_fp32(norm.weight), _fp32(norm.bias)] for norm in norms]),
            rotary=rotary,
        )

    def _descriptor(self, layer: nn.Module) -> list[int]:
        """The layer's weights as `neolm.kernels.matmul` describes them."""
        bias = getattr(layer, "bias", None)
        bias = None if bias is None else _fp32(bias)
        self._referenced += [layer, bias]
        address = 0 if bias is None else bias.ctypes.data
        if isinstance(layer, QuantizedLinear):
            return layer.table_row(address).tolist()  # type: ignore[no-any-return]
        weight = layer.weight
        assert isinstance(weight, Tensor) and weight.is_contiguous()
        self._referenced.append(weight)
        return [_FORMATS[weight.dtype], weight.data_ptr(), 0, address, *weight.shape]


def longest_decode(model: Decoder) -> int:
    """Number of tokens up to which the kernels are faster than torch (measured: docs/log.md).

    Torch has to dequantise packed weights first, which takes as long as 128 tokens in the kernels; AMX makes up for it.
    The rule depends on the model and the CPU only: a measurement at each start could choose differently, and the two
    paths differ in the last bit, so that the same seed could give another text.
    """
    return 128 if model.quantized and "amx-bf16" not in FEATURES else MAX_DECODE_TOKENS


def _rotary(config: DecoderConfig, count: int) -> NDArray[np.float32]:
    """Cosines and sines of the first `count` positions, (2, count, rotary size / 2)."""
    tables = rotary_table(torch.arange(count), config.rotary_size, config.rotary_base, torch.float32)
    return np.stack([table.chunk(2, dim=-1)[0].numpy() for table in tables])


def _fp32(tensor: Any) -> NDArray[np.float32]:
    return tensor.detach().float().numpy().copy()  # type: ignore[no-any-return]


def _aligned(rows: int, size: int) -> NDArray[np.uint8]:
    """Allocate rows of `size` bytes, a multiple of 64, aligned to cache lines."""
    memory = np.empty(rows * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + rows * size].reshape(rows, size)
