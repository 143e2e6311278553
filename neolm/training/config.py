"""Settings of THE training loop. `PretrainConfig` and those of other trainings extend them."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Alias, Config, Supersedes, Unit
from neolm.data.batch_sizes import BatchSizes
from neolm.training.parallel_config import ParallelConfig
from neolm.training.schedule import LearningRate, Shape

Count = Annotated[int, Field(gt=0)]


class Changeable:
    """Marks a setting that may differ when a run is resumed: it does not change the model beyond rounding."""


class TrainConfig(Config):
    """Batch, optimiser, schedule, precision, devices, checkpoints and logs of a training."""

    steps: Annotated[Count | None, Unit("steps"), Supersedes(("tokens",))] = None
    """Number of optimiser steps."""
    batch_size: Annotated[Count, Unit("sequences")] = 32
    """Sequences of one optimiser step, over all devices."""
    micro_batch_size: Annotated[Count | None, Unit("sequences"), Changeable()] = None
    """Sequences that a device computes at once; null: the whole batch. Smaller values take less memory and change no
    number beyond rounding (and the random numbers of dropout)."""
    optimiser: Annotated[Literal["adamw", "lamb", "muon"], Alias("optimizer")] = "adamw"
    """AdamW or LAMB for all parameters, or Muon for the matrices between embeddings and outputs and AdamW for the
    rest. LAMB scales the step of each layer to the norm of its weights, except for the kinds in no_decay, as ALBERT
    did."""
    learning_rate: Annotated[float, Field(gt=0), Alias("lr")] = 6e-4
    """Peak learning rate, reached after the warm-up."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Final learning rate as a share of the peak."""
    schedule: Shape = "cosine"
    """Learning rate after the warm-up: constant, linear or cosine decay, or constant with a linear decay at the end
    (warmup-stable-decay)."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps"), Supersedes(("warmup_tokens",))] = 100
    """Steps over which the learning rate rises linearly."""
    decay_steps: Annotated[Count | None, Unit("steps"), Supersedes(("decay_tokens",))] = None
    """Steps of the decay; null: from the warm-up to the end, or the last fifth for warmup-stable-decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay, multiplied by the learning rate."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate of each layer compared with the one above it; the embeddings are below the first
    layer, and the head is above the last."""
    no_decay: tuple[Literal["norm", "bias", "embedding"], ...] = ("norm", "bias", "embedding")
    """Kinds of parameters without weight decay; a tied head is an embedding."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients, of AdamW and LAMB."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the mean of squared gradients, of AdamW and LAMB."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Epsilon of AdamW and LAMB."""
    bias_correction: bool = True
    """Correct the means of AdamW and LAMB for their start at zero; the original GPT-Neo, BERT and ALBERT did not."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of Muon."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum global gradient norm; null: no clipping."""
    skip_spikes: Annotated[float, Field(gt=1)] | None = None
    """Skip, and log, a step whose gradient norm is more than this multiple of the running median; null: never."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights; null: none is kept."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations in the forward and backward pass; master weights and optimiser are float32. auto:
    the type that the device multiplies fastest, printed with its reason. float16 scales the loss dynamically."""
    loss_scale: Annotated[float, Field(gt=0)] = 4096.0
    """Initial loss scale of float16; it is halved when gradients overflow, and the step is skipped."""
    loss_scale_window: Annotated[Count, Unit("steps")] = 1000
    """Steps without an overflow after which float16's loss scale doubles."""
    loss_scale_hysteresis: Count = 2
    """Overflows within a window before float16's loss scale is halved."""
    tf32: Annotated[bool, Changeable()] = False
    """Let a GPU round the factors of float32 products to TF32 (10 bits): faster, less exact."""
    deterministic: Annotated[bool, Changeable()] = False
    """Use only operations that give the same bits in every run on the same machine; slower on a GPU."""
    activation_checkpointing: Annotated[bool, Changeable()] = False
    """Keep only each block's input in the forward pass and recompute the rest in the backward pass: far less memory for
    a third more work."""
    device: Annotated[str, Changeable()] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    compile: Annotated[Literal["auto"] | bool, Changeable()] = "auto"
    """Compile the model with torch.compile: slower to start, faster to run; on a CPU it needs a C++ compiler.
    auto: where it pays, printed with its reason."""
    parallel: Annotated[ParallelConfig, Changeable()] = ParallelConfig()
    """How the processes that torchrun starts share the training."""
    checkpoint_every: Annotated[Count, Unit("steps"), Changeable()] = 500
    """Steps between checkpoints; one more is written at the end and when the run is interrupted."""
    keep_checkpoints: Annotated[int, Field(ge=2), Changeable()] = 2
    """Number of recent checkpoints to keep; at least two, so that a damaged one has an intact one before it."""
    keep_every: Annotated[Count | None, Unit("steps"), Changeable()] = None
    """Checkpoints at multiples of this step are kept for good; null: none."""
    asynchronous_checkpoints: Annotated[bool, Changeable()] = True
    """Write checkpoints in the background; takes the memory of one more copy of the state."""
    validate_every: Annotated[Count, Unit("steps")] = 500
    """Steps between validations; one more at the end."""
    patience: Count | None = None
    """Stop after this many validations in a row that are no better than the best one; null: never. The weights of the
    best one are kept (final)."""
    log_every: Annotated[Count, Unit("steps"), Changeable()] = 10
    """Steps between the rows of metrics.jsonl; the first step and the last are always logged."""
    track: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Changeable()] = ()
    """Trackers that receive the metrics besides metrics.jsonl; needs the extra [track]."""
    final: Annotated[Literal["best", "last", "average"], Changeable()] = "best"
    """Weights that become the model: those of the lowest validation loss, the last, or their average (ema_decay)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_length()
        if self.final == "average" and self.ema_decay is None:
            raise ValueError("final is 'average', so ema_decay must be given")
        if self.layer_decay < 1 and self.optimiser == "muon":
            raise ValueError("layer_decay is below 1, but muon has one learning rate for all layers; choose adamw")
        return self

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        found = {} if self.optimiser == "muon" else {"momentum": "optimiser is not muon"}
        if self.precision in ("float32", "bfloat16"):
            names = ("loss_scale", "loss_scale_window", "loss_scale_hysteresis")
            found |= dict.fromkeys(names, "precision is not float16")
        if self.schedule == "constant":
            found |= dict.fromkeys(("decay_steps", "final_learning_rate"), "schedule is constant")
        return found

    def _check_length(self) -> None:
        if self.steps is None:
            raise ValueError("steps must be given")

    @cached_property
    def batch_sizes(self) -> BatchSizes:
        """The examples of each step."""
        return BatchSizes(self.batch_size)

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        assert self.steps is not None
        return self.steps

    @cached_property
    def total_examples(self) -> int:
        """Sequences that the whole run reads."""
        return self.batch_sizes.examples(self.total_steps).stop

    @property
    def warmup_examples(self) -> int:
        """Sequences read by the end of the warm-up."""
        return self._examples_of(self.warmup_steps)

    @property
    def decay_examples(self) -> int | None:
        """Sequences read during the decay of the learning rate; None: the schedule's default."""
        return None if self.decay_steps is None else self._examples_of(self.decay_steps)

    @cached_property
    def learning_rate_share(self) -> LearningRate:
        """Share of the peak learning rate, as a function of the sequences read by the end of a step."""
        total, warmup, decay = self.total_examples, self.warmup_examples, self.decay_examples
        if decay is None:
            decay = total // 5 if self.schedule == "warmup-stable-decay" else total - warmup
        return LearningRate(self.schedule, total, warmup, decay, self.final_learning_rate)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of `step`, counted from 1."""
        return self.learning_rate * self.learning_rate_share(self.batch_sizes.examples(step).stop)

    def _examples_of(self, steps: int) -> int:
        """Sequences that the first `steps` steps read."""
        return self.batch_sizes.examples(steps).stop if steps else 0

    @classmethod
    def changeable(cls) -> frozenset[str]:
        """Names of the settings that may differ when a run is resumed."""
        fields = cls.model_fields.items()
        marked = {name for name, field in fields if any(isinstance(mark, Changeable) for mark in field.metadata)}
        return frozenset({*marked, *(f"parallel.{key}" for key in ParallelConfig.model_fields)})
