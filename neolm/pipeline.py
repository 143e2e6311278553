"""The pipeline: the stages of a recipe in order, each skipped when it is up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from neolm.core.output import claim_output
from neolm.core.progress import say
from neolm.recipe import Recipe, load_recipe, save_recipe

STAGES = ("corpus", "tokenizer", "shards", "pretrain", "model", "evaluation", "report")


def run(recipe: str | Path, overrides: Sequence[str] = (), until: str = "report") -> Path:
    """Run `recipe` (a file or a built-in name) and return its output directory.

    Args:
        recipe: Path of a YAML file, or a built-in recipe such as `quickstart`.
        overrides: Settings such as `pretrain.steps=100`, stronger than the file's.
        until: The last of `STAGES` to run.

    Raises:
        InputError: the recipe, the data or the output directory cannot be used; nothing was lost.
    """
    settings = load_recipe(str(recipe), overrides)
    output = Path(settings.output).expanduser()
    with claim_output(output):
        save_recipe(settings, output / "recipe.yaml")
        for name in STAGES[: STAGES.index(until) + 1]:
            _stage(name)(output, settings)
    return output


def _stage(name: str) -> Callable[[Path, Recipe], object]:
    """The function behind a stage; imported when it runs, so that nothing heavy loads before it is needed."""
    match name:
        case "corpus":
            from neolm.corpus.build import build_corpus

            return lambda output, recipe: build_corpus(output, recipe.corpus)
        case "tokenizer":
            from neolm.tokenizer.build import build_tokenizer

            return lambda output, recipe: build_tokenizer(output, recipe.tokenizer)
        case "shards":
            from neolm.data.build import build_shards

            return lambda output, recipe: build_shards(output)
        case "pretrain":
            from neolm.training.pretrain import pretrain

            return lambda output, recipe: pretrain(output, recipe.model, recipe.pretrain, recipe.seed)
        case "model":
            from neolm.training.pretrain import build_model

            return lambda output, recipe: build_model(output, recipe.pretrain)
        case "evaluation":
            return _evaluate
        case _:
            return _report


def _evaluate(output: Path, recipe: Recipe) -> None:
    from neolm.core.artifact import require

    if require(output / "corpus", "corpus", "corpus build RECIPE").counts["validation"]["documents"] == 0:
        say("evaluation: skipped, there is no validation document")
        return
    from neolm.evaluation.evaluate import evaluate_stage

    evaluate_stage(output, recipe.evaluate)


def _report(output: Path, recipe: Recipe) -> None:
    from neolm.report.run_report import build_report

    say(f"report: {build_report(output)}")
