"""The record of a finished stage, `manifest.json`, and the files and stages that it names.

A manifest records the inputs (paths and digests), the outputs (digests), the settings, the code version, the
environment, the start, the duration and the energy. `chain` follows the inputs back to the raw text.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from neolm.core.errors import InputError, NeoLMError
from neolm.core.files import digest_file, digest_json, digest_path, read_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Input:
    """Something that a stage reads: its path and the digest of its content.

    `stamp` identifies a version of raw files without reading them (names, sizes, modification times). It is empty for
    artefacts, whose manifest holds the digest.
    """

    path: str
    digest: str
    stamp: str = ""


class RawInput(Protocol):
    """Raw files outside of any artefact. They can be large, or gone by the time that the stage is up to date."""

    @property
    def path(self) -> str:
        """Where they are."""

    def stamp(self) -> str | None:
        """Digest of the names, sizes and modification times of the files; None if they are no longer there."""

    def digest(self) -> str:
        """Digest of the contents of the files; reads all of them."""


@dataclass(frozen=True)
class _RawFiles:
    """A file or folder outside of any artefact, as the input of a stage."""

    path: str
    location: Path

    def stamp(self) -> str | None:
        if not self.location.exists():
            return None
        files = [self.location] if self.location.is_file() else sorted(self.location.rglob("*"))
        statuses = {path.relative_to(self.location).as_posix(): path.stat() for path in files if path.is_file()}
        return digest_json({name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()})

    def digest(self) -> str:
        return digest_path(self.location)


@dataclass(frozen=True)
class Manifest:
    """The record of one stage; `digest` identifies its outputs."""

    stage: str
    inputs: dict[str, Input]
    outputs: dict[str, str]
    config: dict[str, Any]
    counts: dict[str, Any]
    code: dict[str, str]
    environment: dict[str, Any]
    started: str
    duration_seconds: float
    energy: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the names and digests of the outputs."""
        return digest_json(self.outputs)


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of `directory`, or None where there is none or it cannot be read as one."""
    try:
        manifest: Manifest = _validator(Manifest).validate_python(read_json(directory / MANIFEST))
    except (InputError, ValidationError):
        return None
    return manifest


def inputs_from(data: Mapping[str, Any]) -> dict[str, Input]:
    """The inputs that a manifest or a started stage recorded as JSON."""
    return {name: Input(**value) for name, value in data.items()}


def started_settings(directory: Path) -> dict[str, Any]:
    """What a resumable stage recorded when it was started: its settings and `inputs`; empty if it was not started."""
    try:
        found = read_json(directory / "config.json")
        _validator(dict[str, Input]).validate_python(found.get("inputs"))
    except (InputError, ValidationError):
        return {}
    return found


@cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@contextlib.contextmanager
def recorded_values(directory: Path) -> Iterator[None]:
    """Turn the errors of code that uses recorded counts, metrics and scores of another form into one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory}: a recorded value has another form than this version of NeoLM writes; was a file edited? "
            f"({type(error).__name__}: {error})"
        ) from error


def input_from(path: Path, relative_to: Path) -> Input | RawInput:
    """`path` as an input of a stage under `relative_to`: an artefact by its manifest, or raw files."""
    place, root = path.parent.resolve() / path.name, relative_to.resolve()  # a link in it stays a link
    inside = place.is_relative_to(root)
    shown = os.path.relpath(place, root) if inside else str(path.resolve())
    manifest = read_manifest(path) if path.is_dir() else None
    return Input(shown, manifest.digest) if manifest else _RawFiles(shown, path)


def chain(directory: Path) -> list[tuple[Path, Manifest]]:
    """The artefact in `directory` followed by all artefacts that it was built from, each listed once."""
    found: dict[Path, Manifest] = {}
    seen: set[Path] = set()

    def visit(place: Path) -> None:
        manifest = None if place in seen else read_manifest(place)
        seen.add(place)
        if manifest is not None:
            for value in reversed(manifest.inputs.values()):
                visit((place.parent / value.path).resolve())
            found[place] = manifest

    visit(directory.resolve())
    return list(reversed(found.items()))


def verify(directory: Path) -> list[str]:
    """Names of the outputs in `directory` that are missing or differ from the manifest."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: there is no manifest.json, so this is not a finished stage of NeoLM")
    paths = {name: directory / name for name in manifest.outputs}
    return [n for n, path in paths.items() if not path.is_file() or digest_file(path) != manifest.outputs[n]]


def intact_file(directory: Path, name: str) -> Path:
    """Path of the output `name` of the stage in `directory`, compared with its recorded digest if there is a manifest.

    Raises:
        InputError: the file is missing or damaged.
    """
    path, manifest = directory / name, read_manifest(directory)
    recorded = manifest.outputs.get(name) if manifest else None
    if not path.is_file() or recorded not in (None, digest_file(path)):
        raise InputError(f"{path} is missing, or differs from what was written. Delete {directory} to rebuild it")
    return path


def require(directory: Path, stage: str, made_by: str) -> Manifest:
    """Return the manifest of `directory`, which must hold the finished stage `stage`.

    Raises:
        NeoLMError: it does not; the message names the command that builds the stage.
    """
    manifest = read_manifest(directory)
    if manifest is None or manifest.stage != stage:
        raise NeoLMError(f"{directory}: there is no finished {stage}. Build it with `neolm {made_by}`")
    return manifest
