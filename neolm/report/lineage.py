"""The section that leads from the measured model back to the raw text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Manifest
from neolm.core.progress import count, duration
from neolm.report.figure import code, data_size, missing, paragraph, section
from neolm.report.markup import Html, Node, element, pairs, table, together
from neolm.report.run_files import Run

SHORT = 12  # digits of a digest that are shown; all of them are in the manifest


def lineage_section(run: Run) -> Html:
    """The chain of stages with their digests, the code and the software that made them."""
    artefacts = run.lineage()
    if not artefacts:
        return section("lineage", "Where it comes from", missing("No stage of this run is finished."))
    rows = [*_raw_inputs(artefacts), *(_stage_row(run, place, manifest) for place, manifest in artefacts)]
    return section(
        "lineage",
        "Where it comes from",
        paragraph("Each stage records the digests of what it read and wrote: a different byte is a different digest."),
        table("Stages, from the raw text on", ["Stage", "Took", "SHA-256"], rows, numbers=[1]),
        pairs(_software([manifest for _, manifest in artefacts])),
    )


def _raw_inputs(artefacts: list[tuple[Path, Manifest]]) -> list[list[Node]]:
    """A row for each input that no stage of NeoLM made."""
    places = {place for place, _ in artefacts}
    rows: dict[str, list[Node]] = {}
    for place, manifest in artefacts:
        for name, value in manifest.inputs.items():
            if (place.parent / value.path).resolve() not in places:
                detail = element("span", value.path, class_="detail")
                rows[value.path] = [
                    together(["raw text" if name == "raw" else name, detail]),
                    "",
                    _digest(value.digest),
                ]
    return list(rows.values())


def _stage_row(run: Run, place: Path, manifest: Manifest) -> list[Node]:
    own = place == (run.output / manifest.stage).resolve()
    seconds = run.stage_seconds(manifest.stage) if own else manifest.duration_seconds
    sources = ", ".join(manifest.inputs)
    made = _made(manifest)
    detail = element("span", " \u00b7 ".join(part for part in (made, f"from {sources}") if part), class_="detail")
    took = f"{seconds:.1f}s" if seconds < 10 else duration(seconds)
    return [together([manifest.stage, detail]), took, _digest(manifest.digest)]


def _made(manifest: Manifest) -> str:
    """What a stage produced, in a few words."""
    try:
        return _in_words(manifest.stage, manifest.counts)
    except (KeyError, TypeError):  # counts as another version of NeoLM wrote them
        return ""


def _in_words(stage: str, counts: Mapping[str, Any]) -> str:
    match stage:
        case "corpus":
            return f"{counts['kept']['documents']:,} documents, {data_size(counts['kept']['bytes'])}"
        case "tokenizer":
            return f"{counts['tokens']:,} tokens"
        case "shards":
            return f"{count(counts['train']['tokens'])} tokens to train on"
        case "pretrain":
            return f"{counts['steps']:,} steps"
        case "model":
            return f"{count(counts['parameters'])} parameters, as after step {counts['step']:,}"
    return ""


def _software(manifests: list[Manifest]) -> list[tuple[str, Node]]:
    versions = dict.fromkeys(
        f"{m.code.get('version', '?')} (commit {m.code['commit'][:SHORT]})"
        if m.code.get("commit")
        else m.code["version"]
        for m in manifests
    )
    facts: dict[str, object] = {}
    for manifest in manifests:
        facts |= manifest.environment
    started = min(manifest.started for manifest in manifests)
    return [
        ("NeoLM", ", ".join(versions)),
        ("PyTorch", str(facts.get("torch", ""))),
        ("Python", str(facts.get("python", ""))),
        ("Platform", str(facts.get("platform", ""))),
        ("Started", started.replace("T", " ").replace("+00:00", " UTC")),
    ]


def _digest(digest: str) -> Html:
    return element("code", digest[:SHORT], title=digest) if digest else code("")
