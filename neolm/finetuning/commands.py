"""The command `neolm finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neolm.options import ModelArgument, OverridesArgument


def finetune(
    model: ModelArgument,
    overrides: OverridesArgument = None,
    task: Annotated[
        str,
        typer.Option(
            help="classification (a text has a label), pair (two texts have one), regression (a number), span (a "
            "question is answered by a part of a context), tokens (words have tags), instruct (a decoder answers), "
            "choice (one of several options is right)."
        ),
    ] = "classification",
    train: Annotated[
        str | None, typer.Option(help="A table of training examples: .csv, .tsv, .jsonl, .json or .parquet.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="A table of validation examples; default: a part of the training examples.")
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="Column of the text: its name, or its number in a file without a header.")
    ] = "text",
    second_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the label; several columns, each 0 or 1, are several labels. Default: label."),
    ] = None,
    prompt: Annotated[str, typer.Option(help='instruct: text before what is given, such as "Summarise: ".')] = "",
    option_column: Annotated[
        list[str] | None, typer.Option(help="choice: columns of the options, or one with lists of them.")
    ] = None,
    output: Annotated[str, typer.Option(help="The directory of the run.")] = "runs/finetuned",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the data and of dropout.")] = 1,
) -> None:
    """Train a model to classify texts, or to another task, from a table.

    First what a table has and lacks is printed; then simple baselines are trained, and the model is compared with them.
    Further settings are those of `neolm config finetune`, such as finetune.epochs=5.
    """
    from neolm.core.errors import InputError
    from neolm.core.ranks import is_rank_0
    from neolm.pipeline import run

    if train is None:
        raise InputError("finetune: give a table of training examples: --train FILE")
    section = {
        "task": task,
        "train": train,
        "validation": validation,
        "text_column": text_column,
        "second_column": second_column,
        "label_column": label_column or ["label"],
        "prompt": prompt,
        "option_columns": option_column or [],
    }
    recipe = {"output": output, "seed": seed, "base": model, "finetune": section}
    report = Path(run(recipe, overrides or [])) / "report.html"
    if is_rank_0():
        print(report)
