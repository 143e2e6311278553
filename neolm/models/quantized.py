"""A decoder whose weights are rounded to 8 or 4 bits in groups; activations stay what they are.

`quantize` replaces every linear layer, the head and, where it is the head, the embedding. Biases, norms and positions
keep their type. The layers multiply widened weights, a part of them at a time, as many rows of activations at once
make worth while; decoding a few tokens is the business of `neolm.generation`, which reads the packed weights.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neolm.core.device import choose_precision
from neolm.core.errors import InputError
from neolm.kernels.linear import linear
from neolm.kernels.matmul import INT4, INT8
from neolm.kernels.packing import PANEL, Packed, pack, packed_shapes, unpack_rows, widen
from neolm.models.cross_entropy import linear_cross_entropy
from neolm.models.decoder import Decoder
from neolm.models.heads import LanguageModelHead

BITS = {"int8": 8, "int4": 4}
_FEW = 4  # rows of activations for which widening weights does not pay
_WIDENED = 2**20  # weights widened at once: they stay in the processor's cache


class QuantizedLinear(nn.Module):
    """y = x W^T + b with packed W (outputs, inputs), which is on no device until `fill`."""

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
        """The weights."""
        return Packed(self.bits, self.out_features, self.in_features, self.values, self.scales)

    def table_row(self, bias: int = 0) -> NDArray[np.int64]:
        """The weights as the kernels' table has them, with the address of a bias."""
        kind = INT8 if self.bits == 8 else INT4
        places = self.values.data_ptr(), self.scales.data_ptr()
        return np.array([kind, *places, bias, self.out_features, self.in_features], np.int64)

    def fill(self, weight: Tensor, device: torch.device) -> None:
        """Take the weights (outputs, inputs), rounded."""
        packed = pack(weight, self.bits)
        self.register_buffer("values", packed.values.to(device))
        self.register_buffer("scales", packed.scales.to(device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), in x's type; products in bfloat16 where the device multiplies it."""
        few = x.numel() <= _FEW * self.in_features
        if few and x.device.type == "cpu" and x.dtype != torch.float64 and not x.requires_grad:
            y = linear(self.table_row(), x.flatten(0, -2).float()).to(x.dtype).view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias
        dtype = product_dtype(x)
        short = x.flatten(0, -2).to(dtype)  # (M, inputs)
        step = self.out_features
        if x.device.type == "cpu":
            step = max(PANEL, _WIDENED // self.in_features // PANEL * PANEL)
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
        return linear_cross_entropy(hidden.flatten(0, -2).to(dtype), weight, labels.flatten(), z_loss)


class QuantizedEmbedding(nn.Module):
    """Rows of the packed weights of a tied head, in the type of the model's norms."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self._model = (model,)  # not a part: its tensors are named once

    @property
    def head(self) -> QuantizedLinear:
        """Whose rows they are."""
        return self._model[0].head  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, C)."""
        rows = unpack_rows(self.head.packed, ids.flatten(), self._model[0].dtype)
        return rows.view(*ids.shape, -1)


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which widened weights are multiplied with x."""
    if x.dtype != torch.float32:
        return x.dtype
    return getattr(torch, choose_precision("auto", str(x.device)).value)  # type: ignore[no-any-return]


def check_quantize(request: str | None) -> int | None:
    """The bits of `int8` or `int4`; None for None.

    Raises:
        InputError: something else.
    """
    if request is None:
        return None
    if request not in BITS:
        raise InputError(f"quantize: '{request}' is not known; there are {' and '.join(BITS)}")
    return BITS[request]


def quantize(model: Decoder, request: str) -> Decoder:
    """Round the weights of `model`, in place; returns it.

    Raises:
        InputError: `request` is neither int8 nor int4, or the model is rounded already.
    """
    bits = check_quantize(request)
    assert bits is not None
    if model.quantized:
        raise InputError(f"the model is quantized already, to {model.quantized} bits")
    weights = {name: layer.weight.detach() for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    prepare_quantized(model, bits)
    for name in list(weights):
        put(model, f"{name}.weight", weights.pop(name), model.device, model.dtype)
    return model


def prepare_quantized(model: Decoder, bits: int) -> None:
    """Put layers without weights into the places of linear ones; the embedding of a tied head becomes the head's."""
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, nn.Linear):
            parent, _, kind = name.rpartition(".")
            layer_type = QuantizedHead if isinstance(layer, LanguageModelHead) else QuantizedLinear
            empty = layer_type(bits, layer.out_features, layer.in_features, layer.bias)
            setattr(model.get_submodule(parent), kind, empty)
    if model.config.tie_embeddings:
        model.embedding = QuantizedEmbedding(model)  # type: ignore[assignment]


def put(
    model: Decoder,
    name: str,
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    keep: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> None:
    """Give `model` one parameter or buffer by its name: rounded, if its layer is, else in `dtype`; and kept."""
    place, _, kind = name.rpartition(".")
    module = model.get_submodule(place)
    if isinstance(module, QuantizedEmbedding):
        module = module.head
    if is_packed(name):
        setattr(module, kind, keep(tensor.to(device)))
    elif isinstance(module, QuantizedLinear) and kind == "weight":
        module.fill(tensor, device)
        module.values, module.scales = keep(module.values), keep(module.scales)
    else:
        setattr(module, kind, nn.Parameter(keep(tensor.to(device, dtype))))


def is_packed(name: str) -> bool:
    """Whether a tensor of this name in a quantised model is a part of packed weights."""
    return name.endswith((".values", ".scales"))


def loaded_bytes(model: Decoder, dtype: torch.dtype) -> int:
    """Memory of the tensors of `model` once they are there, all but packed ones in `dtype`."""
    parts = {id(tensor): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    return sum(
        tensor.numel() * (tensor.dtype if is_packed(name) else dtype).itemsize for name, tensor in parts.values()
    )
