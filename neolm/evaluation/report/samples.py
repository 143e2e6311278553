"""The section with what the model writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.evaluation.report.figure import missing, paragraph, section
from neolm.evaluation.report.markup import Html, element
from neolm.evaluation.report.run_files import Run

WAYS = {
    "greedy": "greedy: always the likeliest token",
    "sampled": "sampled: drawn by probability",
}


def samples_section(run: Run) -> Html:
    """Prompts with their continuations."""
    blocks = [_sample(sample) for sample in run.samples if isinstance(sample.get("prompt"), str)]
    if not blocks:
        return section("samples", "What it writes", missing("This run has no samples."))
    legend = paragraph(
        "The ",
        element("span", "underlined beginning", class_="prompt"),
        " was given; the model wrote the rest. Nothing was picked by hand.",
    )
    return section("samples", "What it writes", legend, *blocks)


def _sample(sample: Mapping[str, Any]) -> Html:
    parts = []
    for way, explained in WAYS.items():
        text = sample.get(way)
        if isinstance(text, str):
            shown = element("pre", element("span", sample["prompt"], class_="prompt"), text)
            parts.append(element("div", element("p", explained), shown, class_="way"))
    return element("div", *parts, class_="sample")
