"""The decoder: embeddings, pre-norm blocks, a final norm and an output head (GPT-2, Radford et al. 2019, section 2.3).

The families differ by `DecoderConfig` only. The module knows nothing of losses, caches' insides, devices or other
processes; those come from outside.

Shapes: B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.models.attention import Attention, KeyValueCache, rotary_table
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.gelu import gelu_tanh
from neolm.models.heads import LanguageModelHead

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    # Three published spellings of one function.
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
    """Two linear layers with a non-linearity between them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.contract = nn.Linear(config.mlp_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.contract(self.activation(self.expand(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm, one after the other or (GPT-NeoX) side by side."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = config.residual_dropout

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        attended = self._drop(self.attention(self.attention_norm(x), angles, attention_mask, cache))
        if self.parallel:
            return x + attended + self._drop(self.mlp(self.mlp_norm(x)))
        x = x + attended
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """A GPT: token ids in, next-token logits out. `initialise` draws new weights as the family documents them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position_embedding == "learned"
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.head = LanguageModelHead(config.hidden_size, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
        logits: bool = True,
        labels: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the token after each of `ids` (B, T), or the loss of predicting `labels`.

        Args:
            ids: Token ids.
            attention_mask: (B, T), 1 for real tokens, 0 for padding; None: no padding. Padding to the right of a text
                needs none, since attention is causal.
            positions: (T) or (B, T), each token's position; None: 0, 1, ... from the left.
            cache: Keys and values of earlier tokens; then `positions` must be given.
            logits: False returns the final hidden states (B, T, C), before the head.
            labels: (B, T), the token after each of `ids`, -100 where it does not count. With them the result is a pair
                of sums over the tokens, in float32: the loss to minimise, and the cross-entropy in nats.
            z_loss: Weight of log^2 of the softmax's denominator in the loss to minimise.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embedding(ids)  # (B, T, C)
        angles = None
        if self.positions is not None:
            x = x + self.positions(positions)
        else:
            angles = rotary_table(positions, self.config.rotary_size, self.config.rotary_base, x.dtype)
        x = F.dropout(x, self.config.embedding_dropout, self.training)
        for block in self.blocks:
            x = block(x, angles, attention_mask, cache)
        x = self.norm(x)
        return self.head(x, labels, z_loss) if logits else x  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, seed: int) -> Decoder:
        """Draw new weights from `seed`, from the family's distributions; biases are 0, norms 1. Returns self."""
        scales = FAMILIES[self.config.family].initialisation(self.config)
        special = {
            "positions": scales.positions,
            "attention.output": scales.attention_output,
            "mlp.contract": scales.mlp_output,
        }
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                scale = next((value for key, value in special.items() if f"{key}." in name), scales.weights)
                # Drawn on the CPU in fp32, so that every device and precision starts from the same numbers.
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its activations; unless it is quantized, of its weights too."""
        return self.norm.weight.dtype

    @property
    def quantized(self) -> int | None:
        """Bits of its weights if they are rounded (`neolm.models.quantized`), else None."""
        return getattr(self.head, "bits", None)

    def parameter_count(self, embeddings: bool = True) -> int:
        """Parameters, a tied head counted once; without `embeddings`, less token and position tables and the head."""
        parts: nn.Module = self if embeddings else nn.ModuleList([self.blocks, self.norm])
        return sum(p.numel() for p in parts.parameters())


def count_parameters(config: DecoderConfig) -> int:
    """Parameters of a decoder of this shape, without making it."""
    with torch.device("meta"):
        return Decoder(config).parameter_count()
