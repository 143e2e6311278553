"""One transformer block: pre-norm attention and MLP (GPT-2, Radford et al. 2019, section 2.3).

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.models.attention import Attention, KeyValueCache, Masks
from neolm.models.config import DecoderConfig
from neolm.models.gelu import gelu_tanh

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
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


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.contract = nn.Linear(config.mlp_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.contract(self.activation(self.expand(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP, one after the other or in parallel (GPT-NeoX)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = config.residual_dropout

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, masks: Masks, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        attended = self._drop(self.attention(self.attention_norm(x), angles, masks, cache))
        if self.parallel:
            return x + attended + self._drop(self.mlp(self.mlp_norm(x)))
        x = x + attended
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
