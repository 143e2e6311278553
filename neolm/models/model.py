"""What decoders and encoders have in common: how new weights are drawn, where they are, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.models.families import FAMILIES
from neolm.models.gelu import gelu, gelu_tanh

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    # three published names of one function
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, in float32 where that of float16 overflows.

    On a CPU the kernel keeps 1 / deviation in the input's type. For a constant row that is 1 / sqrt(epsilon), which is
    1e6 for an encoder's epsilon of 1e-12. float16 does not hold it, and the gradient would be NaN.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        if x.dtype != torch.float16 or x.device.type != "cpu":
            return super().forward(x)
        shape, weight, bias = self.normalized_shape, self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), shape, weight, bias, self.eps).to(x.dtype)


class MLPConfig(Protocol):
    """The fields of a model's configuration that an MLP needs."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def mlp_size(self) -> int:
        """Width between the two layers."""

    @property
    def activation(self) -> str:
        """A key of `ACTIVATIONS`."""


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.contract = nn.Linear(config.mlp_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.contract(self.activation(self.expand(x)))  # type: ignore[no-any-return]


class Model(nn.Module):
    """A decoder or an encoder. It has random weights; `initialise` draws those that the family documents."""

    config: Any
    blocks: nn.ModuleList

    @property
    def norms(self) -> nn.LayerNorm:
        """A layer norm, which is never quantised: it has the device and the type of the activations."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, seed: int) -> Self:
        """Draw new weights from `seed`, from the family's distributions; biases are 0, norms 1. Returns self."""
        parameters = dict(self.named_parameters())
        for name, values in self.initial_weights(seed):
            parameters[name].copy_(values)
        return self

    def initial_weights(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Name and new values of each parameter; of the parameters, which may be on `meta`, only the shapes count."""
        family = FAMILIES[self.config.family]
        scales = family.initialisation(self.config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            # Drawn on the CPU in fp32, so that every device and precision starts from the same numbers.
            drawn = torch.empty(parameter.shape, device="cpu")
            if name.endswith("bias"):
                drawn.zero_()
            elif parameter.dim() == 1:
                drawn.fill_(1.0)
            elif family.truncated:
                nn.init.trunc_normal_(drawn, std=1.0, a=-2.0, b=2.0, generator=generator)
            else:
                drawn.normal_(generator=generator)
            scale = next(value for part, value in scales.items() if part in name) if parameter.dim() > 1 else 1.0
            yield name, drawn * scale

    def tie(self) -> None:
        """Make parameters that are published once the same tensor, after they were loaded."""

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        return self.norms.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the activations, and of the weights unless they are quantised."""
        return self.norms.weight.dtype

    @property
    def quantized(self) -> int | None:
        """Bits of the weights if they are quantised (`neolm.models.quantized`), else None."""
        return getattr(self.blocks[0].mlp.expand, "bits", None)

    def parameter_count(self, embeddings: bool = True) -> int:
        """Number of parameters, shared ones counted once; without `embeddings`, without those of the embeddings."""
        raise NotImplementedError
