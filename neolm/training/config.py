"""The `pretrain` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neolm.core.config import Alias, Config, Supersedes, Unit

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class PretrainConfig(Config):
    """How long, how large a step, how fast, and what is kept."""

    steps: Annotated[Count | None, Unit("steps"), Supersedes(("tokens",))] = None
    """Optimiser steps to take; give this or tokens."""
    tokens: Annotated[Count | None, Unit("tokens"), Supersedes(("steps",))] = None
    """Tokens to train on, rounded up to whole steps; give this or steps."""
    sequence_length: Annotated[Count, Unit("tokens")] = 512
    """Tokens of one training sequence."""
    batch_size: Annotated[Count, Unit("sequences")] = 32
    """Sequences of one optimiser step, over all devices."""
    micro_batch_size: Annotated[Count | None, Unit("sequences")] = None
    """Sequences that a device computes at once; null: the whole batch. Fewer take less memory
    and change no number beyond rounding (and the draws of dropout)."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""
    learning_rate: Annotated[float, Field(gt=0), Alias("lr")] = 6e-4
    """Peak learning rate, reached after the warm-up."""
    final_learning_rate: Fraction = 0.1
    """Share of the peak that the cosine ends at."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps")] = 100
    """Steps over which the learning rate rises linearly."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay, multiplied by the learning rate."""
    no_decay: tuple[Literal["norm", "bias", "embedding"], ...] = ("norm", "bias", "embedding")
    """Kinds of parameters that do not decay; a tied head is an embedding."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of AdamW's mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of Muon."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global gradient norm; null: no clipping."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of weights and activations in the passes; masters and optimiser are float32. auto: what the device
    multiplies fastest, printed with its reason."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    compile: bool = False
    """Compile the model with torch.compile: slower to start, faster to run; needs a C++ compiler on a CPU."""
    checkpoint_every: Annotated[Count, Unit("steps")] = 500
    """Steps between checkpoints; one more is written at the end and when the run is interrupted."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """How many of the last checkpoints are kept; two, so that a torn one has a good one before it."""
    validate_every: Annotated[Count, Unit("steps")] = 500
    """Steps between validations; one more at the end."""
    validation_sequences: Annotated[Count, Unit("sequences")] = 256
    """Sequences of a validation, evenly spread over the validation split."""
    log_every: Annotated[Count, Unit("steps")] = 10
    """Steps between the rows of metrics.jsonl; the first step and the last have one."""
    final: Literal["best", "last"] = "best"
    """Which weights become the model: those of the lowest validation loss, or the last."""

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give either steps or tokens (set the other to null)")
        return self

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // self.tokens_per_step)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step."""
        return self.batch_size * self.sequence_length
