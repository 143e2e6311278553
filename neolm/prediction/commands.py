"""The command `neolm predict`."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from neolm.options import Device, Dtype, ModelArgument, Quantize


def predict(
    model: ModelArgument,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help='Texts such as "Paris is the [MASK] of France."')
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="A .jsonl or .txt file, with a text on each line.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--output", help="Write a line of JSON for each text; default: standard output.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Key of the text in the objects of a .jsonl file.")] = "text",
    top_k: Annotated[int, typer.Option(help="Number of alternatives for each [MASK].")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each TEXT.")] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts computed at a time; the results do not depend on it.")
    ] = 32,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Fill the masks of texts.

    The likeliest tokens for each [MASK], by a masked language model.
    """
    from neolm.core.errors import InputError
    from neolm.core.files import check_output_file, replacement
    from neolm.core.progress import say
    from neolm.prediction.lines import check_source, predict_lines
    from neolm.prediction.predict import load_predictor, predict_texts

    if bool(texts) == (source is not None):
        raise InputError('predict: give texts such as "Paris is the [MASK] of France.", or a file with --input')
    if target is not None:
        check_output_file(target, "predictions.jsonl", "a file of predictions", '"line"')
        if source is None:
            raise InputError("predict: --output is for --input; texts on the command line are printed (--json)")
        if target.exists() and source.exists() and target.samefile(source):
            raise InputError(f"{target}: input and output are the same file")
    if source is not None:
        check_source(source)
    predictor = load_predictor(model, device, dtype, quantize, top_k)
    if source is None:
        for result in predict_texts(predictor, texts or [], batch_size):
            print(json.dumps(result, ensure_ascii=False) if as_json else predictor.describe(result))
        return
    with replacement(target) if target else contextlib.nullcontext(sys.stdout.buffer) as file:
        summary = predict_lines(predictor, source, file, text_column, batch_size)
    say(f"predict: {summary}")
    if summary.failed:
        raise typer.Exit(2)
