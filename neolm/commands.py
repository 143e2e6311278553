"""Commands that work on whole runs and recipes: run, corpus build, tokenizer train, pretrain, show, import, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from neolm.core.ranks import is_rank_0
from neolm.options import Cluster, Dtype, ModelArgument, OverridesArgument, Quantize, RecipeArgument
from neolm.scaling.commands import plan


def run(recipe: RecipeArgument, overrides: OverridesArgument = None, cluster: Cluster = None) -> None:
    """Run a recipe: from raw text to a report."""
    output = _run(recipe, overrides, cluster=cluster)
    print(output / "report.html" if (output / "report.html").exists() else output)


def corpus_build(recipe: RecipeArgument, overrides: OverridesArgument = None, cluster: Cluster = None) -> None:
    """Build the documents of a recipe."""
    print(_run(recipe, overrides, "corpus", cluster) / "corpus")


def corpus_drop(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A corpus, or the run that it belongs to.")],
    output: Annotated[Path, typer.Option(help="Directory of the new run; the corpus is written to its folder corpus.")],
    source: Annotated[list[str] | None, typer.Option(help="Drop the documents of this source.")] = None,
    url: Annotated[list[str] | None, typer.Option(help="Drop the documents from this URL.")] = None,
    name: Annotated[list[str] | None, typer.Option("--id", help="Drop the document with this id.")] = None,
    matching: Annotated[
        str | None, typer.Option(help="Drop documents that match this regular expression, whatever the case.")
    ] = None,
    near_copies: Annotated[
        bool,
        typer.Option("--near-copies", help="Drop their near copies too, kept by near_duplicates.action=report."),
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(help="Folder in which runs that used the corpus are looked for; default: its own.")
    ] = None,
) -> None:
    """Write a corpus without some documents, and list what was built from them.

    The old corpus, and what was built from it, stay as they are. Train again with `neolm run RECIPE corpus=null
    output=DIR`.
    """
    from neolm.corpus.drop import Criteria
    from neolm.take_back import take_back

    criteria = Criteria(tuple(source or ()), tuple(url or ()), tuple(name or ()), matching, near_copies)
    print("\n".join(take_back(directory, output, criteria, runs)))


def corpus_train_filter(
    positive: Annotated[Path, typer.Argument(metavar="POSITIVE", help="File or folder of text of the wanted quality.")],
    negative: Annotated[
        Path, typer.Argument(metavar="NEGATIVE", help="File or folder of other text, such as a crawl.")
    ],
    output: Annotated[Path, typer.Option(help="The directory to write.")],
    l2: Annotated[float, typer.Option(min=1e-6, help="L2 penalty of the weights; more for few documents.")] = 0.03,
) -> None:
    """Train the quality classifier of a corpus, and measure it.

    Use it with `corpus.quality.model=DIR`.
    """
    from neolm.train_filter import train_filter

    train_filter(positive, negative, output, l2)
    print(output)


def tokenizer_train(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Train the tokenizer of a recipe, after its corpus."""
    print(_run(recipe, overrides, "tokenizer") / "tokenizer")


def pretrain(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan of the training, as `neolm plan`, and start nothing.")
    ] = False,
) -> None:
    """Train a recipe's model, or resume its training.

    Builds the corpus and the tokenizer first if they are missing.
    """
    if dry_run:
        plan(recipe, overrides)
        return
    print(_run(recipe, overrides, "model") / "model")


def _run(recipe: str, overrides: list[str] | None, until: str | None = None, cluster: str | None = None) -> Path:
    from neolm.pipeline import run as run_recipe

    if cluster is not None:
        from neolm.corpus.engine import use_cluster

        use_cluster(cluster)
    output = run_recipe(recipe, overrides or [], until)
    if not is_rank_0():
        raise typer.Exit
    return output


def import_model(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A Hugging Face directory, or a hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write.")],
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Import a published GPT-2, GPT-Neo or GPT-NeoX.

    The result is a model directory with tokenizer and manifest.
    """
    from neolm.exchange import import_directory

    print(import_directory(source, target, dtype, quantize))


def export_model(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write.")],
    to: Annotated[
        Literal["hf", "gguf"],
        typer.Option(help="hf: a Hugging Face directory with safetensors; gguf: one file for llama.cpp."),
    ] = "hf",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Write a model for other software."""
    from neolm.exchange import export_directory

    print(export_directory(model, target, dtype, quantize, to))


def show(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or the directory of one of its stages.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its recorded digest.")] = False,
) -> None:
    """Print what a directory was built from, back to the raw text."""
    from neolm.show import show as describe

    print(describe(directory, verify))


def config(
    command: Annotated[str, typer.Argument(metavar="SECTION", help="Such as pretrain; run: all of them.")] = "run",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """Print every setting with its type, default and meaning.

    `neolm config presets` prints the published models, `neolm config recipes` the built-in recipes.
    """
    from neolm.core.progress import table, wide_table
    from neolm.describe import presets_table, recipes_table, section_settings

    if schema:
        from neolm.recipe import Recipe

        print(json.dumps(Recipe.model_json_schema(), indent=2))
    elif command in ("presets", "recipes"):
        print(table(presets_table() if command == "presets" else recipes_table()))
    else:
        rows = [(s.key, s.type, s.default, s.unit, s.meaning) for s in section_settings(command)]
        print(wide_table([("KEY", "TYPE", "DEFAULT", "UNIT", "MEANING"), *rows]))


def doctor() -> None:
    """Print what this machine can do.

    What NeoLM will use on it, with reasons, and what is missing.
    """
    from neolm.core.progress import table
    from neolm.describe import machine_report

    print(table(machine_report()))
