"""The funnel of a corpus: how much of the raw text each step leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.report.chart import Bar, bar_chart
from neolm.report.pages import Figure, data_size


def funnel_figure(counts: Mapping[str, Any]) -> Figure:
    """Bars of the bytes at each step, with the numbers of documents, by the counts of the corpus."""

    def bar(name: str, value: dict[str, int], start: float = 0, quiet: bool = False) -> Bar:
        number = f"{value['documents']:,}"
        if value.get("parts", value["documents"]) != value["documents"]:
            number += f" in {value['parts']:,} parts"
        return Bar(name, value["bytes"], f"{number} \u00b7 {data_size(value['bytes'])}", None, start, quiet)

    bars, left = [bar("read", counts["read"], quiet=True)], float(counts["read"]["bytes"])
    for reason, value in sorted(counts["rejected"].items(), key=lambda item: -item[1]["bytes"]):
        left = max(0.0, left - value["bytes"])
        words = counts.get("reasons", {}).get(reason, reason.replace("_", " "))
        bars.append(bar(f"dropped: {words}", value, left, quiet=True))
    train = counts["train"]
    bars += [bar("kept", counts["kept"]), bar("for training", train)]
    bars.append(bar("for validation", counts["validation"], train["bytes"]))
    caption = "Number of documents \u00b7 size of their text."
    return Figure(lambda width: bar_chart(bars, "The corpus funnel", width), caption)
