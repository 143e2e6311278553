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
    source: Annotated[
        Path | None, typer.Option("--input", help="A table of labelled examples or answers, for a fine-tuned model.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    second_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the label or answer; several: several labels. Default: label."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Settings of `neolm config evaluate`.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
    quantize: Quantize = None,
) -> None:
    """Measure a model.

    A decoder: loss, perplexity and bits per byte, with intervals, next to compressors. An encoder: loss and accuracy of
    masked tokens, next to the unigram entropy, and accuracy of its sentence task. A classifier: accuracy, F1 and other
    scores on a table of labelled examples. A model that was tuned to answer: ROUGE, BLEU, chrF and exact match.
    """
    from neolm.core.device import choose_device
    from neolm.core.errors import InputError
    from neolm.core.files import check_output_file, write_json
    from neolm.evaluation.classifier import classifier_table, evaluate_classifier
    from neolm.evaluation.evaluate import evaluate_model
    from neolm.evaluation.scores_table import scores_table
    from neolm.run_ranks import run_ranks

    with run_ranks("evaluation") as ranks:
        if output is not None:
            check_output_file(output, "scores.json", "a file of scores", '"protocol"')
        if source is None:
            overrides = [*(settings or []), *([f"quantize={quantize}"] if quantize else [])]
            scores = evaluate_model(model, text, overrides, ranks)
        else:
            if text is not None or settings:
                raise InputError("evaluate: --text and --set are for language models; --input is for fine-tuned models")
            labels = label_column or ["label"]
            with ranks.connected(choose_device("auto").value):
                scores = evaluate_classifier(model, source, text_column, labels, second_column, quantize, ranks)
        if not ranks.first:
            return
        print(scores_table(scores) if source is None else classifier_table(scores))
        if output is not None:
            write_json(output, scores)
