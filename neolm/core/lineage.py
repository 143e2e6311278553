"""The chain of an artefact back to raw text, as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neolm.core.artifact import Manifest, chain, read_manifest, verify
from neolm.core.errors import InputError
from neolm.core.progress import duration

LAST_FIRST = ("evaluation", "model", "pretrain", "shards", "tokenizer", "corpus")


def show_lineage(directory: Path, check: bool = False) -> str:
    """Describe `directory`, an artefact or a whole run, and all that it was made from, nearest first.

    Raises:
        InputError: there is no artefact; or, with `check`, a file is not what its manifest recorded.
    """
    links = chain(_start(directory))
    damaged = [f"{place.name}/{name}" for place, _ in links for name in verify(place)] if check else []
    if damaged:
        raise InputError(f"{directory}: not as recorded: {', '.join(damaged)}")
    text = "\n\n".join(_describe(place, manifest) for place, manifest in links)
    return text + ("\n\nevery file is as recorded" if check else "")


def _start(directory: Path) -> Path:
    """The artefact that is meant: the directory itself, or the last stage of a run."""
    if read_manifest(directory) is not None:
        return directory
    for name in LAST_FIRST:
        if read_manifest(directory / name) is not None:
            return directory / name
    what = "no such directory" if not directory.is_dir() else "no finished artefact here (no manifest.json)"
    raise InputError(f"{directory}: {what}")


def _describe(place: Path, manifest: Manifest) -> str:
    lines = [
        f"{manifest.stage}  {place}",
        f"  digest   {manifest.digest[:16]}  made {manifest.started} in {duration(manifest.duration_seconds)}",
        f"  code     neolm {manifest.code['version']} {manifest.code.get('commit', '')[:12]}".rstrip(),
    ]
    lines += [f"  from     {name} {value.path}  {value.digest[:16]}" for name, value in manifest.inputs.items()]
    width = max((len(key) for key in manifest.counts), default=0)
    lines += [f"  {key:{max(width, 8)}} {_shown(value)}" for key, value in manifest.counts.items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A count, or counts, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
