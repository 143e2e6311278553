"""A stage that is built in place because it resumes, such as a training.

`config.json` is written when the stage starts, the manifest when it is finished. A directory that holds a run with
other settings or inputs, finished or not, is refused and never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from neolm.core.artifact import (
    CODE_CHANGED,
    Clock,
    Input,
    Manifest,
    Stage,
    adopt_recipe,
    differences_among,
    inputs_from,
    read_manifest,
    started_settings,
)
from neolm.core.errors import InputError
from neolm.core.files import jsonable, storage_errors, write_json
from neolm.core.progress import say


@dataclass(frozen=True)
class Finished:
    """The result of a resumable stage: the manifest's counts, and the energy of all sessions together."""

    counts: Mapping[str, Any]
    energy: Mapping[str, Any]


@dataclass(frozen=True)
class ResumableStage(Stage):
    """A `Stage` that is built in place over one or several sessions."""

    free_settings: frozenset[str] = frozenset()
    """Dotted keys that may differ when the stage is resumed: they do not change its result beyond rounding."""

    def resume(self, make: Callable[[], Finished]) -> Manifest:
        """Return the manifest of the finished stage; start or resume the stage first if it is not finished.

        Raises:
            InputError: the directory holds a run with other settings or inputs; the message names the differences.
        """
        manifest = read_manifest(self.directory)
        if manifest is not None and not self._conflicts(manifest.config, manifest.inputs):
            changed = CODE_CHANGED in self.changes(manifest)
            kept = "the code has changed since this run; it is kept (output=DIR starts a new one)"
            say(f"{self.name}: {kept if changed else 'up to date'}")
            return manifest
        started = started_settings(self.directory)
        conflicts = self._conflicts(started, inputs_from(started["inputs"])) if started else []
        if conflicts:
            raise InputError(
                f"{self.directory} holds a run with other settings ({'; '.join(conflicts[:3])}). "
                f"Choose another output=DIR, or delete {self.directory} to start again"
            )
        clock = Clock()
        finished = make()
        return self.seal(self.directory, finished.counts, clock, config_file=False, energy=finished.energy)

    def start(self, **facts: Any) -> dict[str, Any]:
        """Create the directory and record settings, inputs and `facts` in `config.json`.

        Returns the facts as the first session recorded them.
        """
        with storage_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        adopt_recipe(self.directory.parent)
        started = started_settings(self.directory)
        first = {name: started.get(name, value) for name, value in facts.items()}
        inputs = {name: asdict(value) for name, value in self.recorded_inputs().items()}
        write_json(self.directory / "config.json", {**self.config, **first, "inputs": inputs})
        return first

    def _conflicts(self, config: Mapping[str, Any], inputs: Mapping[str, Input]) -> list[str]:
        """The differences that make an earlier run in the directory another run than this one; changed code is none."""
        own = jsonable(self.config)
        recorded = {key: config[key] for key in config if key in own}
        changes = [change for change in differences_among((recorded, own)) if change[0] not in self.free_settings]
        found = [f"{key}: {old!r}, now {new!r}" for key, (old, new) in changes]
        return found + [f"{name} changed" for name in self.inputs if self._input_changed(name, inputs.get(name))]
