"""What a pretraining learns, from which examples: next tokens for a decoder, masked tokens and pairs for an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from neolm.core.progress import count, say
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.batches import TrainingBatches, validation_batches
from neolm.data.mixture import MixedBatches
from neolm.data.mixture_config import MixtureConfig
from neolm.data.replay import ReplayBatches, part_sizes
from neolm.data.segment_batches import SegmentBatches, segment_validation_batches
from neolm.data.shards import TokenShards
from neolm.data.token_counts import MAX_TOKENS
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.tokenizer.tokenizer import Tokenizer
from neolm.training.objective import CausalLanguageModelling, MaskedLanguageModelling, Objective
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import IndexedData
from neolm.training.token_similarity import SEQUENCES, diagnosis
from neolm.training.unigram import entropy, unigram_entropy


@dataclass(frozen=True)
class PretrainTask:
    """Objective, training data and validation of a pretraining."""

    objective: Objective
    data: IndexedData
    validation: Sequence[Batch]
    flops_per_token: float
    """Training FLOPs of a token, over all steps."""
    unigram_entropy: float
    """Entropy of the frequencies of the training tokens, in nats."""
    about: str
    """Tokens and epochs of the training."""
    diagnosis: Callable[[nn.Module], str] = lambda model: ""
    """See `Training.diagnosis`."""
    other_validation: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    """See `Training.other_validation`."""


def pretrain_task(
    shards: Path, tokenizer: Tokenizer, model: DecoderConfig | EncoderConfig, config: PretrainConfig, seed: int
) -> PretrainTask:
    """The task of `model` on the token shards in the directory `shards`.

    Raises:
        InputError: the corpus is too small, or the tokenizer is not one of an encoder.
    """
    build = _masked_tokens if isinstance(model, EncoderConfig) else _next_token

    def built(directory: Path, sizes: BatchSizes, config: PretrainConfig = config) -> PretrainTask:
        train, held_out = (TokenShards(directory, split, tokenizer.size) for split in ("train", "validation"))
        return build(train, held_out, tokenizer, model, config, seed, sizes)  # type: ignore[arg-type]

    if config.replay.path is None:
        task = built(shards, config.batch_sizes)
    else:
        sizes = part_sizes(config.batch_sizes, config.replay.share)
        as_it_is = config.model_copy(update={"mixture": MixtureConfig()})
        task = built(shards, sizes[0])
        replayed = built(shards.parent / "replay" / "shards", sizes[1], as_it_is)
        if not replayed.validation:
            say("no validation of the replayed text: too little of it is held out")
        task = replace(
            task,
            data=ReplayBatches((task.data, replayed.data), sizes),
            about=f"{task.about}; {config.replay.share:.0%} of the sequences are replayed",
            other_validation={"replay": replayed.validation},
        )
    if not task.validation:
        say(f"no validation: the held-out text is shorter than one sequence of {config.sequence_length} tokens")
    return task


def objective(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> Objective:
    """The loss that `model` is pretrained with."""
    if isinstance(model, EncoderConfig):
        return MaskedLanguageModelling(config.sentence_weight if config.segments.task != "none" else None)
    return CausalLanguageModelling(config.z_loss)


def total_cost(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> tuple[int, float]:
    """Tokens and FLOPs of a training. Those of an encoder are the most: its sequences may be shorter than their length.

    FLOPs are counted as in PaLM (Chowdhery et al. 2022, appendix B).
    """
    if isinstance(model, DecoderConfig):
        tokens = config.total_examples * config.sequence_length
        return tokens, tokens * model.flops_per_token(config.sequence_length)
    parts = [(examples * length, length) for length, examples in config.examples_by_length]
    flops = (
        tokens * model.flops_per_token(length, config.masking.predictions(length) / length) for tokens, length in parts
    )
    return sum(tokens for tokens, _ in parts), sum(flops)


def _next_token(
    train: TokenShards,
    held_out: TokenShards,
    tokenizer: Tokenizer,
    model: DecoderConfig,
    config: PretrainConfig,
    seed: int,
    sizes: BatchSizes,
) -> PretrainTask:
    length = config.sequence_length
    batches: TrainingBatches | MixedBatches
    if config.mixture.active:
        batches = MixedBatches(train, length, sizes, seed, config.mixture)
        for line in batches.summary(config.total_steps):
            say(line)
        read, nats = "of the mixture", entropy(batches.token_counts(tokenizer.size, min(train.tokens, MAX_TOKENS)))
    else:
        batches = TrainingBatches(train, length, sizes, seed)
        read = f"{sizes.examples(config.total_steps).stop / batches.examples:.2f} epochs"
        nats = unigram_entropy(train, tokenizer.size)
    return PretrainTask(
        objective(model, config),
        batches,
        validation_batches(held_out, length, config.micro_batch_size or config.batch_size, config.validation_sequences),
        model.flops_per_token(length),
        nats,
        f"{count(config.total_examples * length)} tokens, {read}; unigram entropy {nats:.2f} nats",
    )


def _masked_tokens(
    train: TokenShards,
    held_out: TokenShards,
    tokenizer: Tokenizer,
    model: EncoderConfig,
    config: PretrainConfig,
    seed: int,
    sizes: BatchSizes,
) -> PretrainTask:
    length, lengths = config.sequence_length, config.lengths
    batches = SegmentBatches(train, tokenizer, lengths, sizes, seed, config.masking, config.segments)
    for line in batches.summary():
        say(line)
    size = config.micro_batch_size or config.batch_size
    validation = segment_validation_batches(
        held_out, tokenizer, length, size, config.validation_sequences, config.masking, config.segments
    )
    tokens, flops = total_cost(model, config)
    epochs = sum(examples / batches.epoch_examples(size) for size, examples in config.examples_by_length)
    return PretrainTask(
        objective(model, config),
        batches,
        validation,
        flops / tokens,
        nats := unigram_entropy(train, tokenizer.size),
        f"at most {count(tokens)} tokens, {epochs:.2f} epochs; unigram entropy {nats:.2f} nats",
        partial(diagnosis, batches.batch(1, slice(0, SEQUENCES))),
    )


def unused_settings(model: DecoderConfig | EncoderConfig, config: PretrainConfig) -> Iterator[tuple[str, str]]:
    """Settings that have no effect for `model`, each with the reason."""
    names: tuple[str, ...] = ("z_loss",)
    reason = f"{model.family} is an encoder"
    if isinstance(model, DecoderConfig):
        names = ("masking", "segments", "sentence_weight", "short_length", "short_steps")
        reason = f"{model.family} is a decoder, which is trained on all tokens of packed documents"
    for name in names:
        if getattr(config, name) != type(config).model_fields[name].get_default(call_default_factory=True):
            yield name, reason
