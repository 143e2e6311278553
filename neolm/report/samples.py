"""The section with what the model writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.report.figure import missing, paragraph, section
from neolm.report.markup import Html, element
from neolm.report.run_files import Run


def samples_section(run: Run) -> Html:
    """Prompts with their continuations."""
    temperature = run.config("evaluation").get("temperature")
    ways = {
        "greedy": "greedy: always the likeliest token",
        "sampled": "sampled: drawn by probability" + (f", temperature {temperature:g}" if temperature else ""),
    }
    blocks = [_sample(sample, ways) for sample in run.samples if isinstance(sample.get("prompt"), str)]
    if not blocks:
        return section("samples", "What it writes", missing("This run has no samples."))
    legend = paragraph(
        "The ",
        element("span", "underlined beginning", class_="prompt"),
        " was given; the model wrote the rest. Nothing was picked by hand.",
    )
    return section("samples", "What it writes", legend, *blocks)


def _sample(sample: Mapping[str, Any], ways: Mapping[str, str]) -> Html:
    parts = []
    for way, explained in ways.items():
        text = sample.get(way)
        if isinstance(text, str):
            written = text if text else element("em", " (it ended the text here)")
            shown = element("pre", element("span", sample["prompt"], class_="prompt"), written)
            parts.append(element("div", element("p", explained), shown, class_="way"))
    return element("div", *parts, class_="sample")
