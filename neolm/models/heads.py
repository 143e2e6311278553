"""The output layers on top of a model's final hidden states.

Shapes: B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from neolm.models.cross_entropy import linear_cross_entropy


class LanguageModelHead(nn.Linear):
    """Logits of the next token, or the loss of given next tokens, which never holds all logits."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)

    def forward(  # type: ignore[override]
        self, hidden: Tensor, labels: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(..., C) to logits (..., V); with `labels` (...), the two sums of `linear_cross_entropy`."""
        if labels is None:
            return super().forward(hidden)
        return linear_cross_entropy(hidden.flatten(0, -2), self.weight, labels.flatten(), z_loss)
