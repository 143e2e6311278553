"""The report of a run: `report.html`, a pure function of the files in the run's directory.

A run without held-out text or without an evaluation has a report too, which says what is missing.
"""

from __future__ import annotations

import math
from pathlib import Path

from neolm.core.files import write_text
from neolm.report.curves import loss_figure, stability_figures
from neolm.report.funnel import funnel_figure
from neolm.report.headline import headline, key_figures
from neolm.report.lineage import lineage_rows, software
from neolm.report.pages import render
from neolm.report.run_files import Run, read_run
from neolm.report.scores import bits_per_byte, other_scores
from neolm.report.sizes import sizes


def build_report(output: Path) -> Path:
    """Write `output/report.html` from the files of the run in `output`, and return its path."""
    target = output / "report.html"
    write_text(target, page(read_run(output)))
    return target


def page(run: Run) -> str:
    """The whole page."""
    score = bits_per_byte(run)
    lines = [line.strip() for sample in run.samples for line in sample["prompt"].splitlines()]
    vocabulary = run.config("shards").get("vocab_size")
    return render(
        "report.html",
        run=run,
        headline=headline(run),
        score=score,
        figures=key_figures(run, score),
        other_scores=other_scores(run),
        samples=run.samples,
        seed=run.config("evaluation").get("seed"),
        loss=loss_figure(run),
        vocabulary=vocabulary,
        uniform_loss=math.log(vocabulary) if vocabulary else None,
        funnel=funnel_figure(run) if run.counts("corpus").get("read") else None,
        stability=stability_figures(run),
        sizes=sizes(run),
        lineage=lineage_rows(run),
        software=software(run),
        first_line=next((line for line in lines if line and not line.startswith("-")), "Once upon a time"),
    )
