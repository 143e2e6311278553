"""The command `neolm predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.options import Device, Dtype, ModelArgument, Quantize

if TYPE_CHECKING:
    from neolm.prediction.predict import Predictor
    from neolm.tables.table import Table

TASK_NAMES = {"qa": "span"}
"""Names of tasks besides those of prediction.json."""

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help='Texts such as "Paris is the [MASK] of France.", questions, or pairs.'),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="classification, choice, fill-mask, instruct, qa or tokens; another than the model's is refused."
    ),
]
Context = Annotated[
    Path | None, typer.Option(help="A text file with the answers to questions; - is the standard input.")
]
Source = Annotated[
    Path | None,
    typer.Option("--input", help="A table: .csv, .tsv, .jsonl, .parquet, or .txt with a text on each line."),
]
Target = Annotated[
    Path | None, typer.Option("--output", help="A .csv, .tsv, .jsonl or .parquet file; default: print JSON.")
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the text: its name, or its number in a file without a header. Default: text, or question."
    ),
]
SecondColumn = Annotated[
    str | None,
    typer.Option(
        "--second-column",
        "--context-column",
        help="Column of the second text of a pair, or of a question's context. Default: second, or context.",
    ),
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether a .csv or .tsv begins with the names of its columns."),
]
Delimiter = Annotated[str | None, typer.Option(help="Character between the cells of a .csv or .tsv.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of a text file, for example cp1251.")]
TopK = Annotated[int, typer.Option(help="Number of alternatives for each [MASK], answers, or labels that are shown.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting that replaces the one in the model's prediction.json."),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Zero-shot: labels with commas between them, or a file with a label a line or a column label."),
]
Template = Annotated[str | None, typer.Option(help='How a label is read, such as "This text is about {label}."')]
Shortlist = Annotated[
    str | None, typer.Option(help="An encoder of sentences that chooses the 10 labels which MODEL then compares.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each TEXT.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts computed at a time; the results do not depend on it.")]


def predict(
    model: ModelArgument,
    texts: Texts = None,
    task: Task = None,
    context: Context = None,
    source: Source = None,
    target: Target = None,
    text_column: TextColumn = None,
    second_column: SecondColumn = None,
    header: Header = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    top_k: TopK = 5,
    overrides: Settings = None,
    labels: Labels = None,
    template: Template = None,
    shortlist: Shortlist = None,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Ask a model about texts.

    A classifier gives labels with probabilities. A masked language model fills each [MASK]. A model that was trained on
    questions answers by a part of a context, one that was trained on tags finds entities. With --labels, an encoder of
    sentences, a classifier of entailment or a decoder gives one of them.
    """
    from neolm.core.device import choose_device
    from neolm.core.errors import InputError
    from neolm.prediction.predict import grouped, load_predictor, predict_texts
    from neolm.prediction.rows import work
    from neolm.prediction.with_context import STANDARD_INPUT, WithContext, read_context
    from neolm.run_ranks import run_ranks
    from neolm.tables.table import open_table
    from neolm.tables.writer import check_format

    with run_ranks("prediction") as ranks, ranks.connected(choose_device(device).value):
        if ranks.count > 1 and (source is None or context == STANDARD_INPUT):
            raise InputError("predict: several processes need files: give --input TABLE, or start it without torchrun")
        if bool(texts) == (source is not None):
            raise InputError('predict: give texts such as "Paris is the [MASK] of France.", or a file with --input')
        if source is None and target is not None:
            raise InputError("predict: --output is for --input; texts on the command line are printed (--json)")
        if target is not None:
            check_format(target)
        table = None if source is None else open_table(source, header, delimiter, encoding)
        given = None if context is None else read_context(context)
        settings = [*([] if task is None else [f"task={TASK_NAMES.get(task, task)}"]), *(overrides or [])]
        loading = device, dtype, quantize
        zero_shot: dict[str, Any] = {}
        predictor: Predictor[Any]
        if labels is not None:
            predictor, zero_shot = _zero_shot(model, labels, template, shortlist, loading, settings, top_k)
        elif template is not None or shortlist is not None:
            raise InputError("predict: --template and --shortlist are for --labels")
        else:
            predictor = load_predictor(model, *loading, top_k, settings)
        if given is not None:
            predictor = WithContext(predictor, given)
        if table is not None:
            choices = {"top_k": top_k, "device": device, "dtype": dtype, "quantize": quantize, "settings": settings}

            def done_by(columns: Sequence[str]) -> Mapping[str, Any]:
                return work(model, {"columns": columns, **choices, "context": given, **zero_shot})

            columns = text_column, second_column
            predict_table("predict", predictor, table, target, columns, done_by, batch_size, ranks)
            return
        if "context" in predictor.inputs:
            raise InputError("predict: a question needs a context: give a file with --context, or a table with --input")
        for result in predict_texts(predictor, grouped(texts or [], predictor.inputs), batch_size):
            print(json.dumps(result, ensure_ascii=False) if as_json else predictor.describe(result))


def _zero_shot(
    model: str,
    labels: str,
    template: str | None,
    shortlist: str | None,
    loading: tuple[str | None, str | None, str | None],
    settings: Sequence[str],
    top_k: int,
) -> tuple[Predictor[Any], dict[str, Any]]:
    """The predictor of given labels, and what its results follow from besides the model."""
    from dataclasses import asdict

    from neolm.prediction.option_scorer import load_scorer
    from neolm.prediction.rows import work
    from neolm.prediction.zero_shot import ZeroShot, read_labels

    options = read_labels(labels)
    first = None if shortlist is None else load_scorer(shortlist, *loading)
    predictor = ZeroShot(load_scorer(model, *loading, settings), options, template, first, top_k)
    depends = {"labels": [*map(asdict, options)], "template": template}
    return predictor, depends | {"shortlist": None if shortlist is None else work(shortlist, {})}


def predict_table(
    name: str,
    predictor: Predictor[Any],
    table: Table,
    target: Path | None,
    columns: Sequence[str | None],
    done_by: Callable[[Sequence[str]], Mapping[str, Any]],
    batch_size: int,
    ranks: RunRanks = ONE_RANK,
) -> None:
    """Add predictions to the rows of a table: written to `target`, or printed. Ends with 2 if a row is not used.

    Args:
        name: The command, for messages.
        predictor: What computes the predictions.
        table: The table.
        target: The file to write; None: print lines of JSON.
        columns: The columns of the predictor's inputs; None: those of the same names.
        done_by: From the columns to what the predictions follow from, besides the table (`extend_table`).
        batch_size: Rows computed at a time.
        ranks: The connected processes that share the batches.
    """
    from neolm.core.errors import InputError
    from neolm.core.files import digest_file
    from neolm.core.progress import say
    from neolm.prediction.choose import Choose
    from neolm.prediction.rows import added_columns, row_predictions, suited
    from neolm.tables.extend import check_target, extend_table, extended_rows
    from neolm.tables.journal import Summary
    from neolm.tables.writer import json_line

    if table.guess:
        say(table.guess)
    predictor = suited(predictor, table, columns[0])
    if columns[-1] is not None and len(predictor.inputs) < len(columns):
        raise InputError(f"{name}: --second-column: the model reads one text of each row")
    reads = None
    if isinstance(predictor, Choose):
        chosen, reads = predictor.reader(table, *columns)
    else:
        names = zip(columns, predictor.inputs, strict=False)
        chosen = [table.column(usual if given is None else given) for given, usual in names]
    if ranks.count > 1:
        ranks.compare({"table": digest_file(table.path)})
    added, compute = added_columns(predictor), row_predictions(predictor, chosen, reads)
    if target is None:
        summary = Summary()
        for row in extended_rows(table, added, compute, batch_size, summary, ranks):
            if ranks.first:
                sys.stdout.buffer.write(json_line(row))
        sys.stdout.flush()  # torchrun ends this process when another one ends with 2
    else:
        check_target(table, target, added)
        summary = extend_table(table, target, added, compute, done_by(chosen), batch_size, ranks)
    say(f"{name}: {summary}")
    if summary.failed:
        raise SystemExit(2)


def decide(
    model: ModelArgument,
    questions: Annotated[Path | None, typer.Option(help="A .json file of questions.")] = None,
    state: Annotated[
        str | None, typer.Option(help="The text, or JSON, that is asked about; - is the standard input.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Fit temperatures to a .jsonl file of states, questions and answers, into MODEL/decision.json."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting that replaces that in decision.json."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Answer typed questions about a text: a probability for every option, and no generated text."""
    from neolm.core.errors import InputError
    from neolm.core.files import read_json_value
    from neolm.prediction import decide as decisions
    from neolm.prediction.calibrate_decisions import calibrate as fit
    from neolm.prediction.decision_forms import parse_questions
    from neolm.prediction.option_scorer import load_scorer
    from neolm.prediction.with_context import STANDARD_INPUT, read_context

    if calibrate is not None:
        if state is not None or questions is not None:
            raise InputError("decide: --calibrate has states and questions in its file")
        print("\n".join(fit(model, calibrate, overrides or [])))
        return
    if state is None or questions is None:
        raise InputError("decide: give --state TEXT and --questions FILE.json, or --calibrate FILE.jsonl")
    given = read_json_value(questions)
    try:
        parsed = parse_questions(given)
    except InputError as error:
        raise InputError(f"{questions}: {error}") from None
    text = read_context(STANDARD_INPUT) if state == str(STANDARD_INPUT) else state
    decisions.state_text(text)  # before the model is loaded
    scorer = load_scorer(model, device, dtype, quantize, overrides or [])
    found = decisions.answers(scorer, text, parsed, isinstance(given, dict))
    print(json.dumps(found, ensure_ascii=False, indent=2))
