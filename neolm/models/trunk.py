"""What all models share: embeddings, positions, blocks and a final norm, from token ids to hidden states.

A block is pre-norm attention and MLP (GPT-2, Radford et al. 2019, section 2.3).

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neolm.models.attention import Attention, KeyValueCache, Masks, rotary_table
from neolm.models.config import DecoderConfig
from neolm.models.dropout import dropout
from neolm.models.model import MLP, Model


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
        return dropout(x, self.dropout, self.training)


class Trunk(Model):
    """A model without its head. It has random weights; `initialise` draws those that the family documents."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position_embedding == "learned"
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)

    def hidden_states(
        self,
        input_ids: Tensor,
        masks: Masks,
        positions: Tensor | None,
        cache: KeyValueCache | None,
        hidden: Tensor | None = None,
        layers: range | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, C) of `input_ids` (B, T); `positions` (T) or (B, T), None: 0, 1, ...

        `layers` (None: all) are computed, from `hidden` (B, T, C), or from the embeddings if it is None. The final norm
        follows the last layer of the model.
        """
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self._embed(input_ids, positions) if hidden is None else hidden
        angles = None
        if self.positions is None:
            angles = rotary_table(positions, self.config.rotary_size, self.config.rotary_base, x.dtype)
        layers = layers or range(self.config.num_layers)
        for layer in layers:
            x = self.blocks[layer](x, angles, masks, cache)
        return self.norm(x) if layers.stop == self.config.num_layers else x

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.embedding(input_ids)  # (B, T, C)
        if self.positions is not None:
            x = x + self.positions(positions)
        return dropout(x, self.config.embedding_dropout, self.training)

    def modules_of(self, layers: range) -> list[nn.Module]:
        """The modules that compute `layers`: with the first one the embeddings, with the last one the norm."""
        found = [self.blocks[layer] for layer in layers]
        if layers.start == 0:
            found += [self.embedding, *([self.positions] if self.positions is not None else [])]
        return [*found, self.norm] if layers.stop == self.config.num_layers else found

    @property
    def norms(self) -> nn.LayerNorm:
        """The final layer norm."""
        return self.norm

    def parameter_count(self, embeddings: bool = True) -> int:
        """Number of parameters, a tied head counted once; without `embeddings`, of blocks and final norm only."""
        parts: nn.Module = self if embeddings else nn.ModuleList([self.blocks, self.norm])
        return sum(p.numel() for p in parts.parameters())
