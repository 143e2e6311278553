"""A stage is a directory: its files, `config.json`, and `manifest.json` written last.

A directory without a manifest does not exist as an artefact. Stages that are cheap to repeat are built beside
their place and renamed into it, so that a reader sees the old artefact or the new one, never half of one.
Training is built in place, because it resumes; its manifest too comes last.

The manifest says what went in (paths and digests), what came out (digests), under which settings, by which
code, where, when, how long and with how much energy. `chain` follows it back to raw text.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import neolm
from neolm.core.device import environment
from neolm.core.energy import EnergyMeter
from neolm.core.errors import InputError, NeoLMError
from neolm.core.files import (
    digest_file,
    digest_json,
    digest_path,
    jsonable,
    remove,
    storage_errors,
    sync_directory,
    write_json,
)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CODE_CHANGED = "the code changed"
FEEDS_TRAINING = ("corpus", "tokenizer", "shards")
WRITTEN_BY_OTHERS = ("tensorboard/", "wandb/")  # folders that are no output: their owners go on writing there

# The rooms in the order of the import contract: a room's results depend on its own code and on all before it.
ROOMS = ("core", "corpus", "tokenizer", "data", "kernels", "models", "generation", "training", "evaluation", "serving")


@dataclass(frozen=True)
class Input:
    """What a stage reads: where it lies and the digest of its content."""

    path: str
    digest: str


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


@dataclass(frozen=True)
class Stage:
    """What is to be built where, from which inputs, under which settings, by which room's code."""

    name: str
    room: str
    directory: Path
    inputs: Mapping[str, Input]
    config: Mapping[str, Any]

    def current(self) -> Manifest | None:
        """The manifest that is there, if it is of this very stage: same inputs, settings and code, files in place.

        What a training was started from is kept as it is: new code alone does not remake it.

        Raises:
            InputError: other inputs or settings would remake what a training was started from.
        """
        manifest = read_manifest(self.directory)
        if manifest is None or not _outputs_in_place(self.directory, manifest):
            return None
        changes = self.changes(manifest)
        training = self.directory.parent / "pretrain"
        if changes and self.name in FEEDS_TRAINING and (training / "config.json").is_file():
            if changes == [CODE_CHANGED]:
                return manifest
            raise InputError(
                f"{self.directory} would change ({'; '.join(changes[:3])}), but {training} was trained from it: "
                f"give another output=DIR, or remove {training} to start again"
            )
        return None if changes else manifest

    def changes(self, manifest: Mapping[str, Any] | Manifest) -> list[str]:
        """What differs between `manifest` and this stage, in words; empty if nothing does."""
        old = manifest if isinstance(manifest, Manifest) else _manifest_from(dict(manifest))
        found = [f"{key}: {a!r} -> {b!r}" for key, a, b in differences(old.config, jsonable(self.config))]
        found += [
            f"input {name} changed"
            for name in sorted({*old.inputs, *self.inputs})
            if digest_of_input(old.inputs.get(name)) != digest_of_input(self.inputs.get(name))
        ]
        if old.code.get("digest") != code_digest(self.room):
            found.append(CODE_CHANGED)
        return found

    def build(self, make: Callable[[Path], Mapping[str, Any]], config_file: bool = True) -> Manifest:
        """Call `make(directory)`, which writes the files and returns counts, then put the result in its place."""
        clock = Clock()
        partial = self.directory.with_name(f".{self.directory.name}.partial")
        with storage_errors(self.directory):
            remove(partial)
            try:
                partial.mkdir(parents=True)
            except FileNotFoundError:  # as in /proc
                raise InputError(f"{self.directory}: no directory can be made there") from None
        try:
            with storage_errors(self.directory):
                counts = make(partial)
                manifest = self.seal(partial, counts, clock, config_file)
                self._swap(partial)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(partial)
            raise
        return manifest

    def seal(
        self,
        directory: Path,
        counts: Mapping[str, Any],
        clock: Clock,
        config_file: bool = True,
        energy: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write `config.json` (unless the directory has one of its own kind) and, last, the manifest.

        `energy` is stated in place of the clock's: `kwh` and `method` of work that took several sessions.
        """
        if config_file:
            write_json(directory / "config.json", self.config)
        files = sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("."))
        # Of a checkpoint its record is enough: it holds the digests of the rest.
        files = [p for p in files if p.name != MANIFEST and (p.parent == directory or p.suffix != ".safetensors")]
        names = {p.relative_to(directory).as_posix(): p for p in files}
        names = {name: path for name, path in names.items() if not name.startswith(WRITTEN_BY_OTHERS)}
        manifest = Manifest(
            stage=self.name,
            inputs=dict(self.inputs),
            outputs={name: digest_file(path) for name, path in names.items()},
            sizes={name: path.stat().st_size for name, path in names.items()},
            config=jsonable(self.config),
            counts=jsonable(counts),
            code=code_version(self.room),
            environment=environment(),
            started=clock.started,
            duration_seconds=round(clock.seconds(), 3),
            energy=dict(energy or clock.energy.as_json()),
        )
        write_json(directory / MANIFEST, asdict(manifest))
        return manifest

    def _swap(self, partial: Path) -> None:
        old = self.directory.with_name(f".{self.directory.name}.old")
        remove(old)
        if self.directory.exists():
            self.directory.rename(old)
        partial.rename(self.directory)
        sync_directory(self.directory.parent)
        remove(old)


class Clock:
    """When something started, how many seconds ago that was, and the energy used since."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.energy = EnergyMeter()
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of `directory`, or None where there is none or it cannot be read as one."""
    try:
        return _manifest_from(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _manifest_from(data: dict[str, Any]) -> Manifest:
    inputs = {name: Input(**value) for name, value in data.pop("inputs").items()}
    return Manifest(inputs=inputs, **data)


def input_from(path: Path, relative_to: Path) -> Input:
    """`path` as an input of a stage under `relative_to`: an artefact by its manifest, anything else by content."""
    manifest = read_manifest(path) if path.is_dir() else None
    digest = manifest.digest if manifest else digest_path(path)
    inside = path.resolve().is_relative_to(relative_to.resolve())
    shown = os.path.relpath(path.resolve(), relative_to.resolve()) if inside else str(path.resolve())
    return Input(shown, digest)


def chain(directory: Path) -> list[tuple[Path, Manifest]]:
    """The artefact in `directory` and all it was made from, each once and before what it was made from."""
    found: dict[Path, Manifest] = {}

    def visit(place: Path) -> None:
        manifest = None if place in found else read_manifest(place)
        if manifest is not None:
            for value in reversed(manifest.inputs.values()):
                visit((place.parent / value.path).resolve())
            found[place] = manifest

    visit(directory.resolve())
    return list(reversed(found.items()))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """`(dotted key, old value, new value)` wherever two nested mappings differ."""
    for key, (a, b) in differences_among((old, new), prefix):
        yield key, a, b


def differences_among(mappings: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """`(dotted key, its value in each)` wherever not all of the nested mappings agree; None for what one has not."""
    for key in dict.fromkeys(key for mapping in mappings for key in mapping):
        values = tuple(mapping.get(key) for mapping in mappings)
        nested = [value for value in values if isinstance(value, Mapping)]
        if len(nested) == len(values):
            yield from differences_among(nested, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{key}", values


def digest_of_input(value: Input | None) -> str | None:
    """The digest of an input that may be missing."""
    return value.digest if value else None


@cache
def code_digest(room: str) -> str:
    """SHA-256 of the source of `room` and of every room it may import: what its results can depend on."""
    package = Path(neolm.__file__).parent
    rooms = ROOMS[: ROOMS.index(room) + 1]
    files = sorted(p for name in rooms for p in (package / name).rglob("*.py"))
    return digest_json({p.relative_to(package).as_posix(): digest_file(p) for p in files})


@cache
def code_version(room: str) -> dict[str, str]:
    """Package version, git commit where there is one, and the digest of the code that `room` depends on."""
    version = {"version": neolm.__version__, "digest": code_digest(room)}
    root = Path(neolm.__file__).parents[1]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(root), "rev-parse", "HEAD"]
            version["commit"] = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
    return version


def _outputs_in_place(directory: Path, manifest: Manifest) -> bool:
    """Whether every output still has its recorded size (content is checked by `verify`)."""
    return all(
        (directory / name).is_file() and (directory / name).stat().st_size == size
        for name, size in manifest.sizes.items()
    )


def verify(directory: Path) -> list[str]:
    """The names of outputs in `directory` that are missing or whose content is not what the manifest recorded."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: no manifest.json, so this is not a finished artefact of NeoLM")
    paths = {name: directory / name for name in manifest.outputs}
    return [n for n, path in paths.items() if not path.is_file() or digest_file(path) != manifest.outputs[n]]


def require(directory: Path, stage: str, made_by: str) -> Manifest:
    """The manifest of `directory`, which must be a finished `stage`.

    Raises:
        NeoLMError: there is none; the message names the command that makes it.
    """
    manifest = read_manifest(directory)
    if manifest is None or manifest.stage != stage:
        raise NeoLMError(f"{directory}: no finished {stage} here; `neolm {made_by}` makes it")
    return manifest
