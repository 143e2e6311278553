"""The section on the corpus: what was read, what was dropped and why, what is left."""

from __future__ import annotations

from neolm.report.bars import Bar, bar_chart
from neolm.report.figure import data_size, figure, missing, paragraph, plural, section
from neolm.report.markup import Html, Node
from neolm.report.run_files import Run

REASONS = {
    "empty": "empty",
    "too_short": "too short",
    "too_long_lines": "lines too long",
    "mostly_non_text": "mostly not text",
    "duplicate": "duplicate",
    "broken_utf8": "not UTF-8",
    "broken_json": "broken JSON",
    "missing_text": "no text in it",
    "binary": "binary",
    "truncated": "ends early",
    "unreadable": "unreadable",
}


def funnel_section(run: Run) -> Html:
    """The funnel from read to kept to train and validation."""
    counts = run.counts("corpus")
    if not counts.get("read"):
        return section("corpus", "What it read", missing("This run has no corpus."))
    bars = _bars(run)
    read, kept = counts["read"], counts["kept"]
    text: list[Node] = [
        f"Of {plural(read['documents'], 'document')} with {data_size(read['bytes'])}, {kept['documents']:,} were kept."
    ]
    if counts["train"]["documents"] + counts["validation"]["documents"] != kept["documents"]:
        text.append(" Long documents were cut into parts; training and validation count these.")
    text.append(" Validation is text that the model never trains on: the scores are measured there.")
    if not counts["validation"]["documents"]:
        text[-1] = " Nothing could be held out for validation, so there are no scores."
    if counts.get("ignored_files"):
        text.append(f" {plural(counts['ignored_files'], 'file')} of other kinds were not read.")
    return section(
        "corpus",
        "What it read",
        paragraph(*text),
        figure(
            lambda width: bar_chart(bars, "The corpus funnel", width),
            "Number of documents \u00b7 bytes of text in them.",
        ),
    )


def _bars(run: Run) -> list[Bar]:
    counts = run.counts("corpus")

    def bar(name: str, value: dict[str, int], start: float = 0, quiet: bool = False) -> Bar:
        return Bar(
            name, value["bytes"], f"{value['documents']:,} \u00b7 {data_size(value['bytes'])}", None, start, quiet
        )

    bars, left = [bar("read", counts["read"], quiet=True)], float(counts["read"]["bytes"])
    for reason, value in sorted(counts["rejected"].items(), key=lambda item: -item[1]["bytes"]):
        left = max(0.0, left - value["bytes"])
        bars.append(bar(f"dropped: {REASONS.get(reason, reason.replace('_', ' '))}", value, left, quiet=True))
    train = counts["train"]
    bars += [bar("kept", counts["kept"]), bar("for training", train)]
    return [*bars, bar("for validation", counts["validation"], train["bytes"])]
