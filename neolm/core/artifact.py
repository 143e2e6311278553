"""A stage is a directory: its files, `config.json`, and `manifest.json`, which is written last.

A directory without a manifest is not an artefact. A stage is built in a temporary directory and renamed into place, so
that a reader finds the old artefact or the new one, never half of one. A stage that resumes is built in place
(`neolm.core.resumable`); its manifest is written last too.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import neolm
from neolm.core.device import environment
from neolm.core.energy import EnergyMeter
from neolm.core.errors import InputError
from neolm.core.files import (
    differences_among,
    digest_file,
    digest_json,
    filled,
    jsonable,
    remove,
    storage_errors,
    sync_directory,
    sync_file,
    write_json,
)
from neolm.core.manifest import MANIFEST, Input, Manifest, RawInput, chain, inputs_from, read_manifest, started_settings
from neolm.core.progress import say
from neolm.rooms import closure

RECIPE, PENDING_RECIPE = "recipe.yaml", ".recipe.yaml"
WRITTEN_BY_OTHERS = ("tensorboard/", "wandb/")  # folders that other software keeps writing to; they are no outputs


@dataclass(frozen=True)
class Stage:
    """One step of a run: where it is built, from which inputs, with which settings, by the code of which room."""

    name: str
    room: str
    directory: Path
    inputs: Mapping[str, Input | RawInput]
    config: Mapping[str, Any]
    free_settings: frozenset[str] = frozenset()
    """Dotted keys that may differ when a stage is resumed: they do not change its result beyond rounding."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Dotted keys whose values are paths of an input, with its name: the inputs are compared, not the spelling."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of settings. A record of an older version lacks those that are new, and was made with the default."""

    def ensure(
        self,
        make: Callable[[Path], Mapping[str, Any]],
        summary: Callable[[Mapping[str, Any]], str] | None = None,
        config_file: bool = True,
    ) -> Manifest:
        """Return the manifest of the finished stage; build the stage first if it is missing or out of date.

        Args:
            make: Writes the files into the given directory and returns the counts of the manifest.
            summary: Turns the counts into one line, which is printed after a build.
            config_file: Write `config.json`; False for directories with a `config.json` in another format.
        """
        manifest = self.current()
        if manifest is not None:
            say(f"{self.name}: up to date")
            return manifest
        manifest = self.build(make, config_file)
        if summary is not None:
            say(f"{self.name}: {summary(manifest.counts)}")
        return manifest

    def current(self) -> Manifest | None:
        """The manifest in the directory if inputs, settings and code are unchanged and all files are in place.

        Changed code alone does not rebuild a stage whose raw files are gone, or that a later, resumable stage was
        started from.

        Raises:
            InputError: other inputs or settings would rebuild a stage that a later stage was started from.
        """
        manifest = read_manifest(self.directory)
        if manifest is None or not _outputs_in_place(self.directory, manifest):
            return None
        changes = self.changes(manifest.config, manifest.inputs)
        if not changes:
            same_code = manifest.code.get("digest") == code_digest(self.room)
            kept = self.report_missing() or same_code or _started_from(self.directory)
            return manifest if kept else None
        dependent = _started_from(self.directory)
        if dependent is None:
            return None
        raise InputError(
            f"{self.directory} would change ({'; '.join(changes[:3])}), but {dependent} was started from it. "
            f"Choose another output=DIR, or delete {dependent} to start again"
        )

    def changes(self, config: Mapping[str, Any], inputs: Mapping[str, Input]) -> list[str]:
        """The differences between recorded settings and inputs and those of this stage, one phrase each.

        Inputs are compared only if the settings are the same.
        """
        settings = differences_among((filled(config, jsonable(self.defaults)), jsonable(self.config)))
        settings = ((key, values) for key, values in settings if not self._same_input(self.paths.get(key), inputs))
        found = [f"{key}: {old!r}, now {new!r}" for key, (old, new) in settings if key not in self.free_settings]
        names = sorted({*inputs, *self.inputs})
        return found or [f"{name} changed" for name in names if self._input_changed(name, inputs.get(name))]

    def _same_input(self, name: str | None, inputs: Mapping[str, Input]) -> bool:
        """Whether the input `name` is the recorded one: the same place, or the same content in another place."""
        own, recorded = self.inputs.get(name or ""), inputs.get(name or "")
        if own is None or recorded is None:
            return False
        if isinstance(own, Input) or (own.path != recorded.path and own.stamp() is not None):
            return not self._input_changed(str(name), recorded)
        return own.path == recorded.path

    def _input_changed(self, name: str, recorded: Input | None) -> bool:
        """Whether an input differs from the recorded one. Raw files are read only if they exist with another stamp."""
        own = self.inputs.get(name)
        if own is None or recorded is None:
            return own is not recorded
        if isinstance(own, Input):
            return own.digest != recorded.digest
        return own.stamp() not in (None, recorded.stamp) and own.digest() != recorded.digest

    def report_missing(self) -> bool:
        """Whether raw files that the stage was built from are gone. Prints one line for each such input."""
        raw = (value for value in self.inputs.values() if not isinstance(value, Input))
        missing = [value.path for value in raw if value.stamp() is None]
        for path in missing:
            say(f"{self.name}: {path} is no longer there; {self.directory}, which was built from it, is used")
        return bool(missing)

    def recorded_inputs(self) -> dict[str, Input]:
        """The inputs with their digests, as a manifest holds them.

        Raw files that a resumable stage recorded when it was started are read again only if they have changed.
        """
        first = inputs_from(started_settings(self.directory).get("inputs", {}))
        found = {}
        for name, value in self.inputs.items():
            if isinstance(value, Input):
                found[name] = value
            elif name in first and value.stamp() in (None, first[name].stamp):
                found[name] = first[name]
            else:
                found[name] = Input(value.path, value.digest(), value.stamp() or "")
        return found

    def build(self, make: Callable[[Path], Mapping[str, Any]], config_file: bool = True) -> Manifest:
        """Call `make(directory)`, which writes the files and returns the counts, and move the result into place."""
        clock = Clock()
        adopt_recipe(self.directory.parent)
        partial = self.directory.with_name(f".{self.directory.name}.partial")
        with storage_errors(self.directory):
            remove(partial)
            try:
                partial.mkdir(parents=True)
            except FileNotFoundError:  # as in /proc
                raise InputError(f"{self.directory}: a directory cannot be created there") from None
        try:
            with storage_errors(self.directory):
                known = replace(self, inputs=self.recorded_inputs())  # digests of the inputs as they are now
                manifest = known.seal(partial, make(partial), clock, config_file)
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
        """Write `config.json` (if `config_file`), flush all files to disk and, last, write the manifest.

        `energy` (`kwh` and `method`) replaces the clock's own measurement for work that was done in several runs.
        """
        if config_file:
            write_json(directory / "config.json", self.config)
        files = sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("."))
        # The record of a checkpoint is enough: it holds the digests of the tensor files.
        files = [p for p in files if p.name != MANIFEST and (p.parent == directory or p.suffix != ".safetensors")]
        names = {p.relative_to(directory).as_posix(): p for p in files}
        names = {name: path for name, path in names.items() if not name.startswith(WRITTEN_BY_OTHERS)}
        for path in files:
            sync_file(path)
        for folder in {path.parent for path in files}:
            sync_directory(folder)
        manifest = Manifest(
            stage=self.name,
            inputs=self.recorded_inputs(),
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
    """Start time, elapsed seconds and energy used since the start."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.energy = EnergyMeter()
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


def _started_from(directory: Path) -> Path | None:
    """A resumable stage of the same run, or of a cell of the same study, that was started from `directory`.

    It was started from it directly or through other stages.
    """
    output = directory.parent
    for config in itertools.chain(output.glob("*/config.json"), output.glob("cells/*/*/config.json")):
        inputs = inputs_from(started_settings(config.parent).get("inputs", {}))
        places = [(config.parent.parent / value.path).resolve() for value in inputs.values()]
        if any(directory.resolve() in (place, *(link for link, _ in chain(place))) for place in places):
            return config.parent
    return None


@cache
def code_digest(room: str) -> str:
    """SHA-256 of the source of `room` and of every room that it depends on, without their command-line functions."""
    package = Path(neolm.__file__).parent
    files = sorted(p for name in closure(room) for p in (package / name).rglob("*.py") if p.name != "commands.py")
    return digest_json({p.relative_to(package).as_posix(): digest_file(p) for p in files})


@cache
def code_version(room: str) -> dict[str, str]:
    """Package version, git commit (in a checkout), and the digest of the code that `room` depends on."""
    version = {"version": neolm.__version__, "digest": code_digest(room)}
    root = Path(neolm.__file__).parents[1]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(root), "rev-parse", "HEAD"]
            commit = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)
            version["commit"] = commit.strip()
    return version


def adopt_recipe(output: Path) -> None:
    """Make a pending recipe (`.recipe.yaml`) the recipe of the run in `output`: one of its stages is being built."""
    pending = output / PENDING_RECIPE
    if pending.is_file():
        pending.replace(output / RECIPE)


def _outputs_in_place(directory: Path, manifest: Manifest) -> bool:
    """Whether every output still has its recorded size (`verify` checks the contents)."""
    return all(
        (directory / name).is_file() and (directory / name).stat().st_size == size
        for name, size in manifest.sizes.items()
    )
