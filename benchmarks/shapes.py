"""The measured shapes: sizes of a model and of its batches.

A shape is the same for every contestant. It is sent to the contestants' processes as JSON.
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
    """Optimiser steps per turn, unless the command line overrides it."""
    warmup: int = 3
    """Steps before the first turn, which are not timed: allocation, compilation."""
    window_size: int = 256
    """Attention window of GPT-Neo's local layers, in tokens."""
    activation_checkpointing: bool = False

    @property
    def parameters(self) -> int:
        """Approximate number of parameters, without biases and norms."""
        h = self.hidden_size
        tables = self.vocab_size + (self.vocab_size if self.family == "gpt-neox" else self.context)
        return tables * h + 12 * self.num_layers * h * h

    @property
    def title(self) -> str:
        """Sizes of the model and of its batches in words, without the number of parameters."""
        checkpointing = ", activation checkpointing" if self.activation_checkpointing else ""
        return (
            f"{self.family}, {self.num_layers} layers of {self.hidden_size}, vocabulary {self.vocab_size:,}, "
            f"{self.batch_size} x {self.sequence_length:,} tokens per step{checkpointing}"
        )

    @property
    def tokens(self) -> int:
        """Number of tokens per step."""
        return self.batch_size * self.sequence_length

    def memory(self) -> int:
        """Rough upper bound on the bytes of training: weights, gradients, AdamW's moments, logits, their gradient."""
        return int(self.parameters * 16 * 1.04 + 12 * self.tokens * self.vocab_size + 0.8e9)

    def as_json(self) -> dict[str, Any]:
        """Return the fields for a contestant's process."""
        return asdict(self)


@dataclass(frozen=True)
class EncoderShape(Shape):
    """A BERT or ALBERT; `sequence_length` is that of the longest sequences."""

    embedding_size: int | None = None
    """Width of ALBERT's embeddings."""
    dropout: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the fields for a contestant's process, and the activation of the published models."""
        return {**super().as_json(), "activation": "gelu_new" if self.family == "albert" else "gelu"}

    @property
    def parameters(self) -> int:
        """Approximate number of parameters, without biases and norms."""
        h, albert = self.hidden_size, self.embedding_size is not None
        tables = (self.vocab_size + self.context) * (self.embedding_size or h)
        return tables + (1 if albert else self.num_layers) * 12 * h * h

    def memory(self) -> int:
        """Rough upper bound on the bytes of training: as for decoders, and 40 per token, channel and layer."""
        return super().memory() + 40 * self.tokens * self.hidden_size * self.num_layers


_ALL = (
    # for the tests of the scripts
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

_ENCODERS = (
    # for the tests of the scripts
    EncoderShape("smoke", "albert", 32, 2, 2, 300, 64, 4, 32, steps=2, warmup=1, embedding_size=16),
    EncoderShape("bert-desk", "bert", 256, 4, 4, 4096, 512, 32, 128, steps=10),
    EncoderShape("albert-desk", "albert", 512, 4, 8, 4096, 512, 32, 128, steps=5, embedding_size=128),
    EncoderShape("bert-base-128", "bert", 768, 12, 12, 30522, 512, 32, 128, steps=2, warmup=2, dropout=0.1),
    EncoderShape("bert-base-512", "bert", 768, 12, 12, 30522, 512, 8, 512, steps=2, warmup=2, dropout=0.1),
    EncoderShape("albert-base-128", "albert", 768, 12, 12, 30000, 512, 32, 128, steps=2, warmup=2, embedding_size=128),
    EncoderShape("albert-base-512", "albert", 768, 12, 12, 30000, 512, 8, 512, steps=2, warmup=2, embedding_size=128),
)
ENCODER_SHAPES = {shape.name: shape for shape in _ENCODERS}

# The training settings of every contestant.
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, GRADIENT_CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
