"""The decoder: a causal trunk and a language model head (GPT-2, Radford et al. 2019, section 2.3).

The families differ by `DecoderConfig` only. The module does not depend on the training loop, the kind of cache, the
device or other processes.

Shapes: B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neolm.models.attention import KeyValueCache, Masks, causal_mask
from neolm.models.config import DecoderConfig
from neolm.models.cross_entropy import linear_cross_entropy
from neolm.models.trunk import Trunk


class LanguageModelHead(nn.Linear):
    """Logits of the next token, or the loss of given next tokens, which never holds all logits."""

    def forward(  # type: ignore[override]
        self, hidden: Tensor, labels: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(..., C) to logits (..., V); with `labels` (...), the two sums of `linear_cross_entropy`."""
        if labels is None:
            return super().forward(hidden)
        return linear_cross_entropy(hidden.flatten(0, -2), self.weight, labels.flatten(), z_loss)[:2]


class Decoder(Trunk):
    """A GPT: token ids in, next-token logits out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.head = LanguageModelHead(config.hidden_size, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Use the embedding as the head's weight, if the configuration says so."""
        if self.config.tie_embeddings and not self.quantized:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
        logits: bool = True,
        labels: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the token after each of `input_ids` (B, T), or the loss of predicting `labels`.

        Args:
            input_ids: Token ids.
            attention_mask: (B, T), 1 for real tokens, 0 for padding; None: no padding. Padding to the right of a text
                needs none, since attention is causal.
            positions: (T) or (B, T), each token's position; None: 0, 1, ... from the left.
            cache: Keys and values of earlier tokens. `positions` must then be given, and `attention_mask` must not be.
            logits: False returns the final hidden states (B, T, C), before the head.
            labels: (B, T), the token after each of `input_ids`, -100 where it does not count. The result is then a pair
                of sums over the tokens, in float32: the loss to minimise, and the cross-entropy in nats.
            z_loss: Weight of log^2 of the softmax's denominator in the loss to minimise.
        """
        if cache is not None and (attention_mask is not None or positions is None):
            raise ValueError(
                "cache: give the positions of the new tokens and no attention_mask; the cache determines which tokens "
                "are visible"
            )
        masks: Masks = {}
        if attention_mask is not None:
            masks = {window: causal_mask(attention_mask, window) for window in self.config.windows}
        hidden = self.hidden_states(input_ids, masks, positions, cache)
        return self.head(hidden, labels, z_loss) if logits else hidden

    def __repr__(self) -> str:
        """One line: family, sizes, parameters, type and device."""
        config = self.config
        dtype = f"int{self.quantized}" if self.quantized else str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({config.family}, {config.num_layers} layers, {config.hidden_size} channels, "
            f"{config.num_heads} heads, vocabulary {config.vocab_size:,}, context "
            f"{config.max_position_embeddings:,}, {count_parameters(config):,} parameters, {dtype}, {self.device})"
        )


def count_parameters(config: DecoderConfig, embeddings: bool = True) -> int:
    """`Decoder(config).parameter_count(embeddings)`, without the decoder."""
    with torch.device("meta"):
        shallow = Decoder(config.model_copy(update={"num_layers": 1}))
    block = sum(parameter.numel() for parameter in shallow.blocks.parameters())
    return shallow.parameter_count(embeddings) + (config.num_layers - 1) * block
