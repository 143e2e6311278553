"""The decoder: a causal trunk and a head (GPT-2, Radford et al. 2019, section 2.3).

The head is a language model, or a classifier of sequences, which reads the hidden state of a text's last token
(Radford et al. 2018, section 3.2).

The families differ by `DecoderConfig` only. The module does not depend on the training loop, the kind of cache, the
device or other processes.

Shapes: B batch, T time, C channels, V vocabulary, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neolm.models.attention import KeyValueCache, Masks, causal_mask
from neolm.models.config import DecoderConfig
from neolm.models.cross_entropy import VocabularyPart, linear_cross_entropy
from neolm.models.trunk import Trunk


class LanguageModelHead(nn.Linear):
    """Logits of the next token, or the loss of given next tokens, which never holds all logits."""

    vocabulary: VocabularyPart | None = None
    """The rows of `weight` among those of a vocabulary that is divided; None: they are all of it."""

    def forward(  # type: ignore[override]
        self, hidden: Tensor, labels: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(..., C) to logits (..., V); with `labels` (...), the two sums of `linear_cross_entropy`."""
        if labels is None:
            logits = super().forward(hidden)
            return logits if self.vocabulary is None else self.vocabulary.join(logits)
        rows, vocabulary = hidden.flatten(0, -2), self.vocabulary
        return linear_cross_entropy(rows, self.weight, labels.flatten(), z_loss, vocabulary=vocabulary)[:2]


class SequenceClassifier(nn.Linear):
    """Logits of the labels of a text; a type of its own, because quantisation leaves it as it is."""


class Decoder(Trunk):
    """A GPT: token ids in, next-token logits out, or the logits of a classifier of texts."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        writes = config.head == "language-model"
        kind, outputs = (LanguageModelHead, config.vocab_size) if writes else (SequenceClassifier, config.num_labels)
        self.head: nn.Linear = kind(config.hidden_size, outputs, bias=False)
        self.tie()

    def tie(self) -> None:
        """Use the embedding as the head's weight, if the configuration says so."""
        if self.config.ties_head and not self.quantized:
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
        hidden: Tensor | None = None,
        layers: range | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the token after each of `input_ids` (B, T), or the loss of predicting `labels`.

        With the head "sequence", logits (B, K) of each text's labels: see `pooled`. It takes no `positions`, `cache`
        and `labels`, unless `logits` is False.

        Args:
            input_ids: Token ids.
            attention_mask: (B, T), 1 for real tokens, 0 for padding; None: no padding. Padding to the right of a text
                needs none, since attention is causal. Texts that are packed into a sequence have numbers from 1 on, and
                `positions` that begin again with each of them.
            positions: (T) or (B, T), each token's position; None: 0, 1, ... from the left.
            cache: Keys and values of earlier tokens. `positions` must then be given, and `attention_mask` must not be.
            logits: False returns the final hidden states (B, T, C), before the head.
            labels: (B, T), the token after each of `input_ids`, -100 where it does not count. The result is then a pair
                of sums over the tokens, in float32: the loss to minimise, and the cross-entropy in nats.
            z_loss: Weight of log^2 of the softmax's denominator in the loss to minimise.
            hidden: (B, T, C), the hidden states before the first of `layers`; None: the embeddings of `input_ids`.
            layers: Layers to compute; None: all. Without the model's last one, the result is the hidden states
                (B, T, C) after them.
        """
        if cache is not None and (attention_mask is not None or positions is None):
            raise ValueError(
                "cache: give the positions of the new tokens and no attention_mask; the cache determines which tokens "
                "are visible"
            )
        if self.config.head == "sequence" and logits:
            if positions is not None or cache is not None or labels is not None:
                raise ValueError("a classifier of sequences takes input_ids and attention_mask only")
            return self.head(self.pooled(input_ids, attention_mask))  # type: ignore[no-any-return]
        masks: Masks = {}
        if attention_mask is not None:
            masks = {window: causal_mask(attention_mask, window) for window in self.config.windows}
        hidden = self.hidden_states(input_ids, masks, positions, cache, hidden, layers)
        if not logits or (layers is not None and layers.stop < self.config.num_layers):
            return hidden
        return self.head(hidden, labels, z_loss)  # type: ignore[no-any-return]

    def modules_of(self, layers: range) -> list[nn.Module]:
        """See `Trunk.modules_of`; with the last layer the head too."""
        found = super().modules_of(layers)
        return [*found, self.head] if layers.stop == self.config.num_layers else found

    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Final hidden state of each text's last token, (B, C), of `input_ids` (B, T).

        The result does not depend on padding, wherever it is: `attention_mask` (B, T) is 1 for real tokens; None: all
        are real. A text without tokens has zeros.

        Raises:
            ValueError: a text has more tokens than the model's context.
        """
        lengths = None
        if attention_mask is not None:
            input_ids, lengths = without_gaps(input_ids, attention_mask)
        T, context = input_ids.shape[1], self.config.max_position_embeddings
        if T > context:
            raise ValueError(f"{T} tokens are more than the {context} positions of the model")
        hidden = self.hidden_states(input_ids, {}, None, None)  # (B, T, C)
        if lengths is None:
            return hidden[:, -1]
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths.clamp(min=1) - 1]
        return last.masked_fill((lengths == 0).unsqueeze(1), 0.0)

    def __repr__(self) -> str:
        """One line: family, sizes, head, parameters, type and device."""
        config = self.config
        dtype = f"int{self.quantized}" if self.quantized else str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({config.family}, {config.num_layers} layers, {config.hidden_size} channels, "
            f"{config.num_heads} heads, vocabulary {config.vocab_size:,}, context "
            f"{config.max_position_embeddings:,}, {'' if config.head == 'language-model' else f'head {config.head}, '}"
            f"{count_parameters(config):,} parameters, {dtype}, {self.device})"
        )


def without_gaps(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens of each text at the left of (B, T), T the longest of their lengths (B), which are returned too.

    Causal attention does not look at what follows them, so it needs no mask.
    """
    real = attention_mask.bool()
    lengths = real.sum(dim=1)
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    longest = max(1, int(lengths.max())) if len(lengths) else 0
    return input_ids.gather(1, order[:, :longest]), lengths


def count_parameters(config: DecoderConfig, embeddings: bool = True) -> int:
    """`Decoder(config).parameter_count(embeddings)`, without the decoder."""
    with torch.device("meta"):
        shallow = Decoder(config.model_copy(update={"num_layers": 1}))
    block = sum(parameter.numel() for parameter in shallow.blocks.parameters())
    return shallow.parameter_count(embeddings) + (config.num_layers - 1) * block
