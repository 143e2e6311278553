"""A stage that is built in place because it resumes, such as a training.

`config.json` is written when the stage starts, the manifest when it is finished. A directory that holds a run with
other settings or inputs, finished or not, is refused and never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from neolm.core.artifact import Clock, Stage, adopt_recipe, code_digest
from neolm.core.errors import InputError
from neolm.core.files import storage_errors, write_json
from neolm.core.manifest import Manifest, inputs_from, read_manifest, started_settings
from neolm.core.progress import say


class ResumableStage(Stage):
    """A `Stage` that is built in place over one or several sessions."""

    def resume(
        self, make: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]], *, writes: bool = True
    ) -> Manifest | None:
        """Return the manifest of the finished stage; start or resume the stage first if it is not finished.

        `make` returns the counts of the manifest, and the energy of all sessions together. Without `writes`, another
        process writes the manifest, and None is returned.

        Raises:
            InputError: the directory holds a run with other settings or inputs; the message names the differences.
        """
        manifest = read_manifest(self.directory)
        if manifest is not None and not self.changes(manifest.config, manifest.inputs):
            self.report_missing()
            changed = manifest.code.get("digest") != code_digest(self.room)
            kept = "the code has changed since this run; it is kept (output=DIR starts a new one)"
            say(f"{self.name}: {kept if changed else 'up to date'}")
            return manifest
        started = started_settings(self.directory)
        conflicts = []
        if started:
            settings = {key: value for key, value in started.items() if key in self.config}
            conflicts = self.changes(settings, inputs_from(started["inputs"]))
        elif any(self.directory.glob("[!.]*")):
            conflicts = ["config.json is missing or damaged"]
        if conflicts:
            raise InputError(
                f"{self.directory} holds a run with other settings ({'; '.join(conflicts[:3])}). "
                f"Choose another output=DIR, or delete {self.directory} to start again"
            )
        clock = Clock()
        counts, energy = make()
        if not writes:
            return None
        return self.seal(self.directory, counts, clock, config_file=False, energy=energy)

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
