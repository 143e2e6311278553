"""Models with weights quantised to 8 or 4 bits in groups; activations are not quantised.

Every linear layer, the head and, if it is tied, the embedding are quantised. Biases, norms and positions keep their
type. For many rows of activations the layers widen the weights in parts and multiply those; for a few rows the kernels
read the packed weights.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neolm.core.device import choose_precision, cpu_flags
from neolm.core.errors import InputError
from neolm.kernels.matmul import INT4, INT8, linear
from neolm.kernels.packing import PANEL, Packed, pack, packed_shapes, unpack_rows, widen
from neolm.models.cross_entropy import linear_cross_entropy
from neolm.models.decoder import Decoder, LanguageModelHead
from neolm.models.model import Model

BITS = {"int8": 8, "int4": 4}
MAX_KERNEL_ROWS = 4 if "amx_bf16" in cpu_flags() else 32
"""Rows of activations up to which the kernels are faster than widening the weights (docs/log.md); products of widened
weights are quick with AMX."""
MAX_WIDENED_WEIGHTS = 2**20  # weights that are widened together: they stay in the processor's cache


class QuantizedLinear(nn.Module):
    """y = x W^T + b with packed W (outputs, inputs), which is on the meta device until `fill` is called."""

    values: Tensor
    scales: Tensor

    def __init__(self, bits: int, outputs: int, inputs: int, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.bits, self.out_features, self.in_features = bits, outputs, inputs
        values, scales = packed_shapes(bits, outputs, inputs)
        self.register_buffer("values", torch.empty(values, dtype=torch.uint8, device="meta"))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float16, device="meta"))
        self.bias = bias

    @property
    def packed(self) -> Packed:
        """The packed weights."""
        return Packed(self.bits, self.out_features, self.in_features, self.values, self.scales)

    def table_row(self, bias: int = 0) -> NDArray[np.int64]:
        """The weights as a row of the kernels' table, with the address of a bias."""
        kind = INT8 if self.bits == 8 else INT4
        addresses = self.values.data_ptr(), self.scales.data_ptr()
        return np.array([kind, *addresses, bias, self.out_features, self.in_features], np.int64)

    def fill(self, weight: Tensor, device: torch.device) -> None:
        """Quantise and store weights (outputs, inputs)."""
        packed = pack(weight, self.bits)
        self.values, self.scales = packed.values.to(device), packed.scales.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), in x's type; products are in bfloat16 if the device is fast in it."""
        few = x.numel() <= MAX_KERNEL_ROWS * self.in_features
        if few and x.device.type == "cpu" and x.dtype != torch.float64 and not x.requires_grad:
            y = linear(self.table_row(), x.flatten(0, -2).float()).to(x.dtype).view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias
        dtype = product_dtype(x)
        short = x.flatten(0, -2).to(dtype)  # (M, inputs)
        step = self.out_features
        if x.device.type == "cpu":
            step = max(PANEL, MAX_WIDENED_WEIGHTS // self.in_features // PANEL * PANEL)
        parts = []
        for first in range(0, self.out_features, step):
            end = min(first + step, self.out_features)
            wide = widen(self.packed, first, end, dtype)
            if self.bias is None:
                parts.append(short @ wide)
            else:
                parts.append(torch.addmm(self.bias[first:end].to(dtype), short, wide))
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return y.to(x.dtype).view(*x.shape[:-1], -1)


class QuantizedHead(QuantizedLinear):
    """`LanguageModelHead` with packed weights; a loss has gradients for the hidden states only."""

    def forward(  # type: ignore[override]
        self, hidden: Tensor, labels: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(..., C) to logits (..., V); with `labels` (...), the two sums of `linear_cross_entropy`."""
        if labels is None:
            return super().forward(hidden)
        dtype = product_dtype(hidden)
        weight = widen(self.packed, 0, self.out_features, dtype).t()  # (V, C)
        return linear_cross_entropy(hidden.flatten(0, -2).to(dtype), weight, labels.flatten(), z_loss)[:2]


class QuantizedEmbedding(nn.Module):
    """The embedding of a model with a tied head: rows of the head's packed weights, in the type of the norms."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is not registered as a submodule

    @property
    def head(self) -> QuantizedLinear:
        """The head whose rows are returned."""
        return self._model[0].head  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, C)."""
        rows = unpack_rows(self.head.packed, ids.flatten(), self._model[0].dtype)
        return rows.view(*ids.shape, -1)


PACKED_MODULES = (QuantizedLinear, QuantizedEmbedding)
"""Modules whose weights are packed."""


def product_dtype(x: Tensor) -> torch.dtype:
    """Type in which widened weights are multiplied by x."""
    if x.dtype != torch.float32:
        return x.dtype
    return getattr(torch, choose_precision("auto", str(x.device)).value)  # type: ignore[no-any-return]


def check_quantize(request: str | None) -> int | None:
    """Number of bits of `int8` or `int4`; None for None. Raises `InputError` for any other name."""
    if request is None:
        return None
    if request not in BITS:
        raise InputError(f"quantize: '{request}' is not known; use {' or '.join(BITS)}")
    return BITS[request]


def own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Our names and the tensors of a quantised model; one that several modules share has the first name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def prepare_quantized(model: Model, bits: int) -> None:
    """Replace linear layers by quantised ones without weights, and a decoder's embedding if the head is tied.

    An encoder's embedding and every classifier keep their type: they compute little.
    """
    for name, layer in [*model.named_modules()]:
        if type(layer) in (nn.Linear, LanguageModelHead):
            parent, _, kind = name.rpartition(".")
            layer_type = QuantizedHead if isinstance(layer, LanguageModelHead) else QuantizedLinear
            empty = layer_type(bits, layer.out_features, layer.in_features, layer.bias)
            setattr(model.get_submodule(parent), kind, empty)
    if isinstance(model, Decoder) and model.config.ties_head:
        model.embedding = QuantizedEmbedding(model)  # type: ignore[assignment]


def set_tensor(
    model: nn.Module,
    name: str,
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    store: Callable[[Tensor], Tensor],
) -> None:
    """Set one parameter or buffer of `model` by name; `store` moves a tensor to its memory.

    The weight of a quantised layer is quantised; other tensors get the type `dtype`.
    """
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, QuantizedEmbedding):
        module = module.head
    if is_packed(name):
        setattr(module, kind, store(tensor.to(device)))
    elif isinstance(module, QuantizedLinear) and kind == "weight":
        module.fill(tensor, device)
        module.values, module.scales = store(module.values), store(module.scales)
    else:
        setattr(module, kind, nn.Parameter(store(tensor.to(device, dtype))))


def is_packed(name: str) -> bool:
    """Whether a tensor of this name in a quantised model belongs to packed weights."""
    return name.endswith((".values", ".scales"))
