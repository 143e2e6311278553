"""The table of stages: what a run can build, from which section of the recipe, out of which earlier stages.

The pipeline and `neolm show` read this table. Builders import their room when they run, so that reading the table loads
nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neolm.core.device import choose_compile, choose_device, choose_precision
from neolm.core.errors import InputError, SettingError
from neolm.core.files import expanded
from neolm.core.manifest import read_manifest, require
from neolm.core.progress import say
from neolm.core.ranks import RunRanks, ranks_in_environment
from neolm.corpus.config import CorpusConfig
from neolm.recipe import Recipe
from neolm.tokenizer.config import TokenizerConfig

if TYPE_CHECKING:
    from neolm.corpus.evaluation_items import EvaluationSets
    from neolm.training.config import TrainConfig
    from neolm.training.run import Parallelism

Build = Callable[[Path, Any, Recipe, RunRanks], object]
"""Takes the output directory, the section of the recipe, the whole recipe and the processes of the run."""


@dataclass(frozen=True)
class StageRow:
    """Everything that is known about a stage."""

    name: str
    """Name of the stage and of its directory (or file) under `output`."""
    section: str
    """Section of the recipe that asks for it."""
    build: Build
    """Builds the stage under `output`, unless it is up to date."""
    inputs: tuple[str, ...] = ()
    """Stages that it reads."""
    parallel: bool = False
    """Built by all ranks of a run that torchrun started together; the others are built by rank 0."""
    resumable: bool = False
    """Built in place over several sessions, and never rebuilt by itself."""
    check: Callable[[Path, Any, Recipe], object] = lambda output, config, recipe: None
    """Raises InputError for mistakes that the recipe alone shows, before anything is built."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Words for the counts of its manifest, by dotted key; other counts are shown by their key."""


def _check_corpus(output: Path, config: Any, recipe: Recipe) -> None:
    from neolm.corpus.sources import RawText

    if read_manifest(output / "corpus") is None:
        RawText(config, output).found  # noqa: B018 - raises what is wrong with the raw text


def _evaluation_sets(config: CorpusConfig) -> EvaluationSets | None:
    from neolm.evaluation_sets import evaluation_sets

    return None if config.decontamination is None else evaluation_sets(config.decontamination)


def _corpus(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.report.datasheet import write_datasheet

    _build_corpus(output, config)
    write_datasheet(output / "corpus")


def _build_corpus(output: Path, config: CorpusConfig) -> None:
    from neolm.corpus.build import build_corpus

    found = {}
    if config.scores:
        from neolm.document_scorers import scorers  # loads torch

        found = scorers(config.scores)
    build_corpus(output, config, _evaluation_sets(config), found)


def _tokenizer(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.tokenizer.build import build_tokenizer

    build_tokenizer(output, _tokenizer_config(recipe))


def _shards(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.corpus.documents import training_sources
    from neolm.data.build import build_shards
    from neolm.report.datasheet import write_datasheet

    if config.mixture.active:
        config.mixture.check(training_sources(output / "corpus"))  # before the text is encoded
    build_shards(output)
    if not (output / "corpus").is_symlink():
        write_datasheet(output / "corpus")  # with the tokens
    if config.replay.path is not None:
        say(f"shards: the text that is replayed, {config.replay.path}")
        _build_corpus(output / "replay", _replay_corpus(recipe))
        build_shards(output / "replay", output / "tokenizer")


def _replay_corpus(recipe: Recipe) -> CorpusConfig:
    """The settings of the corpus that is replayed: those of the recipe's corpus, with other text."""
    assert recipe.pretrain is not None
    corpus = recipe.corpus or CorpusConfig()
    return corpus.model_copy(update={"source": "files", "path": recipe.pretrain.replay.path})


def _check_pretrain(output: Path, config: Any, recipe: Recipe) -> None:
    from neolm.training.parallel_config import check_model, check_ranks
    from neolm.training.pretrain_task import unused_settings
    from neolm.training.trackers import require_packages

    model = architecture(recipe)
    for key, reason in unused_settings(model, config):
        say(f"pretrain.{key} has no effect here, because {reason}")
    if config.replay.path is not None:
        try:
            _check_corpus(output / "replay", _replay_corpus(recipe), recipe)
        except SettingError as error:
            raise error.within("replay") from None
    check_ranks(config.parallel, config.batch_sizes, ranks_in_environment())
    check_model(config.parallel, model, config.sequence_length)
    device = choose_device(config.device).value
    choose_compile(config.compile, device, choose_precision(config.precision, device).value)
    require_packages(config.track)


def _pretrain(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.training.pretrain import pretrain

    with shared_training(ranks, config) as parallelism:
        pretrain(output, recipe.model or _base(recipe), config, recipe.seed, parallelism)


@contextmanager
def shared_training(ranks: RunRanks, config: TrainConfig) -> Iterator[Parallelism]:
    """How the processes share a training, which they are connected for inside the `with` block."""
    from neolm.training.run import Parallelism

    if ranks.count == 1:
        yield Parallelism()
        return
    from neolm.distributed.plan import parallelism

    device = choose_device(config.device).value
    with ranks.connected(device, config.parallel.timeout):
        yield parallelism(config.parallel, device)


def _model(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.report.model_card import write_model_card
    from neolm.training.pretrain import build_model

    build_model(output, config)
    write_model_card(output / "model")


def _finetune(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.finetuning.finetune import finetune
    from neolm.finetuning.fit import Team

    finetune(output, _base(recipe), config, recipe.seed, Team(ranks, partial(shared_training, ranks)))


def _finetuned_model(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.finetuning.finetune import build_finetuned_model
    from neolm.report.model_card import write_model_card

    build_finetuned_model(output, _base(recipe), config)
    write_model_card(output / "model")


def _check_finetune(output: Path, config: Any, recipe: Recipe) -> None:
    from neolm.training.trackers import require_packages

    device = choose_device(config.device).value
    choose_compile(config.compile, device, choose_precision(config.precision, device).value)
    require_packages(config.track)


def _evaluation(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.evaluation.evaluate import evaluate_stage

    if require(output / "corpus", "corpus", "corpus build RECIPE").counts["validation"]["documents"] == 0:
        say("evaluation: skipped, because there is no validation document")
        return
    evaluate_stage(output, config, _base(recipe) if recipe.base and not recipe.pretrain else None, ranks)


def _report(output: Path, config: Any, recipe: Recipe, ranks: RunRanks) -> None:
    from neolm.report.model_card import write_model_card
    from neolm.report.run_report import build_report

    if read_manifest(output / "model") is not None:
        write_model_card(output / "model")
    say(f"report: {build_report(output)}")


STAGES = (
    StageRow(
        "corpus",
        "corpus",
        _corpus,
        check=_check_corpus,
        counts={
            "kept.documents": "documents",
            "kept.parts": "parts of documents",
            "kept.bytes": "bytes",
            "train.documents": "documents to train on",
            "validation.documents": "documents for validation",
            "mojibake": "documents with mojibake",
        },
    ),
    StageRow(
        "tokenizer",
        "tokenizer",
        _tokenizer,
        ("corpus",),
        counts={"tokens": "tokens in the vocabulary", "bytes": "bytes trained on"},
    ),
    StageRow(
        "shards",
        "pretrain",
        _shards,
        ("corpus", "tokenizer"),
        counts={"train.tokens": "tokens to train on", "train.sentences": "sentences to train on"},
    ),
    StageRow("pretrain", "pretrain", _pretrain, ("shards", "tokenizer"), True, resumable=True, check=_check_pretrain),
    StageRow("model", "pretrain", _model, ("pretrain", "tokenizer"), counts={"step": "step of the weights"}),
    StageRow("finetune", "finetune", _finetune, parallel=True, resumable=True, check=_check_finetune),
    StageRow("model", "finetune", _finetuned_model, ("finetune",)),
    StageRow("evaluation", "evaluate", _evaluation, ("corpus", "model"), parallel=True),
)
REPORT = StageRow("report.html", "", _report)


def architecture(recipe: Recipe) -> Any:
    """Configuration of the model that a recipe trains, as far as the recipe tells (a learnt vocabulary can be smaller).

    Raises:
        InputError: there is no such model, or its sizes do not fit together, the tokenizer or the sequence length.
    """
    from neolm.tokenizer.tokenizer import load_tokenizer
    from neolm.training.pretrain import check_tokenizer_kind, resolve_architecture

    if recipe.pretrain is None:
        raise InputError("recipe: the section 'pretrain' is missing")
    output = expanded(recipe.output)
    path = output / "tokenizer" if (output / "tokenizer").is_dir() else None
    if recipe.tokenizer or recipe.base:
        chosen = _tokenizer_config(recipe).path
        source = expanded(chosen) if chosen else None
        if source is None or source.exists() or path is None:  # else it was copied, and is no longer there
            path = source
    trained, stored = recipe.tokenizer or TokenizerConfig(), load_tokenizer(path) if path else None
    size, kind = (stored.size, stored.kind) if stored else (trained.vocab_size, trained.kind)
    found = resolve_architecture(recipe.model or _base(recipe), recipe.pretrain, size, {}, output)
    check_tokenizer_kind(found, kind)
    return found


def _tokenizer_config(recipe: Recipe) -> TokenizerConfig:
    return recipe.tokenizer or TokenizerConfig(path=str(_base(recipe)))


def _base(recipe: Recipe) -> Path:
    """Directory of the base, which may be gone if the run has a copy of its tokenizer."""
    from neolm.models.hf import model_directory

    assert recipe.base is not None
    given = expanded(recipe.base)
    copied = read_manifest(expanded(recipe.output) / "tokenizer")
    source = copied.config.get("path") if copied else None
    if source and not given.exists() and Path(source).resolve() in (given.resolve(), (given / "model").resolve()):
        return Path(source)
    return model_directory(recipe.base)
