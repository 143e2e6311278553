"""The `pretrain` section of a recipe."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from neolm.core.config import Alias, Config, Supersedes, Unit
from neolm.data.batch_sizes import BatchSizes
from neolm.training.schedule import LearningRate, Shape

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
    batch_ramp_start: Annotated[Count | None, Unit("sequences")] = None
    """Sequences of the first step, from which the batch grows linearly to batch_size, in multiples of this; null: every
    batch is full."""
    batch_ramp_tokens: Annotated[Count | None, Unit("tokens")] = None
    """Tokens after which the batch has its full size; given with batch_ramp_start."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""
    learning_rate: Annotated[float, Field(gt=0), Alias("lr")] = 6e-4
    """Peak learning rate, reached after the warm-up."""
    final_learning_rate: Fraction = 0.1
    """Share of the peak that the schedule falls to."""
    schedule: Shape = "cosine"
    """What the learning rate does after the warm-up: stay constant, fall along a line or half a cosine, or
    (warmup-stable-decay) stay and fall linearly at the end."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps"), Supersedes(("warmup_tokens",))] = 100
    """Steps over which the learning rate rises linearly."""
    warmup_tokens: Annotated[Count | None, Unit("tokens")] = None
    """The same in tokens; takes the place of warmup_steps."""
    decay_steps: Annotated[Count | None, Unit("steps"), Supersedes(("decay_tokens",))] = None
    """Steps that the fall takes; null: from the warm-up to the end, or the last fifth for warmup-stable-decay."""
    decay_tokens: Annotated[Count | None, Unit("tokens"), Supersedes(("decay_steps",))] = None
    """The same in tokens."""
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
    bias_correction: bool = True
    """Correct AdamW's means for their start at zero; the original GPT-Neo, BERT and ALBERT did not."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of Muon."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global gradient norm; null: no clipping."""
    skip_spikes: Annotated[float, Field(gt=1)] | None = None
    """Skip, and log, a step whose gradient norm is more than this multiple of the running median; null: none is
    skipped."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared logarithm of the softmax's denominator, which is added to the loss; GPT-Neo used 1e-4."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of an exponential average of the weights, kept beside them; null: none is kept."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations in the passes; masters and optimiser are float32. auto: what the device
    multiplies fastest, printed with its reason. float16 scales the loss dynamically."""
    loss_scale: Annotated[float, Field(gt=0)] = 4096.0
    """Loss scale that float16 starts with; halved when a gradient overflows, and the step is skipped."""
    loss_scale_window: Annotated[Count, Unit("steps")] = 1000
    """Steps without an overflow after which float16's loss scale doubles."""
    loss_scale_hysteresis: Count = 2
    """Overflows within a window before float16's loss scale is halved."""
    tf32: bool = False
    """Let a GPU round the factors of float32 products to TF32 (10 bits): faster, less exact."""
    deterministic: bool = False
    """Use only operations that give the same bits in every run on the same machine; slower on a GPU."""
    activation_checkpointing: bool = False
    """Keep only each block's input on the way forward and compute the rest again on the way back: far less memory for
    a third more work."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the model with torch.compile: slower to start, faster to run; on a CPU it needs a C++ compiler.
    auto: where it pays, printed with its reason."""
    checkpoint_every: Annotated[Count, Unit("steps")] = 500
    """Steps between checkpoints; one more is written at the end and when the run is interrupted."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """How many of the last checkpoints are kept; two, so that a torn one has a good one before it."""
    keep_every: Annotated[Count | None, Unit("steps")] = None
    """Checkpoints at multiples of this step are kept for good; null: none is."""
    asynchronous_checkpoints: bool = True
    """Write checkpoints while the training goes on; takes the memory of one more copy of the state."""
    validate_every: Annotated[Count, Unit("steps")] = 500
    """Steps between validations; one more at the end."""
    validation_sequences: Annotated[Count, Unit("sequences")] = 256
    """Sequences of a validation, evenly spread over the validation split."""
    log_every: Annotated[Count, Unit("steps")] = 10
    """Steps between the rows of metrics.jsonl; the first step and the last have one."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the metrics go besides metrics.jsonl; needs the extra [track]."""
    final: Literal["best", "last", "average"] = "best"
    """Which weights become the model: those of the lowest validation loss, the last, or their average (ema_decay)."""

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give either steps or tokens (set the other to null)")
        if (self.batch_ramp_start is None) != (self.batch_ramp_tokens is None):
            raise ValueError("batch_ramp_start and batch_ramp_tokens are given together")
        if self.batch_ramp_start is not None and self.batch_ramp_start > self.batch_size:
            raise ValueError(f"batch_ramp_start {self.batch_ramp_start} is more than batch_size {self.batch_size}")
        if self.decay_steps is not None and self.decay_tokens is not None:
            raise ValueError("give either decay_steps or decay_tokens (set the other to null)")
        if self.final == "average" and self.ema_decay is None:
            raise ValueError("final is 'average', so ema_decay must be given")
        return self

    @cached_property
    def batch_sizes(self) -> BatchSizes:
        """Which examples each step reads."""
        return BatchSizes(self.batch_size, self.batch_ramp_start or 0, self._sequences(self.batch_ramp_tokens or 0))

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return self.batch_sizes.steps_for(self._sequences(self.tokens))

    @cached_property
    def total_examples(self) -> int:
        """Sequences that the whole run reads."""
        return self.batch_sizes.examples(self.total_steps).stop

    @cached_property
    def learning_rate_share(self) -> LearningRate:
        """The share of the peak learning rate, as a function of the sequences read by the end of a step."""
        total = self.total_examples
        warmup = self._examples(self.warmup_steps, self.warmup_tokens)
        fall = total // 5 if self.schedule == "warmup-stable-decay" else total - warmup
        if self.decay_steps is not None or self.decay_tokens is not None:
            fall = self._examples(self.decay_steps or 0, self.decay_tokens)
        return LearningRate(self.schedule, total, warmup, fall, self.final_learning_rate)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of `step`, counted from 1."""
        return self.learning_rate * self.learning_rate_share(self.batch_sizes.examples(step).stop)

    def _examples(self, steps: int, tokens: int | None) -> int:
        """Sequences read in so many tokens, or else in so many steps from the first."""
        if tokens is not None:
            return self._sequences(tokens)
        return self.batch_sizes.examples(steps).stop if steps else 0

    def _sequences(self, tokens: int) -> int:
        return -(-tokens // self.sequence_length)
