"""The shapes that are measured: a model, and how many tokens of it make a step.

A shape is the same for every contestant: family, widths, vocabulary, context, batch, sequence length. What a contestant
needs to know of it travels to its process as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model and a batch."""

    name: str
    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context: int
    batch_size: int
    sequence_length: int
    steps: int
    """Optimiser steps of one turn, unless the command line says otherwise."""
    warmup: int = 3
    """Steps before the first turn, which nobody times: allocation, compilation."""
    window_size: int = 256
    """Tokens that a local layer of GPT-Neo attends to."""
    activation_checkpointing: bool = False

    @property
    def parameters(self) -> int:
        """Parameters, about: biases and norms are left out."""
        h = self.hidden_size
        tables = self.vocab_size + (self.vocab_size if self.family == "gpt-neox" else self.context)
        return tables * h + 12 * self.num_layers * h * h

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_size * self.sequence_length

    def memory(self) -> int:
        """Bytes that training takes, roughly and upwards: weights, gradients, AdamW's two means, and the logits that
        most contestants hold, with their gradient.
        """
        return int(self.parameters * 16 * 1.04 + 12 * self.tokens * self.vocab_size + 0.8e9)

    def as_json(self) -> dict[str, Any]:
        """The fields, for a contestant's process."""
        return asdict(self)


_ALL = (
    # of the test that keeps the scripts alive
    Shape("smoke", "gpt-neo", 32, 2, 2, 128, 64, 2, 32, steps=2, warmup=1, window_size=16),
    Shape("10m", "gpt-neo", 192, 4, 6, 2048, 256, 16, 256, steps=20, window_size=128),
    Shape("125m", "gpt-neo", 768, 12, 12, 50257, 2048, 2, 1024, steps=3),
    Shape("1.3b", "gpt-neo", 2048, 24, 16, 50257, 2048, 1, 512, steps=2, warmup=1, activation_checkpointing=True),
    Shape("pythia-70m", "gpt-neox", 512, 6, 8, 50304, 2048, 2, 1024, steps=3),
    Shape("pythia-160m", "gpt-neox", 768, 12, 12, 50304, 2048, 2, 1024, steps=3),
    Shape("pythia-1.4b", "gpt-neox", 2048, 24, 16, 50304, 2048, 1, 512, steps=2, activation_checkpointing=True),
    Shape("gpt2", "gpt2", 768, 12, 12, 50257, 1024, 2, 1024, steps=3),
)
SHAPES = {shape.name: shape for shape in _ALL}

# The settings that every contestant trains with.
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, GRADIENT_CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
