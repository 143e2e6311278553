"""The `pretrain` and `model` stages: a decoder trained on token shards, and its Hugging Face directory.

`pretrain/` is built in place because it resumes: `config.json` is written at the start, the manifest at the end. A
directory that holds another run, finished or not, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neolm.core.artifact import Stage
from neolm.core.config import defaults, validate
from neolm.core.device import choose_compile, choose_device, choose_precision, matrix_ceiling, peak_memory
from neolm.core.errors import InputError, NeoLMError, SettingError
from neolm.core.manifest import Manifest, input_from, require, started_settings
from neolm.core.progress import count, duration, say
from neolm.core.resumable import ResumableStage
from neolm.data.batches import TrainingBatches, validation_batches
from neolm.data.shards import TokenShards
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.hf import load_decoder, save_model
from neolm.models.hf_config import hf_config, read_decoder_config
from neolm.models.model_config import ModelConfig
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer
from neolm.training.checkpoint import Checkpoint, last_checkpoint
from neolm.training.loop import train
from neolm.training.memory_check import require_fit
from neolm.training.numerics import numerics
from neolm.training.objective import CausalLanguageModelling
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Training
from neolm.training.state import Progress, load_weights
from neolm.training.trackers import open_trackers
from neolm.training.unigram import unigram_entropy


def pretrain(output: Path, model: ModelConfig | Path, config: PretrainConfig, seed: int) -> Manifest:
    """Train on `output/shards` into `output/pretrain`, or resume an unfinished training; a finished one is kept.

    `model` is the architecture of a new model, or the directory of a model to continue from.
    """
    tokenizer = load_tokenizer(output / "tokenizer", lossless=True)  # of a decoder
    architecture = resolve_architecture(model, config, tokenizer.size, tokenizer.eos_token_id, output)
    settings = {"model": architecture.model_dump(), "pretrain": config.model_dump(), "seed": seed}
    changeable = frozenset(f"pretrain.{name}" for name in config.changeable())
    base = model if isinstance(model, Path) else None
    places = {"shards": output / "shards", "tokenizer": output / "tokenizer"} | ({"base": base} if base else {})
    inputs = {name: input_from(place, output) for name, place in places.items()}
    known = {"model": defaults(architecture), "pretrain": defaults(config)}
    stage = ResumableStage("pretrain", "training", output / "pretrain", inputs, settings, changeable, defaults=known)

    def make() -> tuple[dict[str, Any], dict[str, Any]]:
        training = _prepare(stage, architecture, base, config, seed)
        done = train(training)
        best = "" if done.best_loss is None else f", validation loss {done.best_loss:.4f} at {done.best_step}"
        say(f"pretrain: {done.step} steps, {count(done.tokens)} tokens in {duration(done.seconds)}{best}")
        return _counts(training, done), done.energy

    return stage.resume(make)


def resolve_architecture(
    model: ModelConfig | Path, config: PretrainConfig, tokenizer_size: int, eos_token_id: int | None, output: Path
) -> DecoderConfig:
    """The decoder to train: a new one for a tokenizer of `tokenizer_size` tokens, or that of a model directory.

    If the model directory is gone, the decoder is that of the training in `output`, which was started from it.

    Raises:
        InputError: unknown preset, or sizes that do not fit together, the tokenizer or the sequence length.
    """
    if isinstance(model, ModelConfig):
        try:
            tokens = {"bos": eos_token_id, "eos": eos_token_id}
            architecture = model.resolve(tokenizer_size, config.sequence_length, tokens)
            if isinstance(architecture, EncoderConfig):
                raise SettingError("family", "encoders cannot be trained yet")
            hf_config(architecture)  # an architecture that cannot be written must not be trained
        except SettingError as error:
            raise InputError(str(error.within("model"))) from None
    else:
        started = {} if model.is_dir() else started_settings(output / "pretrain")
        architecture = validate(DecoderConfig, started["model"], {}) if started else read_decoder_config(model)
    context = architecture.max_position_embeddings
    if config.sequence_length > context:
        source = "model.max_position_embeddings" if isinstance(model, ModelConfig) else str(model)
        raise SettingError(
            "sequence_length",
            f"{config.sequence_length} is more than the model's context of {context} tokens ({source})",
        )
    return architecture


def build_model(output: Path, config: PretrainConfig) -> Manifest:
    """Write the trained weights and the tokenizer to the Hugging Face directory `output/model`."""
    source = output / "pretrain"
    trained = require(source, "pretrain", "pretrain RECIPE")
    stage = Stage(
        "model", "training", output / "model", {"pretrain": input_from(source, output)}, {"final": config.final}
    )

    def make(directory: Path) -> Mapping[str, Any]:
        chosen = _final_checkpoint(source / "checkpoints", config.final, trained.counts["best_step"])
        decoder = Decoder(validate(DecoderConfig, trained.config["model"], {}))
        load_weights(decoder, chosen, "average" if config.final == "average" else "weights")
        save_model(decoder, directory)
        copy_tokenizer(output / "tokenizer", directory)
        return {"parameters": decoder.parameter_count(), "step": chosen.step}

    return stage.ensure(
        make, lambda counts: f"{count(counts['parameters'])} parameters in {stage.directory}", config_file=False
    )


def _final_checkpoint(checkpoints: Path, final: str, best_step: int | None) -> Checkpoint:
    """The checkpoint that becomes the model."""
    best = last_checkpoint(checkpoints, "best") if final == "best" else None
    chosen = best or last_checkpoint(checkpoints, "step")
    if chosen is None:
        raise NeoLMError(f"{checkpoints}: there is no intact checkpoint to build a model from")
    if final == "best" and chosen.step != best_step:
        lost = f"the best checkpoint, of step {best_step}, is missing or damaged"
        reason = "no validation loss was measured" if best_step is None else lost
        say(f"model: {reason}: the weights of step {chosen.step} are used")
    return chosen


def _prepare(
    stage: ResumableStage, architecture: DecoderConfig, base: Path | None, config: PretrainConfig, seed: int
) -> Training:
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    compiled = choose_compile(config.compile, device.value, precision.value)
    length = config.sequence_length
    source = stage.directory.with_name("shards")
    vocab_size = require(source, "shards", "run RECIPE").config["vocab_size"]
    batches = TrainingBatches(TokenShards(source, "train", vocab_size), length, config.batch_sizes, seed)
    require_fit(architecture, config, precision.value, device.value)
    entropy = unigram_entropy(batches.shards, vocab_size)
    held_out = TokenShards(source, "validation", vocab_size)
    size = config.micro_batch_size or config.batch_size
    validation = validation_batches(held_out, length, size, config.validation_sequences)
    if not validation:
        say(f"no validation: the held-out text is shorter than one sequence of {length} tokens")
    began = stage.start(precision=precision.value)["precision"]
    if began != precision.value:
        say(f"this training began in {began} and continues in {precision.value}, so it is not the same bit for bit")
    torch.manual_seed(seed)
    if base is None or (not base.is_dir() and last_checkpoint(stage.directory / "checkpoints", "step")):
        model = Decoder(architecture).initialise(seed)  # if the base is gone, the checkpoint has the weights
    else:
        model = load_decoder(base, "cpu", "float32").train()
    with numerics(config.deterministic, config.tf32):
        ceiling = matrix_ceiling(device.value, getattr(torch, precision.value))
    say(f"device: {device}; precision: {precision}; matrix ceiling {ceiling / 1e9:,.0f} GFLOP/s")
    say(f"torch.compile: {compiled}")
    epochs = config.total_examples / batches.examples
    say(
        f"{architecture.family} of {count(model.parameter_count())} parameters, {config.total_steps} steps, "
        f"{count(config.total_examples * length)} tokens, {epochs:.2f} epochs; unigram entropy {entropy:.2f} nats"
    )
    return Training(
        model=model,
        objective=CausalLanguageModelling(config.z_loss),
        data=batches,
        validation=validation,
        config=config,
        directory=stage.directory,
        device=device,
        precision=precision,
        compile=compiled,
        flops_per_token=architecture.flops_per_token(length),
        ceiling=ceiling,
        unigram_entropy=entropy,
        trackers=partial(open_trackers, config.track, stage.directory, stage.config),
    )


def _counts(training: Training, progress: Progress) -> dict[str, Any]:
    model = training.model
    assert isinstance(model, Decoder)
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return {
        "parameters": model.parameter_count(),
        "non_embedding_parameters": model.parameter_count(embeddings=False),
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "tokens": progress.tokens,
        "training_seconds": round(progress.seconds, 1),
        "tokens_per_second": round(speed, 1),
        "flops": training.flops_per_token * progress.tokens,
        "mfu": round(speed * training.flops_per_token / training.ceiling, 4) if training.ceiling else None,
        "data_wait_share": round(progress.data_seconds / max(progress.seconds, 1e-9), 5),
        "peak_memory_bytes": peak_memory(training.device.value),
        "matrix_ceiling_flops": training.ceiling,
        "unigram_entropy": training.unigram_entropy,
        "best_validation_loss": progress.best_loss,
        "best_step": progress.best_step,
        **{name: asdict(getattr(training, name)) for name in ("device", "precision", "compile")},
    }
