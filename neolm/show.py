"""`neolm show`: the chain of stages that a directory was built from, back to the raw text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.manifest import Manifest, chain, read_manifest, recorded_values, started_settings, verify
from neolm.core.progress import duration
from neolm.stages import STAGES

SCORE = {"value", "low", "high"}  # the keys of a score with its interval
MANY = 8  # a count with more entries than this, such as one per source file, is shown as their number


def show(directory: Path, check: bool = False) -> str:
    """Describe `directory`, a stage or a whole run, and everything that it was built from, nearest first.

    With `check`, every file is compared with its recorded digest.

    Raises:
        InputError: there is no finished stage, or a file differs from its manifest.
    """
    links = chain(_last_stage(directory))
    damaged = [f"{place.name}/{name}" for place, _ in links for name in verify(place)] if check else []
    if damaged:
        raise InputError(f"{directory}: these files differ from their manifest: {', '.join(damaged)}")
    resumable = [directory / row.name for row in STAGES if row.resumable]
    unfinished = [place for place in resumable if started_settings(place) and read_manifest(place) is None]
    started = [f"{place.name}  {place}\n  started, not finished; the same command resumes it" for place in unfinished]
    with recorded_values(directory):
        text = "\n\n".join(started + [_describe(place, manifest) for place, manifest in links])
    return text + ("\n\nEvery file matches its recorded digest." if check else "")


def _last_stage(directory: Path) -> Path:
    """`directory` itself if it is a stage, or else the last finished stage in it."""
    places = [directory, *(directory / row.name for row in reversed(STAGES))]
    found = next((place for place in places if read_manifest(place) is not None), None)
    if found is None:
        what = "there is no finished stage (no manifest.json)" if directory.is_dir() else "there is no such directory"
        raise InputError(f"{directory}: {what}")
    return found


def _describe(place: Path, manifest: Manifest) -> str:
    words = next((row.counts for row in STAGES if row.name == manifest.stage), {})
    code = f"neolm {manifest.code['version']} {manifest.code.get('commit', '')[:12]}".rstrip()
    rows = [
        ("digest", manifest.digest[:16]),
        ("built", f"{manifest.started} in {duration(manifest.duration_seconds)} by {code}"),
        *((f"from {name}", f"{value.path}  {value.digest[:16]}") for name, value in manifest.inputs.items()),
        *((words.get(key, key.replace("_", " ")), _shown(value)) for key, value in _leaves(manifest.counts)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{manifest.stage}  {place}", *(f"  {name:{width}}  {value}" for name, value in rows)])


def _leaves(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The counts by dotted key."""
    for key, value in counts.items():
        if isinstance(value, Mapping) and value.keys() == {"value", "reason"}:
            yield f"{prefix}{key}", f"{value['value']} ({value['reason']})"
        elif isinstance(value, Mapping) and len(value) > MANY:
            yield f"{prefix}{key}", f"{len(value):,} entries"
        elif isinstance(value, Mapping) and value.keys() != SCORE:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value["low"], value["high"]
        return _shown(value["value"]) + ("" if low is None else f" ({_shown(low)} to {_shown(high)})")
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
