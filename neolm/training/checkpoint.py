"""Checkpoints that survive a kill at any moment.

A checkpoint is a directory, written beside its place, flushed, and renamed into it: `step-00000500` holds everything a
run needs to go on bit for bit, `best-00000400` the weights of the lowest validation loss. `checkpoint.json` carries the
digest of every file, so that a torn or altered checkpoint is seen, named and passed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from neolm.core.files import digest_file, storage_errors, sync_directory, write_json, write_tensors
from neolm.core.progress import say

RECORD = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files are as they were written."""

    directory: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`, such as `weights`."""
        return load_file(self.directory / f"{name}.safetensors")


def save_checkpoint(
    root: Path, kind: str, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write `root/<kind>-<step>` and remove all but the last `keep` of its kind.

    Raises:
        StorageError: the disk is full; older checkpoints are as they were.
    """
    final = root / f"{kind}-{state['step']:08d}"
    partial = root / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with storage_errors(root):
            partial.mkdir(parents=True)
            for name, tensors in files.items():
                write_tensors(partial / f"{name}.safetensors", tensors)
            digests = {name: digest_file(partial / f"{name}.safetensors") for name in files}
            write_json(partial / RECORD, {"state": dict(state), "digests": digests})
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_directory(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _named(root, kind)[:-keep]:
        shutil.rmtree(old)
    return final


def last_checkpoint(root: Path, kind: str) -> Checkpoint | None:
    """The newest checkpoint of `kind` whose files are whole; damaged ones are named and passed over."""
    return next(_good(root, kind), None)


def _good(root: Path, kind: str) -> Iterator[Checkpoint]:
    for directory in reversed(_named(root, kind)):
        try:
            record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
            damaged = [
                f"{name}.safetensors"
                for name, digest in record["digests"].items()
                if digest_file(directory / f"{name}.safetensors") != digest
            ]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            damaged, record = [f"{RECORD} or a file it lists ({type(error).__name__})"], {}
        if damaged:
            say(f"checkpoint {directory.name} is damaged ({', '.join(damaged)}); passing over to the one before it")
            continue
        yield Checkpoint(directory, record["state"])


def discard_after(root: Path, kind: str, step: int) -> None:
    """Remove checkpoints of `kind` beyond `step`: a resumed run makes them again."""
    for directory in _named(root, kind):
        if int(directory.name.rpartition("-")[2]) > step:
            shutil.rmtree(directory)


def _named(root: Path, kind: str) -> list[Path]:
    return sorted(p for p in root.glob(f"{kind}-*") if p.is_dir() and p.name.rpartition("-")[2].isdigit())


def random_state() -> dict[str, Tensor]:
    """The state of torch's random generators, as tensors."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda.{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    cuda = [value for name, value in state.items() if name.startswith("cuda.")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
