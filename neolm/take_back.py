"""`neolm corpus drop`: a corpus without some documents, and everything that was built from them before."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from neolm.core.manifest import MANIFEST, chain, read_manifest
from neolm.core.progress import say
from neolm.corpus.browse import rows
from neolm.corpus.drop import Criteria, drop
from neolm.report.datasheet import write_datasheet
from neolm.training.seen_documents import first_step_with


def take_back(directory: Path, output: Path, criteria: Criteria, runs: Path | None = None) -> list[str]:
    """Write `output/corpus` and return a line for each stage that was built from the dropped documents.

    Args:
        directory: A corpus, or the run that it belongs to.
        output: Directory of the new run.
        criteria: What is dropped.
        runs: Folder in which runs are looked for; None: that of the corpus' own run.

    Raises:
        InputError: as `drop`.
    """
    corpus = (directory / "corpus" if (directory / "corpus").is_dir() else directory).resolve()
    manifest, dropped = drop(corpus, output, criteria)
    gone, kept = manifest.counts["rejected"]["taken_back"], manifest.counts["kept"]
    write_datasheet(output / "corpus")
    say(f"corpus: {gone['documents']:,} documents, {gone['bytes']:,} bytes are dropped, {kept['documents']:,} are kept")
    if near := manifest.counts["near_copies"]:
        say(f"corpus: near copies of them are kept, {near:,} documents; --near-copies drops these too")
    lines = [*_users(corpus, output.resolve(), (runs or corpus.parent.parent).resolve(), dropped)]
    if lines:
        say("built from the dropped documents:")
    return lines or ["Nothing that is known was built from the dropped documents."]


def _users(corpus: Path, output: Path, runs: Path, dropped: Collection[str]) -> Iterator[str]:
    """What was built from the corpus in the folder `runs`; a model with the first step that saw a dropped document."""
    held_out = _only_validation(corpus, dropped)
    for path in sorted(runs.rglob(MANIFEST)):
        place = path.parent
        manifest = None if place.is_relative_to(output) else read_manifest(place)
        if manifest is None or place == corpus or corpus not in {one for one, _ in chain(place)}:
            continue
        line = f"{manifest.stage}  {place}"
        if manifest.stage == "pretrain":
            step, steps = first_step_with(place, dropped)
            seen = f"saw them from step {step:,} of {steps:,} on" if step else f"saw none in its {steps:,} steps"
            line += f": {'was validated on them' if held_out else seen}"
        yield line


def _only_validation(corpus: Path, dropped: Collection[str]) -> bool:
    return all(row["split"] == "validation" for row in rows(corpus, rejected=False) if row["id"] in dropped)
