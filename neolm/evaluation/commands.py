"""The command `neolm evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neolm.options import ModelArgument, Quantize


def evaluate(
    model: ModelArgument,
    text: Annotated[
        str | None, typer.Option(help="A file or folder to measure on; default: the held-out text of the model's run.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Settings of `neolm config evaluate`.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
    quantize: Quantize = None,
) -> None:
    """Measure a model.

    A decoder: loss, perplexity and bits per byte, with intervals, next to compressors. An encoder: loss and accuracy of
    masked tokens, next to the unigram entropy, and accuracy of its sentence task.
    """
    from neolm.core.files import check_output_file, write_json
    from neolm.evaluation.evaluate import evaluate_model
    from neolm.evaluation.scores_table import scores_table

    if output is not None:
        check_output_file(output, "scores.json", "a file of scores", '"protocol"')
    overrides = [*(settings or []), *([f"quantize={quantize}"] if quantize else [])]
    scores = evaluate_model(model, text, overrides)
    print(scores_table(scores))
    if output is not None:
        write_json(output, scores)
