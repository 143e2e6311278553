"""The `pretrain` and `model` stages: a model trained on token shards, and its Hugging Face directory.

`pretrain/` is built in place because it resumes: `config.json` is written at the start, the manifest at the end. A
directory that holds another run, finished or not, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neolm.core.artifact import Stage
from neolm.core.config import defaults
from neolm.core.device import (
    choose_compile,
    choose_device,
    choose_precision,
    keep_few_kernels,
    matrix_ceiling,
    peak_memory,
)
from neolm.core.errors import InputError, SettingError
from neolm.core.files import write_json
from neolm.core.manifest import Manifest, input_from, require, started_settings
from neolm.core.progress import count, duration, say
from neolm.core.resumable import ResumableStage
from neolm.data.audit import masked_example
from neolm.data.mixture import MixedBatches
from neolm.data.replay import ReplayBatches
from neolm.data.segment_batches import SegmentBatches
from neolm.data.shards import TokenShards
from neolm.data.token_counts import token_counts
from neolm.models.config import DecoderConfig
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.encoder_heads import MaskedHead
from neolm.models.hf import load_model, open_model, save_model
from neolm.models.hf_config import hf_config, read_config, require_language_model
from neolm.models.model import Model
from neolm.models.model_config import ModelConfig
from neolm.models.stored_model import build, build_unfilled, recorded_config
from neolm.tokenizer.encoder_tokenizer import LOSSY
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer
from neolm.training.checkpoint import final_checkpoint, last_checkpoint
from neolm.training.loop import train
from neolm.training.memory_check import require_fit
from neolm.training.numerics import numerics
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import pretrain_task
from neolm.training.run import Parallelism, Training, WholeTensors
from neolm.training.state import Progress, load_final
from neolm.training.token_similarity import SEQUENCES, similarity_line, token_similarity
from neolm.training.trackers import open_trackers

EXAMPLES_FILE = "examples.json"  # of an encoder's training, with its first examples
EXAMPLES = 4


def pretrain(
    output: Path,
    model: ModelConfig | Path,
    config: PretrainConfig,
    seed: int,
    parallelism: Parallelism | None = None,
) -> Manifest | None:
    """Train on `output/shards` into `output/pretrain`, or resume an unfinished training; a finished one is kept.

    `model` is the architecture of a new model, or the directory of a model to continue from. All processes that share
    the training by `parallelism` call this function, and rank 0 writes the manifest; None: there is one.
    """
    tokenizer = load_tokenizer(output / "tokenizer")
    architecture = resolve_architecture(model, config, tokenizer.size, special_tokens(tokenizer), output)
    check_tokenizer_kind(architecture, tokenizer.kind)
    settings = {"model": architecture.model_dump(), "pretrain": config.model_dump(), "seed": seed}
    changeable = frozenset(f"pretrain.{name}" for name in config.changeable())
    base = model if isinstance(model, Path) else None
    places = {"shards": output / "shards", "tokenizer": output / "tokenizer"} | ({"base": base} if base else {})
    places |= {"replay": output / "replay" / "shards"} if config.replay.path is not None else {}
    inputs = {name: input_from(place, output) for name, place in places.items()}
    known = {"model": defaults(architecture), "pretrain": defaults(config)}
    stage = ResumableStage("pretrain", "training", output / "pretrain", inputs, settings, changeable, defaults=known)

    def make() -> tuple[dict[str, Any], dict[str, Any]]:
        training = _prepare(stage, tokenizer, architecture, base, config, seed, shared)
        sizes = _sizes(training.model)  # before a plan divides the model
        done = train(training)
        best = "" if done.best_loss is None else f", validation loss {done.best_loss:.4f} at {done.best_step}"
        say(f"pretrain: {done.step} steps, {count(done.tokens)} tokens in {duration(done.seconds)}{best}")
        return _counts(training, done, sizes), done.energy

    shared = parallelism or Parallelism()
    return stage.resume(make, writes=shared.world.first)


def resolve_architecture(
    model: ModelConfig | Path,
    config: PretrainConfig,
    tokenizer_size: int,
    tokens: Mapping[str, int | None],
    output: Path,
) -> DecoderConfig | EncoderConfig:
    """The model to train: a new one for a tokenizer of `tokenizer_size` tokens, or that of a model directory.

    `tokens` has the tokenizer's special tokens. If the model directory is gone, the model is that of the training in
    `output`, which was started from it.

    Raises:
        InputError: unknown preset, or sizes that do not fit together, the tokenizer or the sequence length.
    """
    if isinstance(model, ModelConfig):
        try:
            architecture = model.resolve(tokenizer_size, config.sequence_length, tokens, config.segments.task)
            hf_config(architecture)  # an architecture that cannot be written must not be trained
        except SettingError as error:
            raise InputError(str(error.within("model"))) from None
    else:
        started = {} if model.is_dir() else started_settings(output / "pretrain")
        architecture = recorded_config(started["model"]) if started else read_config(model)
        if isinstance(architecture, EncoderConfig):
            architecture = _continued(architecture, model, config.segments.task)
        else:
            require_language_model(architecture, str(model))
    if isinstance(architecture, EncoderConfig) and config.mixture.active:
        raise SettingError(
            "mixture",
            f"{architecture.family} is an encoder, whose sequences end with the document and have no fixed number of "
            "tokens; only sequences of a decoder are mixed. Leave the section out",
        )
    context = architecture.max_position_embeddings
    if config.sequence_length > context:
        source = "model.max_position_embeddings" if isinstance(model, ModelConfig) else str(model)
        raise SettingError(
            "sequence_length",
            f"{config.sequence_length} is more than the model's context of {context} tokens ({source})",
        )
    return architecture


def check_tokenizer_kind(model: DecoderConfig | EncoderConfig, kind: str) -> None:
    """Raise an `InputError` unless a tokenizer of this kind fits the model: bpe a decoder, the others an encoder."""
    if isinstance(model, DecoderConfig) and kind in LOSSY:
        raise InputError(f"tokenizer: {model.family} is a decoder; {LOSSY[kind]}")
    if isinstance(model, EncoderConfig) and kind not in LOSSY:
        raise InputError(
            f"tokenizer: {model.family} needs a tokenizer with [CLS], [SEP] and [MASK]; "
            "set tokenizer.kind to wordpiece (BERT) or unigram (ALBERT)"
        )


def _continued(architecture: EncoderConfig, model: Path, task: str) -> EncoderConfig:
    """The configuration of the encoder in `model` for a training that goes on with the sentence task `task`."""
    if model.is_dir():
        stored = open_model(model, "cpu").config
        assert isinstance(stored, EncoderConfig)
        architecture = stored
    if architecture.head not in ("pretraining", "masked"):
        raise InputError(f"{model}: it has no masked language model head, with which a pretraining could go on")
    if task != "none" and architecture.head != "pretraining":
        raise SettingError(
            "segments.task", f"{task} needs a sentence head, which {model} does not have; set it to none"
        )
    return architecture.model_copy(update={"sentence_task": task} if task != "none" else {})


def special_tokens(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Ids of the tokens that begin and end a text, and of the padding."""
    if tokenizer.kind == "bpe":
        return {"bos": tokenizer.eos_token_id, "eos": tokenizer.eos_token_id}
    return {"bos": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id, "pad": tokenizer.pad_token_id}


def build_model(output: Path, config: PretrainConfig) -> Manifest:
    """Write the trained weights and the tokenizer to the Hugging Face directory `output/model`."""
    source = output / "pretrain"
    trained = require(source, "pretrain", "pretrain RECIPE")
    stage = Stage(
        "model", "training", output / "model", {"pretrain": input_from(source, output)}, {"final": config.final}
    )

    def make(directory: Path) -> Mapping[str, Any]:
        chosen = final_checkpoint(source / "checkpoints", config.final, trained.counts["best_step"])
        model = build(recorded_config(trained.config["model"]))
        load_final(model, chosen, config.final)
        save_model(model, directory)
        copy_tokenizer(output / "tokenizer", directory)
        return {"parameters": model.parameter_count(), "step": chosen.step}

    return stage.ensure(
        make, lambda counts: f"{count(counts['parameters'])} parameters in {stage.directory}", config_file=False
    )


def _prepare(
    stage: ResumableStage,
    tokenizer: Tokenizer,
    architecture: DecoderConfig | EncoderConfig,
    base: Path | None,
    config: PretrainConfig,
    seed: int,
    parallelism: Parallelism,
) -> Training:
    device = choose_device(config.device)
    if device.value == "cpu":
        keep_few_kernels()  # before the first product, which measures the ceiling
    precision = choose_precision(config.precision, device.value)
    compiled = choose_compile(config.compile, device.value, precision.value)
    source = stage.directory.with_name("shards")
    require(source, "shards", "run RECIPE")
    task = pretrain_task(source, tokenizer, architecture, config, seed)
    world = parallelism.world
    require_fit(architecture, config, precision.value, device.value, world.count)
    plan = config.parallel
    began = world.on_first(lambda: stage.start(precision=precision.value))["precision"]
    if began != precision.value:
        say(f"this training began in {began} and continues in {precision.value}, so it is not the same bit for bit")
    if isinstance(task.data, SegmentBatches) and world.first:
        write_json(stage.directory / EXAMPLES_FILE, _first_examples(task.data, tokenizer))
    torch.manual_seed(seed + world.stream)  # of dropout
    new = base is None or (not base.is_dir() and last_checkpoint(stage.directory / "checkpoints", "step"))
    initial: WholeTensors | None = None
    if parallelism.together and isinstance(architecture, DecoderConfig):  # the model may be too large for one process
        model = build_unfilled(architecture)
        initial = partial(_initial_weights, architecture, None if new else base, seed)
    elif base is None or new:
        model = build(architecture).initialise(seed)  # if the base is gone, the checkpoint has the weights
        if isinstance(model, Encoder) and not last_checkpoint(stage.directory / "checkpoints", "step"):
            if isinstance(model.head, MaskedHead) and model.config.initialisation == "informed":
                counts = token_counts(TokenShards(source, "train", tokenizer.size), architecture.vocab_size)
                model.head.set_frequencies(torch.from_numpy(counts))
            say(similarity_line(token_similarity(model, task.data.batch(1, slice(0, SEQUENCES))), model))
    else:
        model = load_model(base, "cpu", "float32").train()
    with numerics(config.deterministic, config.tf32):
        ceiling = sum(world.gather(matrix_ceiling(device.value, getattr(torch, precision.value))))
    ranks = f"{world.count} processes, each on " if world.count > 1 else ""
    say(f"device: {ranks}{device}; precision: {precision}; matrix ceiling {ceiling / 1e9:,.0f} GFLOP/s")
    if world.count > 1:
        say(f"parallel: {config.parallel.about(world.count)}")
    say(f"torch.compile: {compiled}")
    parameters = count(model.parameter_count())
    say(f"{architecture.family} of {parameters} parameters, {config.total_steps} steps, {task.about}")
    return Training(
        model=model,
        objective=task.objective,
        data=task.data,
        validation=task.validation,
        other_validation=task.other_validation,
        config=config,
        directory=stage.directory,
        device=device,
        precision=precision,
        compile=compiled,
        parallelism=parallelism,
        initial=initial,
        flops_per_token=task.flops_per_token,
        ceiling=ceiling,
        unigram_entropy=task.unigram_entropy,
        diagnosis=task.diagnosis if plan.shard * plan.pipeline * plan.tensor == 1 else Training.diagnosis,
        trackers=partial(open_trackers, config.track, stage.directory, stage.config),
    )


def _initial_weights(architecture: DecoderConfig, base: Path | None, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the weights of a new model, or of those of `base`, one at a time."""
    if base is not None:
        return open_model(base, "cpu", "float32").weights()
    with torch.device("meta"):
        shapes = build(architecture)
    return shapes.initial_weights(seed)


def _first_examples(data: SegmentBatches, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first examples of the training with their masks, labels and documents, for a person to check."""
    batch = data.batch(1, slice(EXAMPLES))
    return [
        {**masked_example(batch, row, tokenizer.id_to_token), "documents": data.documents([batch.examples[row]])}
        for row in range(len(batch))
    ]


def _sizes(model: nn.Module) -> dict[str, int]:
    assert isinstance(model, Model)
    return {
        "parameters": model.parameter_count(),
        "non_embedding_parameters": model.parameter_count(embeddings=False),
    }


def _counts(training: Training, progress: Progress, sizes: dict[str, int]) -> dict[str, Any]:
    speed, meter = progress.tokens / max(progress.seconds, 1e-9), training.parallelism.meter
    data = training.data.parts[0] if isinstance(training.data, ReplayBatches) else training.data
    return {
        "ranks": training.parallelism.world.count,
        "communication": None if meter is None or meter.last is None else meter.last._asdict(),
        **sizes,
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
        **({"mixture": data.realised(progress.step)} if isinstance(data, MixedBatches) else {}),
        **{name: asdict(getattr(training, name)) for name in ("device", "precision", "compile")},
    }
