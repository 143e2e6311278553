"""The `pretrain` section of a recipe."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from neolm.core.config import Config, Supersedes, Unit
from neolm.data.batch_sizes import BatchSizes
from neolm.data.mixture_config import MixtureConfig
from neolm.data.segments_config import MaskingConfig, SegmentsConfig
from neolm.data.sequence_lengths import SequenceLengths
from neolm.training.config import Count, TrainConfig


class ReplayConfig(Config):
    """Other text that is trained on besides, so that a model that goes on training on a domain keeps what it could."""

    path: str | None = None
    """Raw text: a file or a folder, as for corpus.path; null: nothing is replayed."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training sequences that is from there."""

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return {"share": "replay.path is not given"} if self.path is None else {}


class PretrainConfig(TrainConfig):
    """`TrainConfig` with lengths in tokens, sequence length, z-loss and the size of the validation."""

    tokens: Annotated[Count | None, Unit("tokens"), Supersedes(("steps",))] = None
    """Tokens to train on, rounded up to whole steps; takes the place of steps."""
    sequence_length: Annotated[Count, Unit("tokens")] = 512
    """Tokens of one training sequence."""
    batch_ramp_start: Annotated[Count | None, Unit("sequences")] = None
    """Sequences of the first step, from which the batch grows linearly to batch_size, in multiples of this; null: every
    batch is full."""
    batch_ramp_tokens: Annotated[Count | None, Unit("tokens")] = None
    """Tokens after which the batch has its full size; given with batch_ramp_start."""
    warmup_tokens: Annotated[Count | None, Unit("tokens")] = None
    """Tokens over which the learning rate rises; takes the place of warmup_steps."""
    decay_tokens: Annotated[Count | None, Unit("tokens"), Supersedes(("decay_steps",))] = None
    """Tokens of the decay; takes the place of decay_steps."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared logarithm of the softmax's denominator, which is added to the loss; GPT-Neo used 1e-4."""
    validation_sequences: Annotated[Count, Unit("sequences")] = 256
    """Sequences of a validation, evenly spread over the validation split."""

    short_length: Annotated[Count | None, Unit("tokens")] = None
    """Length of an encoder's first sequences, which are cheaper; BERT began with 128. Given with short_steps."""
    short_steps: Annotated[Count | None, Unit("steps")] = None
    """Steps with sequences of short_length; then sequence_length. BERT's were 90 percent of all."""
    replay: ReplayConfig = ReplayConfig()
    """Other text that is trained on besides."""
    mixture: MixtureConfig = MixtureConfig()
    """How much is read from each source of the corpus."""
    masking: MaskingConfig = MaskingConfig()
    """Tokens that an encoder predicts."""
    segments: SegmentsConfig = SegmentsConfig()
    """Segments of an encoder's sequences, and the sentence task."""
    sentence_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the sentence task's loss beside that of the masked tokens, which has 1; BERT and ALBERT add the two."""

    @model_validator(mode="after")
    def _consistent_lengths(self) -> Self:
        if (self.short_length is None) != (self.short_steps is None):
            raise ValueError("short_length and short_steps are given together")
        if self.short_length is not None and self.short_length >= self.sequence_length:
            raise ValueError(
                f"short_length {self.short_length} is not less than sequence_length {self.sequence_length}"
            )
        if self.short_steps is not None and (self.steps is None or self.short_steps > self.steps):
            raise ValueError("short_steps needs steps, of which there are at least as many")
        if (self.batch_ramp_start is None) != (self.batch_ramp_tokens is None):
            raise ValueError("batch_ramp_start and batch_ramp_tokens are given together")
        if self.batch_ramp_start is not None and self.batch_ramp_start > self.batch_size:
            raise ValueError(f"batch_ramp_start {self.batch_ramp_start} is more than batch_size {self.batch_size}")
        if self.decay_steps is not None and self.decay_tokens is not None:
            raise ValueError("give either decay_steps or decay_tokens (set the other to null)")
        for name, budget in (self.mixture.tokens or {}).items():
            if 0 < budget < self.sequence_length:
                raise ValueError(
                    f"mixture.tokens: {budget} tokens of '{name}' are fewer than one sequence of {self.sequence_length}"
                )
        return self

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        found = super().without_effect()
        if self.warmup_tokens:
            found["warmup_steps"] = "warmup_tokens is given"
        if self.segments.task == "none":
            found["sentence_weight"] = "segments.task is none"
        return found

    def _check_length(self) -> None:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give either steps or tokens (set the other to null)")

    @cached_property
    def batch_sizes(self) -> BatchSizes:
        """The examples of each step, with the ramp of the batch."""
        return BatchSizes(self.batch_size, self.batch_ramp_start or 0, self._sequences(self.batch_ramp_tokens or 0))

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps or self.batch_sizes.steps_for(self._sequences(self.tokens or 0))

    @property
    def warmup_examples(self) -> int:
        """Sequences read by the end of the warm-up."""
        return self._sequences(self.warmup_tokens) if self.warmup_tokens else super().warmup_examples

    @property
    def decay_examples(self) -> int | None:
        """Sequences read during the decay of the learning rate; None: the schedule's default."""
        return self._sequences(self.decay_tokens) if self.decay_tokens else super().decay_examples

    @cached_property
    def lengths(self) -> SequenceLengths:
        """Length of an encoder's sequences at each step."""
        return SequenceLengths(self.sequence_length, self.short_length or 0, self.short_steps or 0)

    @property
    def examples_by_length(self) -> list[tuple[int, int]]:
        """Lengths of an encoder's sequences, each with the number of sequences of the whole run."""
        if not self.short_steps:
            return [(self.sequence_length, self.total_examples)]
        short = self.batch_sizes.examples(self.short_steps).stop
        parts = [(self.lengths.short, short), (self.sequence_length, self.total_examples - short)]
        return [part for part in parts if part[1]]

    def _sequences(self, tokens: int) -> int:
        return -(-tokens // self.sequence_length)
