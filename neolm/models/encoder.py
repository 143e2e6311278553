"""The encoder: bidirectional attention, post-norm blocks and a head (Devlin et al. 2019; Lan et al. 2020).

BERT and ALBERT differ by `EncoderConfig` only: ALBERT's embeddings are narrower than its blocks, and its layers share
parameters. Only real tokens are computed (`neolm.models.token_layout`), and the masked language model head computes
only the tokens that are predicted when it is given labels.

As in Google's code and unlike in transformers, dropout follows ALBERT's feed-forward layers too.

Shapes: B batch, T time, N real tokens, C channels, E embedding width, H heads, D head size, V vocabulary,
K labels of a classifier.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.models.attention import fused_attention
from neolm.models.block_attention import full_attention, products_are_faster
from neolm.models.dropout import dropout
from neolm.models.encoder_config import EncoderConfig
from neolm.models.encoder_heads import HEADS, MaskedHead, PretrainingSums
from neolm.models.model import MLP, LayerNorm, Model
from neolm.models.neighbour_heads import aim_at_neighbours
from neolm.models.token_layout import TokenLayout


class SelfAttention(nn.Module):
    """Multi-head attention of each token to all tokens of its sequence (Vaswani et al. 2017, section 3.2)."""

    not_compiled = ("attend",)
    """Methods that torch.compile leaves out: nearly every batch has other buckets, and would be compiled anew."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """(N, C) to (N, C)."""
        return self.output(self.attend(self.qkv(x), layout))  # type: ignore[no-any-return]

    def attend(self, qkv: Tensor, layout: TokenLayout) -> Tensor:
        """Attention of each token to its sequence: queries, keys and values (N, 3 x C) to (N, C); 0 in filling rows."""
        dropout = self.dropout if self.training else 0.0
        parts = []
        # not slices: the gradient of each would be as large as the batch
        rows_of_spans = torch.split(qkv, [*(span.tokens for span in layout.spans), layout.filling])
        for span, rows in zip(layout.spans, rows_of_spans[:-1], strict=True):
            q, k, v = span.pad(rows).view(*span.shape, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (b, H, t, D)
            y = attend_all(q, k, v, span.mask, dropout)
            parts.append(span.unpad(y.transpose(1, 2).flatten(2)))
        if layout.filling or not parts:
            parts.append(qkv.new_zeros(layout.filling, qkv.shape[1] // 3))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of all tokens to all, (b, H, t, D), or to those where `mask` (b, 1, 1, t) is true.

    In bfloat16 on a CPU, the fused kernel is faster without a gradient, the block products with it (docs/log.md).
    """
    if q.is_meta:
        return fused_attention(q, k, v, False, q.shape[-1] ** -0.5, dropout)
    if torch.is_grad_enabled() and products_are_faster(q, dropout):
        return full_attention(q, k, v, mask, q.shape[-1] ** -0.5, dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class EncoderBlock(nn.Module):
    """Attention and MLP, each followed by the residual sum and its layer norm (post-norm)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.mlp = MLP(config)
        self.mlp_norm = LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.dropout = config.residual_dropout

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """(N, C) to (N, C)."""
        x = self.attention_norm(x + self._drop(self.attention(x, layout)))
        return self.mlp_norm(x + self._drop(self.mlp(x)))  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Encoder(Model):
    """A BERT or ALBERT: token ids in; hidden states, embeddings or the logits of its head out."""

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        C, E = config.hidden_size, config.embedding_width
        self.embedding = nn.Embedding(config.vocab_size, E)
        self.positions = nn.Embedding(config.max_position_embeddings, E)
        self.token_types = nn.Embedding(config.type_vocab_size, E)
        self.embedding_norm = LayerNorm(E, eps=config.norm_epsilon)
        self.projection = nn.Linear(E, C) if config.embedding_size else None
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.stored_blocks))
        for block in self.blocks[1:]:  # parts that all layers share, although the blocks differ
            if config.groups is not None and config.sharing == "attention":
                block.attention, block.attention_norm = self.blocks[0].attention, self.blocks[0].attention_norm
            elif config.groups is not None and config.sharing == "feed-forward":
                block.mlp, block.mlp_norm = self.blocks[0].mlp, self.blocks[0].mlp_norm
        self.pooler = nn.Linear(C, C) if config.pooler else None
        self.head = HEADS[config.head](config) if config.head in HEADS else None
        self.sentence_head = nn.Linear(C, 2) if config.head in ("pretraining", "sentence") else None
        self.tie()

    def initialise(self, seed: int) -> Self:
        """See `Model.initialise`; `config.initialisation` says which."""
        super().initialise(seed)
        if self.config.initialisation == "informed":
            aim_at_neighbours(self, torch.Generator().manual_seed(seed))
        return self

    def tie(self) -> None:
        """Use the embedding as the output layer of the masked language model head."""
        if isinstance(self.head, MaskedHead):
            self.head.weight = self.embedding.weight  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_labels: Tensor | None = None,
        hidden: Tensor | None = None,
        layers: range | None = None,
    ) -> Tensor | PretrainingSums:
        """Logits of the head, or the sums of the pretraining losses.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 for real tokens, 0 for padding, which may be anywhere; None: no padding.
            token_type_ids: (B, T), 0 for the first segment, 1 for the second; None: zeros.
            labels: (B, T), the original token at the positions to predict, -100 elsewhere. Gives the sums.
            sentence_labels: (B), label of the sentence task, -100 where there is none. Needs `labels`.
            hidden: (B, T, C), the hidden states before the first of `layers`: of `input_ids` only the shape counts.
                None: the embeddings of `input_ids`.
            layers: Layers to compute; None: all. Without the model's last one, the result is the hidden states
                (B, T, C) after them, zero at padding.

        Returns:
            (B, T, V) for `pretraining` and `masked` heads (`sentence_logits` gives the other head's), (B, T, K) for
            classifiers of tokens, (B, T, 2) for spans (begin, end), (B, K) for classifiers of sequences, (B, 1) for
            choices, (B, 2) for a sentence head alone, and the hidden states (B, T, C) without a head. Logits at
            padding are those of a zero vector.
        """
        hidden, layout = self._encode(input_ids, attention_mask, token_type_ids, layers, hidden)
        if layers is not None and layers.stop < self.config.num_layers:
            return layout.unflatten(hidden).clone()  # not a view, on which a wrapper's hooks do not hold
        if labels is not None:
            return self._pretraining_sums(hidden, layout, labels, sentence_labels)
        if self.config.head == "sentence":
            return self.sentence_head(self._pool(hidden, layout))  # type: ignore[misc, no-any-return]
        if self.config.head in ("sequence", "choice"):
            return self.head(self._pool(hidden, layout))  # type: ignore[misc, no-any-return]
        return layout.unflatten(hidden if self.head is None else self.head(hidden))

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Final hidden states (B, T, C), zero at padding; the arguments are those of `forward`."""
        hidden, layout = self._encode(input_ids, attention_mask, token_type_ids)
        return layout.unflatten(hidden)

    def modules_of(self, layers: range) -> list[nn.Module]:
        """The modules that compute `layers`: with the first one the embeddings, with the last one the heads."""
        found: list[nn.Module | None] = [self.blocks[n] for layer in layers for n in self.config.blocks_of(layer)]
        if layers.start == 0:
            found += [self.embedding, self.positions, self.token_types, self.embedding_norm, self.projection]
        if layers.stop == self.config.num_layers:
            found += [self.pooler, self.head, self.sentence_head]
        return [module for module in found if module is not None]

    def sentence_logits(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits (B, 2) of the sentence task; raises `ValueError` if the model has no such head."""
        if self.sentence_head is None:
            raise ValueError(f"the head '{self.config.head}' has no sentence task")
        return self.sentence_head(self._pool(*self._encode(input_ids, attention_mask, token_type_ids)))  # type: ignore[no-any-return]

    def pooled(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """What a head of sequences reads, (B, C): tanh of the pooler at the first token, or the mean of hidden states.

        Raises:
            ValueError: the model has no pooler, and the pooling is not the mean.
        """
        return self._pool(*self._encode(input_ids, attention_mask, token_type_ids))

    def _encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        layers: range | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """Hidden states of the real tokens after `layers` (None: all), (N, C), and where the tokens are.

        `hidden` (B, T, C) is what the first of the layers reads; None: the embeddings.
        """
        B, T = input_ids.shape
        if T > self.config.max_position_embeddings:
            raise ValueError(
                f"{T} tokens are more than the {self.config.max_position_embeddings} positions of the model"
            )
        layout = TokenLayout((B, T), attention_mask, input_ids.device)
        x = self._embed(input_ids, token_type_ids, layout) if hidden is None else layout.flatten(hidden)
        x = F.pad(x, (0, 0, 0, layout.filling)) if layout.filling else x
        if self.projection is not None and hidden is None:
            x = self.projection(x)  # (N, C)
        for layer in range(self.config.num_layers) if layers is None else layers:
            for number in self.config.blocks_of(layer):
                x = self.blocks[number](x, layout)
        return x[: len(x) - layout.filling] if layout.filling else x, layout

    def _embed(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: TokenLayout) -> Tensor:
        """The embeddings of the real tokens, (N, E)."""
        x = self.embedding(layout.flatten(input_ids))  # (N, E)
        types = (
            self.token_types.weight[0] if token_type_ids is None else self.token_types(layout.flatten(token_type_ids))
        )
        x = self.embedding_norm(x + types + self.positions(layout.positions()))
        return dropout(x, self.config.residual_dropout, self.training)

    def _pool(self, hidden: Tensor, layout: TokenLayout) -> Tensor:
        if self.config.pooling == "mean":
            pooled = layout.mean(hidden)  # (B, C)
        elif self.pooler is not None:
            pooled = torch.tanh(self.pooler(layout.first_tokens(hidden)))  # (B, C)
        else:
            raise ValueError("the model has no pooler")
        given = self.config.classifier_dropout
        return dropout(pooled, self.config.residual_dropout if given is None else given, self.training)

    def _pretraining_sums(
        self, hidden: Tensor, layout: TokenLayout, labels: Tensor, sentence_labels: Tensor | None
    ) -> PretrainingSums:
        if not isinstance(self.head, MaskedHead):
            raise ValueError(f"labels are for a masked language model head, not for '{self.config.head}'")
        loss, correct = self.head(hidden, layout.flatten(labels))
        if sentence_labels is None or self.sentence_head is None:
            return PretrainingSums(loss, correct)
        logits = self.sentence_head(self._pool(hidden, layout)).float()  # (B, 2)
        sentence_loss = F.cross_entropy(logits, sentence_labels, reduction="sum")
        return PretrainingSums(loss, correct, sentence_loss, (logits.argmax(dim=1) == sentence_labels).sum())

    def parameter_count(self, embeddings: bool = True) -> int:
        """Number of parameters, shared ones counted once; without `embeddings`, of all but the three tables."""
        tables = 0 if embeddings else sum(t.weight.numel() for t in (self.embedding, self.positions, self.token_types))
        return sum(parameter.numel() for parameter in self.parameters()) - tables

    @property
    def norms(self) -> nn.LayerNorm:
        """The layer norm of the embeddings."""
        return self.embedding_norm

    def __repr__(self) -> str:
        """One line: family, sizes, head, parameters, type and device."""
        config = self.config
        dtype = f"int{self.quantized}" if self.quantized else str(self.dtype).removeprefix("torch.")
        return (
            f"Encoder({config.family}, {config.num_layers} layers, {config.hidden_size} channels, "
            f"{config.num_heads} heads, vocabulary {config.vocab_size:,}, context "
            f"{config.max_position_embeddings:,}, head {config.head}, {self.parameter_count():,} parameters, "
            f"{dtype}, {self.device})"
        )
