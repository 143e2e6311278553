"""Heads of an encoder. Each is a module that reads hidden states; a loss is computed inside its forward.

Shapes: N real tokens, M predicted tokens, C channels, E embedding width, V vocabulary, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.models.cross_entropy import IGNORED, VocabularyPart, linear_cross_entropy
from neolm.models.dropout import dropout
from neolm.models.encoder_config import EncoderConfig
from neolm.models.model import ACTIVATIONS, LayerNorm
from neolm.models.token_layout import filling_rows


class PretrainingSums(NamedTuple):
    """Sums over the predicted tokens, and over the sentence pairs if there is a sentence task."""

    masked_loss: Tensor
    """Cross-entropy of the predicted tokens in nats, differentiable."""
    masked_correct: Tensor
    """Number of predicted tokens whose original is the likeliest."""
    sentence_loss: Tensor | None = None
    """Cross-entropy of the sentence labels in nats, differentiable."""
    sentence_correct: Tensor | None = None
    """Number of pairs whose label is the likelier one."""


class MaskedHead(nn.Module):
    """Masked language model (Devlin et al. 2019, section 3.1): a layer, a norm, and the embedding as output layer."""

    weight: nn.Parameter
    vocabulary: VocabularyPart | None = None
    """The rows of `weight` and `bias` among those of a vocabulary that is divided; None: they are all of it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        E = config.embedding_width
        self.transform = nn.Linear(config.hidden_size, E)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = LayerNorm(E, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.register_parameter("weight", None)  # the model ties it

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """(N, C) to logits (N, V); with `labels` (N), the summed loss over those that are not -100, and the hits."""
        if labels is None:
            logits = F.linear(self._transformed(hidden), self.weight, self.bias)
            return logits if self.vocabulary is None else self.vocabulary.join(logits)
        predicted = self.predicted(labels)
        filling = filling_rows(len(predicted), labels.device)  # they repeat a row, without a label
        states = self._transformed(hidden[F.pad(predicted, (0, filling))])  # (M, E)
        targets = F.pad(labels[predicted], (0, filling), value=IGNORED)
        loss, _, correct = linear_cross_entropy(
            states, self.weight, targets, bias=self.bias, vocabulary=self.vocabulary
        )
        return loss, correct

    @torch.no_grad()
    def set_frequencies(self, counts: Tensor) -> None:
        """Set the biases to the logarithm of the share of each token in `counts` (V), each of which gets one more."""
        counts = counts.double() + 1
        self.bias.copy_((counts / counts.sum()).log())

    def predicted(self, labels: Tensor) -> Tensor:
        """(M), the rows of `labels` (N) that are not -100."""
        return (labels != IGNORED).nonzero().flatten()

    def _transformed(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.transform(hidden)))  # type: ignore[no-any-return]


class Classifier(nn.Linear):
    """A linear layer on pooled sequences, which had their dropout, or on tokens, where dropout comes first."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config.hidden_size, {"choice": 1, "span": 2}.get(config.head, config.num_labels))
        given = config.residual_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = given if config.head == "token" else 0.0  # spans have none

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., K)."""
        return super().forward(dropout(x, self.dropout, self.training))


HEADS: Mapping[str, Callable[[EncoderConfig], nn.Module]] = {
    "pretraining": MaskedHead,
    "masked": MaskedHead,
    **dict.fromkeys(("sequence", "token", "choice", "span"), Classifier),
}
"""The head that each value of `EncoderConfig.head` stands for, apart from the sentence task's."""
