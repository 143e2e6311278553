"""The chain of stages from the model back to the raw text, as rows of a table."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from neolm.core.artifact import Manifest
from neolm.core.progress import duration
from neolm.report.run_files import Run

DIGITS = 12  # of a digest that are shown; the manifest has all of them
SOFTWARE = {"torch": "PyTorch", "python": "Python", "platform": "Platform"}

Row = list[str | tuple[str, str]]


def lineage_rows(run: Run) -> list[Row]:
    """A row per raw input and per stage, the oldest first: what, how long it took, digest."""
    artefacts = run.lineage()
    return [*_raw_inputs(artefacts), *(_stage_row(run, place, manifest) for place, manifest in artefacts)]


def _raw_inputs(artefacts: list[tuple[Path, Manifest]]) -> list[Row]:
    """A row for each input that is not the output of another stage."""
    places = {place for place, _ in artefacts}
    rows: dict[str, Row] = {}
    for place, manifest in artefacts:
        for name, value in manifest.inputs.items():
            if (place.parent / value.path).resolve() not in places:
                rows[value.path] = [("raw text" if name == "raw" else name, value.path), "", _digest(value.digest)]
    return list(rows.values())


def _stage_row(run: Run, place: Path, manifest: Manifest) -> Row:
    own = place == (run.output / manifest.stage).resolve()
    seconds = run.stage_seconds(manifest.stage) if own else manifest.duration_seconds
    detail = f"from {', '.join(manifest.inputs)}" if manifest.inputs else ""
    took = f"{seconds:.1f}s" if seconds < 10 else duration(seconds)
    return [(manifest.stage, detail), took, _digest(manifest.digest)]


def _digest(digest: str) -> str:
    return Markup('<code title="{}">{}</code>').format(digest, digest[:DIGITS])


def software(run: Run) -> list[tuple[str, str]]:
    """Versions of the software that built the run, and when it was started."""
    manifests = [manifest for _, manifest in run.lineage()]
    if not manifests:
        return []
    versions = dict.fromkeys(
        f"{m.code.get('version', '?')}{f' (commit {commit[:DIGITS]})' if (commit := m.code.get('commit')) else ''}"
        for m in manifests
    )
    facts: dict[str, object] = {}
    for manifest in manifests:
        facts |= manifest.environment
    started = min(manifest.started for manifest in manifests)
    return [
        ("NeoLM", ", ".join(versions)),
        *((name, str(facts.get(key, ""))) for key, name in SOFTWARE.items()),
        ("Started", started.replace("T", " ").replace("+00:00", " UTC")),
    ]
