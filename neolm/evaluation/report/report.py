"""The stage `report`: `report.html`, one page that needs nothing but itself.

It is a pure function of the files in the run's directory, and shows what is there: a run without held-out text or
without a measurement has a page too, which says what is missing. The sections are in the order of the page.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import neolm
from neolm.core.files import write_text
from neolm.evaluation.report.commands import commands_section
from neolm.evaluation.report.funnel import funnel_section
from neolm.evaluation.report.headline import header, headline
from neolm.evaluation.report.lineage import lineage_section
from neolm.evaluation.report.loss import loss_section
from neolm.evaluation.report.markup import Html, element
from neolm.evaluation.report.run_files import Run, read_run
from neolm.evaluation.report.samples import samples_section
from neolm.evaluation.report.scores import scores_section
from neolm.evaluation.report.sizes import sizes_section


def build_report(output: Path) -> Path:
    """Write `output/report.html` from the files of the run in `output`, and return its path."""
    target = output / "report.html"
    write_text(target, page(read_run(output)))
    return target


def page(run: Run) -> str:
    """The whole page."""
    sections = [
        loss_section(run),
        scores_section(run),
        samples_section(run),
        funnel_section(run),
        sizes_section(run),
        commands_section(run),
        lineage_section(run),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", headline(run)),
        element("style", _resource("style.css")),
    )
    footer = element("footer", element("p", f"Written by NeoLM {neolm.__version__} from the files of this run."))
    body = element("body", header(run), element("main", *sections), footer, element("script", _resource("copy.js")))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _resource(name: str) -> Html:
    return Html((files("neolm.evaluation.report") / name).read_text(encoding="utf-8"))
