"""The stage `report`: `report.html`, one page that needs nothing but itself.

It is a pure function of the files in the run's directory, and shows what is there: a run without held-out text or
without a measurement has a page too, which says what is missing. The sections are in the order of the page.
"""

from __future__ import annotations

from pathlib import Path

from neolm.core.files import write_text
from neolm.report.document import document
from neolm.report.funnel import funnel_section
from neolm.report.headline import header, headline
from neolm.report.lineage import lineage_section
from neolm.report.loss import loss_section
from neolm.report.markup import element
from neolm.report.next_steps import commands_section
from neolm.report.run_files import Run, read_run
from neolm.report.samples import samples_section
from neolm.report.scores import scores_section
from neolm.report.sizes import sizes_section
from neolm.report.stability import stability_section


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
        stability_section(run),
        sizes_section(run),
        commands_section(run),
        lineage_section(run),
    ]
    main = element("main", *sections)
    return document(headline(run), header(run), main, made_from="the files of this run", script=True)
