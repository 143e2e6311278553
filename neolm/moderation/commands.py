"""The command `neolm moderate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neolm.options import Device, Dtype, Quantize
from neolm.prediction.commands import AsJson, BatchSize, Delimiter, Encoding, Header, Source, predict_table

PolicyArgument = Annotated[Path, typer.Argument(metavar="POLICY", help="A YAML file: see docs/moderation.md.")]
Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts; with a table, further policies.")]
SideOption = Annotated[Literal["prompt", "answer"], typer.Option(help="Whether the texts are prompts or answers.")]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the text: its name, or its number without a header. Default: text.")
]
Target = Annotated[
    Path | None, typer.Option("--output", help="A .csv, .tsv, .jsonl or .parquet file; with --audit, an .html page.")
]
Audit = Annotated[
    Path | None, typer.Option("--audit", metavar="FILE", help="A table of labelled texts: print the errors.")
]
LabelColumn = Annotated[str, typer.Option(help="With --audit: column of the label.")]
GroupColumn = Annotated[
    list[str] | None,
    typer.Option(help="With --audit: column of the group that a text speaks about; several may be given."),
]
Positive = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[CATEGORY=]LABEL",
        help="With --audit: a label of texts that are in the category; default: the labels of the model that count.",
    ),
]
DryRun = Annotated[
    Path | None, typer.Option("--dry-run", metavar="FILE", help="A table of texts: print what would happen to them.")
]


def moderate(
    policy: PolicyArgument,
    texts: Texts = None,
    side: SideOption = "prompt",
    source: Source = None,
    target: Target = None,
    dry_run: DryRun = None,
    audit_table: Audit = None,
    label_column: LabelColumn = "label",
    group_column: GroupColumn = None,
    positive: Positive = None,
    text_column: TextColumn = None,
    header: Header = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Judge texts by a moderation policy.

    The action and the scores of each text are printed, or added to the rows of a table. --dry-run prints what one or
    several policies would have done with the texts of a table, --audit how often a policy is wrong, and about whom.
    """
    from neolm.core.artifact import code_digest
    from neolm.core.errors import InputError
    from neolm.core.files import write_text
    from neolm.core.progress import say
    from neolm.moderation.audit import audit, described
    from neolm.moderation.dry_run import DryRun
    from neolm.moderation.moderator import Moderator
    from neolm.prediction.predict import predict_texts
    from neolm.report.moderation_card import check_page, moderation_card
    from neolm.tables.table import open_table
    from neolm.tables.writer import check_format

    path = source or dry_run or audit_table
    if sum(map(bool, (source, dry_run, audit_table, texts and not (dry_run or audit_table)))) != 1:
        raise InputError("moderate: give texts, or a table with --input, --dry-run or --audit")
    if target is not None and not (source or audit_table):
        raise InputError("moderate: --output is for --input and --audit")
    if target is not None:
        (check_format if source else check_page)(target)
    table = None if path is None else open_table(path, header, delimiter, encoding)
    moderator = Moderator(policy, device, dtype, quantize, side)
    if table is None:
        for result in predict_texts(moderator, texts or [], batch_size):
            print(json.dumps(result, ensure_ascii=False) if as_json else moderator.describe(result))
        return
    if table.guess and source is None:
        say(table.guess)
    others = [Moderator(Path(other), device, dtype, quantize, side) for other in texts or []]
    if audit_table is not None:
        columns = table.column(text_column or "text"), table.column(label_column)
        errors = audit(moderator, table, columns, group_column or (), positive or (), batch_size, others)
        if target is not None:
            write_text(target, moderation_card(errors))
            say(f"moderate: {target}")
        print(json.dumps(errors, ensure_ascii=False) if as_json else described(errors))
    elif dry_run is not None:
        found = DryRun([moderator, *others], side)
        found.read(table, table.column(text_column or "text"), batch_size)
        print(json.dumps(found.as_json(), ensure_ascii=False) if as_json else found.describe())
    else:

        def done_by(columns: Sequence[str]) -> Mapping[str, Any]:
            choices = {"columns": columns, "side": side, "device": device, "dtype": dtype, "quantize": quantize}
            return {"code": code_digest("moderation"), "policy": moderator.digest, "settings": choices}

        predict_table("moderate", moderator, table, target, (text_column,), done_by, batch_size)
