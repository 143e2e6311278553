"""The corpus funnel: documents read, dropped for each reason, kept, and held out."""

from __future__ import annotations

from neolm.report.bars import Bar, bar_chart
from neolm.report.pages import Figure, data_size
from neolm.report.run_files import Run

REASONS = {"broken_utf8": "not UTF-8", "broken_json": "broken JSON", "mostly_non_text": "mostly not text"}


def funnel_figure(run: Run) -> Figure:
    """Bars of the bytes at each step of the corpus stage, with the numbers of documents."""
    counts = run.counts("corpus")

    def bar(name: str, value: dict[str, int], start: float = 0, quiet: bool = False) -> Bar:
        number = f"{value['documents']:,}"
        if value.get("parts", value["documents"]) != value["documents"]:
            number += f" in {value['parts']:,} parts"
        return Bar(name, value["bytes"], f"{number} \u00b7 {data_size(value['bytes'])}", None, start, quiet)

    bars, left = [bar("read", counts["read"], quiet=True)], float(counts["read"]["bytes"])
    for reason, value in sorted(counts["rejected"].items(), key=lambda item: -item[1]["bytes"]):
        left = max(0.0, left - value["bytes"])
        bars.append(bar(f"dropped: {REASONS.get(reason, reason.replace('_', ' '))}", value, left, quiet=True))
    train = counts["train"]
    bars += [bar("kept", counts["kept"]), bar("for training", train)]
    bars.append(bar("for validation", counts["validation"], train["bytes"]))
    caption = "Number of documents \u00b7 size of their text."
    return Figure(lambda width: bar_chart(bars, "The corpus funnel", width), caption)
