"""A model that reads few tokens through the compiled kernels, and many through torch's matrix products.

Spans of up to `max_decode_tokens` tokens go through `neolm.kernels.step` together; no bit of their logits depends on
the others. A longer one, a prompt, is worth torch's products, which run at the processor's full speed when they have
enough rows; it is read alone, so that it too gets what it gets alone.

Shapes: M tokens, C channels, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neolm.generation.kv_cache import KVCache, Span, blocks_for
from neolm.generation.model_runner import MAX_DECODE_TOKENS, TorchRunner
from neolm.kernels import products, step
from neolm.kernels.attention import padded
from neolm.kernels.lanes import FEATURES
from neolm.kernels.mathematics import ACTIVATIONS
from neolm.kernels.team import team
from neolm.models.attention import rotary_table
from neolm.models.decoder import Decoder
from neolm.models.quantized import QuantizedEmbedding, QuantizedLinear

MAX_KERNEL_TOKENS = 64  # tokens in one step of the kernels
_KINDS = {torch.float32: products.FP32, torch.bfloat16: products.BF16}
_ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def why_not(model: Decoder) -> str | None:
    """The reason why the kernels cannot run `model`; None: they can."""
    if type(model) is not Decoder:
        return f"it is a {type(model).__name__}"
    if model.device.type != "cpu":
        return f"it is on {model.device}"
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | nn.Embedding) and weight is not None:
            if weight.dtype not in _KINDS:
                return f"{name} is {weight.dtype}"
            if weight.dtype == torch.bfloat16 and weight.shape[1] % 2:
                return f"{name} has an odd width"
    return None


class KernelRunner:
    """Reads with compiled kernels; keeps addresses of the model's weights, which must stay where they are."""

    def __init__(self, model: Decoder, max_decode_tokens: int | None = None) -> None:
        """Take the model; `max_decode_tokens` None: `longest_decode`."""
        assert why_not(model) is None
        self.model, self.max_decode_tokens = model, max_decode_tokens or longest_decode(model)
        self._torch = TorchRunner(model)
        self._kept: list[Any] = []  # what the addresses point to
        self._shape, self._weights = _shape(model), self._collect(model)
        C = model.config.hidden_size
        widest = max(3 * C, model.config.mlp_size)
        context = model.config.max_position_embeddings
        self._space = step.Space(
            stream=np.empty((MAX_KERNEL_TOKENS, C), np.float32),
            branch=np.empty((MAX_KERNEL_TOKENS, C), np.float32),
            normed=np.empty((MAX_KERNEL_TOKENS, C), np.float32),
            wide=np.empty((MAX_KERNEL_TOKENS, padded(widest) + 16), np.float32),
            attended=np.empty((MAX_KERNEL_TOKENS, C), np.float32),
            prepared=_aligned(MAX_KERNEL_TOKENS, products.prepared_bytes(max(C, model.config.mlp_size))),
            shares=np.empty((team().size, padded(context) + 32 + padded(model.config.head_size)), np.float32),
        )

    def run(self, pages: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `neolm.generation.model_runner.ModelRunner`."""
        results: list[Tensor | None] = [None] * len(spans)
        together: list[int] = []
        room = MAX_KERNEL_TOKENS
        for number, span in enumerate(spans):
            if len(span.ids) > self.max_decode_tokens:
                results[number] = self._torch.run(pages, [span])
                continue
            if len(span.ids) > MAX_KERNEL_TOKENS:
                results[number] = self._read_in_parts(pages, span)
                continue
            if len(span.ids) > room:
                self._read_few(pages, spans, together, results)
                together, room = [], MAX_KERNEL_TOKENS
            together.append(number)
            room -= len(span.ids)
        if together and len(together) == len(spans):  # no copy in the usual case
            return self._step(pages, spans)
        if together:
            self._read_few(pages, spans, together, results)
        return torch.cat([result for result in results if result is not None])

    def _read_in_parts(self, pages: KVCache, span: Span) -> Tensor:
        """A span of more tokens than the kernels take at once."""
        logits = []
        for at in range(0, len(span.ids), MAX_KERNEL_TOKENS):
            ids = span.ids[at : at + MAX_KERNEL_TOKENS]
            wanted = max(0, min(len(ids), at + len(ids) - (len(span.ids) - span.num_logits)))
            logits.append(self._step(pages, [Span(ids, span.start + at, span.block_table, wanted)]))
        return torch.cat(logits)

    def _read_few(
        self, pages: KVCache, spans: Sequence[Span], numbers: Sequence[int], results: list[Tensor | None]
    ) -> None:
        logits = self._step(pages, [spans[number] for number in numbers])
        for number, rows in zip(
            numbers, torch.split(logits, [spans[number].num_logits for number in numbers]), strict=True
        ):
            results[number] = rows

    def _step(self, pages: KVCache, spans: Sequence[Span]) -> Tensor:
        """One run of the kernels."""
        columns = max(blocks_for(span.start + len(span.ids)) for span in spans)
        tables = np.zeros((len(spans), columns), np.int64)
        tokens: list[tuple[int, int, int]] = []
        wanted: list[int] = []
        for row, span in enumerate(spans):
            own = span.block_table[:columns]
            tables[row, : len(own)] = own
            tokens += [(token, span.start + n, row) for n, token in enumerate(span.ids)]
            wanted += range(len(tokens) - span.num_logits, len(tokens))
        V = self.model.config.vocab_size
        logits = np.empty((len(wanted), padded(V) + 16), np.float32)  # anew, since callers keep it
        places = step.Pages(pages.addresses, 8 * pages.dtype.itemsize)
        team().run(
            step.read_tokens,
            self._shape,
            self._weights,
            places,
            self._space,
            np.array(tokens, np.int64),
            tables,
            np.array(wanted, np.int64),
            logits,
        )
        return torch.from_numpy(logits)[:, :V]

    def _collect(self, model: Decoder) -> step.Weights:
        C, context = model.config.hidden_size, model.config.max_position_embeddings
        layers: list[nn.Module] = []
        norms: list[nn.Module] = []
        for block in model.blocks:
            layers += [block.attention.qkv, block.attention.output, block.mlp.expand, block.mlp.contract]  # type: ignore[union-attr,list-item]
            norms += [block.attention_norm, block.mlp_norm]  # type: ignore[list-item]
        norms.append(model.norm)
        rotary = np.zeros((2, 1, 0), np.float32)
        if model.positions is None:
            size = model.config.rotary_size
            tables = rotary_table(torch.arange(context), size, model.config.rotary_base, torch.float32)
            rotary = np.stack([table.chunk(2, dim=-1)[0].numpy() for table in tables])
        embedding = model.embedding.head if isinstance(model.embedding, QuantizedEmbedding) else model.embedding
        return step.Weights(
            blocks=np.array([self._row(layer) for layer in layers], np.int64),
            embedding=np.array(self._row(embedding), np.int64),
            positions=np.array(self._row(model.positions) if model.positions is not None else [0] * 6, np.int64),
            head=np.array(self._row(model.head), np.int64),
            norms=np.array([[_fp32(norm.weight), _fp32(norm.bias)] for norm in norms]).reshape(-1, 2, C),
            rotary=rotary,
        )

    def _row(self, layer: nn.Module) -> list[int]:
        """The layer's row in the table of weights."""
        bias = getattr(layer, "bias", None)
        bias = None if bias is None else _fp32(bias)
        self._kept += [layer, bias]
        at = 0 if bias is None else bias.ctypes.data
        if isinstance(layer, QuantizedLinear):
            return layer.table_row(at).tolist()  # type: ignore[no-any-return]
        weight = layer.weight
        assert isinstance(weight, Tensor) and weight.is_contiguous()
        self._kept.append(weight)
        return [_KINDS[weight.dtype], weight.data_ptr(), 0, at, *weight.shape]


def longest_decode(model: Decoder) -> int:
    """The most tokens of a span for which the kernels are faster than torch (measured: docs/log.md).

    Packed weights are widened for torch, which takes as long as 128 tokens in the kernels; with AMX torch makes up
    for it. The rule looks at the model and the processor only: were it measured anew at each start, the same seed
    could give another text, since the two differ in the last bit.
    """
    return 128 if model.quantized and "amx-bf16" not in FEATURES else MAX_DECODE_TOKENS


def _shape(model: Decoder) -> step.Shape:
    config, L = model.config, model.config.num_layers
    activation = _ALIASES.get(config.activation, config.activation)
    return step.Shape(
        hidden_size=config.hidden_size,
        num_layers=L,
        num_heads=config.num_heads,
        head_size=config.head_size,
        rotary_size=config.rotary_size if model.positions is None else 0,
        parallel_residual=config.parallel_residual,
        activation=ACTIVATIONS.index(activation),
        epsilon=config.norm_epsilon,
        windows=np.array([config.window(layer) or 0 for layer in range(L)], np.int64),
        scales=np.array([config.scale(layer) for layer in range(L)], np.float32),
    )


def _fp32(tensor: Any) -> NDArray[np.float32]:
    return tensor.detach().float().numpy().copy()  # type: ignore[no-any-return]


def _aligned(rows: int, size: int) -> NDArray[np.uint8]:
    """Rows of `size` bytes, a multiple of 64, that begin at whole cache lines."""
    memory = np.empty(rows * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + rows * size].reshape(rows, size)
