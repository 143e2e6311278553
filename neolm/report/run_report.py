"""The report of a run: `report.html`, a pure function of the files in the run's directory.

A run without held-out text or without an evaluation has a report too, which names the missing parts.
"""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from neolm.core.files import write_text
from neolm.core.manifest import recorded_values
from neolm.core.metrics import points
from neolm.core.progress import duration
from neolm.report.corpus_funnel import funnel_figure
from neolm.report.curves import loss_figure, stability_figures
from neolm.report.encoder import encoder_report
from neolm.report.finetune_figures import FinetuneFigures
from neolm.report.finetuning import finetune_report
from neolm.report.pages import render
from neolm.report.run_files import DIGITS, Run, is_finetuning, read_run
from neolm.report.scores import bits_per_byte, labels, with_interval
from neolm.report.sizes import Pairs, sizes

SOFTWARE = {"torch": "PyTorch", "python": "Python", "platform": "Platform"}

DIGEST = Markup('<code title="{0}">{0:.12}</code>')

Row = tuple[tuple[str, str], str, str]


def build_report(output: Path) -> Path:
    """Write `output/report.html` from the files of the run in `output`, and return its path."""
    target = output / "report.html"
    with recorded_values(output):
        write_text(target, page(read_run(output)))
    return target


def page(run: Run) -> str:
    """The whole page."""
    if is_finetuning(run.output):
        report = finetune_report(run)
        figures = FinetuneFigures(run, report.results)
        lineage = {"lineage": lineage_rows(run), "software": software(run)}
        return render("finetuning.html", run=run, report=report, figures=figures, **lineage)
    lines = [line.strip() for sample in run.samples for line in sample["prompt"].splitlines()]
    return render(
        "report.html",
        run=run,
        encoder=encoder_report(run),
        score=bits_per_byte(run),
        other_scores=[(label, with_interval(run.scores, name)) for name, label in labels(run.scores).items()][1:],
        loss=loss_figure(run),
        validated=bool(points(run.metrics, "validation_loss")),
        funnel=funnel_figure(run.counts("corpus")) if run.counts("corpus").get("read") else None,
        stability=stability_figures(run),
        sizes=sizes(run),
        lineage=lineage_rows(run),
        software=software(run),
        first_line=next((line for line in lines if line and not line.startswith("-")), "Once upon a time"),
    )


def lineage_rows(run: Run) -> list[Row]:
    """A row per raw input and per stage, the oldest first: its name and origin, how long it took, its digest."""
    artefacts = run.lineage()
    places = {place for place, _ in artefacts}
    raw: dict[str, Row] = {}
    rows: list[Row] = []
    for place, manifest in artefacts:
        for name, value in manifest.inputs.items():
            if (place.parent / value.path).resolve() not in places:
                raw[value.path] = (("raw text" if name == "raw" else name, value.path), "", DIGEST.format(value.digest))
        own = place == (run.output / manifest.stage).resolve()
        seconds = run.stage_seconds(manifest.stage) if own else manifest.duration_seconds
        detail = f"from {', '.join(manifest.inputs)}" if manifest.inputs else ""
        took = f"{seconds:.1f}s" if seconds < 10 else duration(seconds)
        rows.append(((manifest.stage, detail), took, DIGEST.format(manifest.digest)))
    return [*raw.values(), *rows]


def software(run: Run) -> Pairs:
    """Versions of the software that built the run, and when it was started."""
    manifests = [manifest for _, manifest in run.lineage()]
    versions = dict.fromkeys(
        f"{m.code.get('version', '?')}{f' (commit {commit[:DIGITS]})' if (commit := m.code.get('commit')) else ''}"
        for m in manifests
    )
    facts = {key: value for manifest in manifests for key, value in manifest.environment.items()}
    started = min((manifest.started for manifest in manifests), default="")
    return [
        ("NeoLM", ", ".join(versions)),
        *((name, str(facts.get(key, ""))) for key, name in SOFTWARE.items()),
        ("Started", started.replace("T", " ").replace("+00:00", " UTC")),
    ]
