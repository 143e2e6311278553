"""The `finetune` and `model` stages: a model for a task, beside the baselines that it must beat.

The order is that of cost: a linear model on TF-IDF features, a linear probe on frozen features, and the training of all
weights from the head of the probe (Kumar et al. 2022: linear probing, then fine-tuning). All are measured on the same
validation examples. The model is the better one of the last two; the cheapest that no other beats is recommended.
The other tasks have a simple baseline, and the training of all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from neolm.core.artifact import Stage
from neolm.core.config import defaults, load_config
from neolm.core.files import read_json, write_json, write_text
from neolm.core.manifest import Manifest, input_from, require
from neolm.core.model_files import TEMPLATE_FILE
from neolm.core.progress import count, say
from neolm.core.resumable import ResumableStage
from neolm.finetuning.choice_task import ChoiceTask
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.finetune_data import read_data
from neolm.finetuning.fit import Team
from neolm.finetuning.heads import TextModel, head_config, scale_head, set_head, with_head
from neolm.finetuning.instruct_task import InstructTask
from neolm.finetuning.open_part import part_files
from neolm.finetuning.run import PROBE, RESULTS_FILE, FinetuneRun
from neolm.finetuning.task import Task
from neolm.finetuning.task_run import TaskRun
from neolm.finetuning.token_tasks import QuestionTask, TagTask
from neolm.finetuning.trainable import freeze, merged, write_adapter
from neolm.models.config import DecoderConfig
from neolm.models.hf import load_model, open_model, save_model
from neolm.models.stored_model import recorded_config
from neolm.prediction.prediction_file import PredictionConfig, write_prediction_file
from neolm.tokenizer.tokenizer import copy_tokenizer
from neolm.training.checkpoint import final_checkpoint
from neolm.training.state import load_final

STAGE = "finetune"
ARCHITECTURE_FILE = "architecture.json"
TASKS: Mapping[str, Callable[[FinetuneConfig, int], Task]] = {
    "span": QuestionTask,
    "tokens": TagTask,
    "instruct": InstructTask,
    "choice": ChoiceTask,
}
"""The tasks that have a run of their own kind, each from the settings and the seed."""
ALONE = Team()


def finetune(output: Path, base: Path, config: FinetuneConfig, seed: int, team: Team = ALONE) -> Manifest | None:
    """Fine-tune the model in `base` into `output/finetune`, or resume an unfinished run; a finished one is kept.

    All processes of the `team` call this function. Rank 0 returns the manifest, and the others None.

    Raises:
        InputError: the base or the tables cannot be used.
    """
    if not team.ranks.first:
        run = None
        for message in team.ranks.heard():
            if not message["trains"]:
                break
            if run is None:
                run = _run(output / STAGE, base, config, seed, team)
            else:
                run.join(message)
        return None
    tables = part_files(config)
    inputs = {name: input_from(place, output) for name, place in {"base": base, **tables}.items()}
    settings = {"finetune": config.model_dump(mode="json"), "seed": seed}
    changeable = frozenset(f"finetune.{name}" for name in config.changeable())
    paths = {f"finetune.{name}": name for name in tables}
    known = {"finetune": defaults(config)}
    stage = ResumableStage(
        STAGE, "finetuning", output / STAGE, inputs, settings, changeable, paths=paths, defaults=known
    )

    def make() -> tuple[dict[str, Any], dict[str, Any]]:
        team.ranks.tell({"trains": True})
        run = _run(stage.directory, base, config, seed, team)
        stage.start()
        write_json(stage.directory / ARCHITECTURE_FILE, run.architecture.model_dump(mode="json"))
        return run.run()

    manifest = stage.resume(make)
    team.ranks.tell({"trains": False})
    return manifest


def _run(directory: Path, base: Path, config: FinetuneConfig, seed: int, team: Team) -> TaskRun | FinetuneRun:
    """Read the data and the model."""
    if config.kind in TASKS:
        return TaskRun(directory, base, TASKS[config.kind](config, seed), config, seed, team)
    data = read_data(config, seed)
    found = open_model(base, "cpu").config
    if isinstance(found, DecoderConfig) and config.pooling != "mean":
        say(f"finetune.pooling has no effect here, because {found.family} is a decoder, which reads the last token")
    architecture = head_config(found, data.targets, config.pooling)
    return FinetuneRun(directory, base, architecture, data, config, seed, team)


def build_finetuned_model(output: Path, base: Path, config: FinetuneConfig) -> Manifest:
    """Write the better of probe and fine-tuned model, the tokenizer and `prediction.json` to `output/model`."""
    source = output / "finetune"
    finished = require(source, "finetune", "finetune MODEL")
    inputs = {"finetune": input_from(source, output), "base": input_from(base, output)}
    stage = Stage("model", "finetuning", output / "model", inputs, {"final": config.final, "method": config.method})

    def make(directory: Path) -> Mapping[str, Any]:
        results = read_json(source / RESULTS_FILE)
        architecture = recorded_config(read_json(source / ARCHITECTURE_FILE))
        model = with_head(load_model(base, "cpu", "float32"), architecture, finished.config["seed"])
        _load(model, source, results, config, finished.counts["best_step"])
        if results["problem"] == "regression":
            scale_head(model, *results["scale"])
        save_model(model, directory)
        write_adapter(model, directory, base)
        copy_tokenizer(base, directory)
        if results.get("template"):
            write_text(directory / TEMPLATE_FILE, results["template"])
        found = {"task": "classification", **results["prediction"]}
        write_prediction_file(directory, load_config(PredictionConfig, found, where=""))
        return {"parameters": model.parameter_count(), "family": architecture.family, "chosen": results["model"]}

    return stage.ensure(
        make, lambda counts: f"{count(counts['parameters'])} parameters in {stage.directory}", config_file=False
    )


def _load(
    model: TextModel, source: Path, results: Mapping[str, Any], config: FinetuneConfig, best_step: int | None
) -> None:
    """Load the weights of a candidate into a model that has those of the base."""
    if results["model"] == PROBE:
        tensors = load_file(source / f"{PROBE}.safetensors")
        set_head(model, tensors["final_weight"], tensors["final_bias"])
        return
    freeze(model, config, 0)
    load_final(
        model,
        final_checkpoint(source / results.get("directory", "") / "checkpoints", config.final, best_step),
        config.final,
    )
    merged(model)
