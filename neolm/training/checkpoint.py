"""Checkpoints on disk, which survive a kill at any moment.

`step-00000500` holds all that a run needs to resume bit for bit, `best-00000400` the weights of the lowest validation
loss. A checkpoint is a directory with a directory of tensors for each of its parts (see `tensor_files`) and the record
`checkpoint.json` with the state and the digests of all files and of itself: a damaged checkpoint is detected, reported
and skipped. A name that starts with a dot is a checkpoint that is being written or removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import InputError, NeoLMError
from neolm.core.files import digest_file, digest_json, jsonable, read_json, remove, write_json
from neolm.core.progress import say
from neolm.training.tensor_files import read_shards, read_tensors

RECORD = "checkpoint.json"
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint on disk."""

    directory: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def tensors(
        self, part: str, like: Callable[[str, torch.Size], Tensor | bool] = lambda name, size: True
    ) -> dict[str, Tensor]:
        """Read the tensors of `part`, such as `weights`, assembled from all shards; see `read_tensors`."""
        return read_tensors(self.directory / part, like)

    def load(self, part: str, into: Mapping[str, Tensor]) -> None:
        """Fill `into` in place with the tensors of `part`, as `read_shards` does."""
        read_shards(self.directory / part, into)


def last_checkpoint(root: Path, kind: str) -> Checkpoint | None:
    """Return the newest intact checkpoint of `kind`; damaged ones are reported and skipped.

    Raises:
        InputError: a checkpoint was written by another version of NeoLM.
    """
    found, skipped = None, []
    for directory in reversed(named_checkpoints(root, kind).values()):
        try:
            record = read_json(directory / RECORD)
        except InputError:
            record = {}
        damaged = _damaged(directory, record)
        if not damaged:
            found = Checkpoint(directory, record["state"])
            break
        skipped.append(f"checkpoint {directory.name} is damaged ({', '.join(damaged)})")
    for damage in skipped:
        say(f"{damage}; {f'using {found.directory.name}' if found else 'there is no intact one before it'}")
    return found


def _damaged(directory: Path, record: dict[str, Any]) -> list[str]:
    """Files of a checkpoint that do not match its record, or the record itself."""
    if "state" in record and record.get("format", 1) != FORMAT:
        raise InputError(
            f"{directory} was written by another version of NeoLM. "
            "Continue with that version, or choose another output=DIR"
        )
    if record.pop("digest", None) != digest_json(record):
        return [RECORD]
    digests = record["digests"]
    found = {path.relative_to(directory).as_posix() for path in directory.glob("*/*.safetensors")}
    return sorted(
        name
        for name in found | digests.keys()
        if name not in found or digest_file(directory / name) != digests.get(name)
    )


def write_record(directory: Path, state: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Write the record of a checkpoint after its files."""
    record = jsonable({"format": FORMAT, "state": state, "digests": digests})
    write_json(directory / RECORD, record | {"digest": digest_json(record)})


def discard_after(root: Path, kind: str, step: int) -> None:
    """Remove the checkpoints of `kind` after `step`: a resumed run writes them again."""
    for number, directory in named_checkpoints(root, kind).items():
        if number > step:
            discard(directory)


def discard(directory: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that no name belongs to half a checkpoint."""
    doomed = directory.with_name(f".{directory.name}.removed")
    remove(doomed)
    remove(directory.rename(doomed))


def named_checkpoints(root: Path, kind: str) -> dict[int, Path]:
    """Directories of the checkpoints of `kind` by step, oldest first, intact or not."""
    steps = {p.name.removeprefix(f"{kind}-"): p for p in sorted(root.glob(f"{kind}-*")) if p.is_dir()}
    return {int(step): path for step, path in steps.items() if step.isdigit()}


def best_step_of(directory: Path) -> int | None:
    """Step of the best checkpoint that the record of a step checkpoint names; None without one or if it is damaged."""
    try:
        step = read_json(directory / RECORD)["state"]["best_step"]
    except (InputError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def checkpoint_path(root: Path, kind: str, step: int) -> Path:
    """Directory of a finished checkpoint."""
    return root / f"{kind}-{step:08d}"


def random_state(stream: int = 0) -> dict[str, Tensor]:
    """The state of torch's random generators of stream `stream`, as tensors."""
    prefix = f"rank{stream}." if stream else ""
    state = {f"{prefix}cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"{prefix}cuda.{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random_state(state: Mapping[str, Tensor], stream: int = 0) -> None:
    """Restore the result of `random_state`; a stream that was not there begins with numbers of its own."""
    prefix = f"rank{stream}." if stream else ""
    if f"{prefix}cpu" not in state:
        torch.set_rng_state(state["cpu"])
        torch.manual_seed(int(torch.randint(2**62, ())) + stream)
        return
    torch.set_rng_state(state[f"{prefix}cpu"])
    cuda = [value for name, value in state.items() if name.startswith(f"{prefix}cuda.")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)


def final_checkpoint(checkpoints: Path, final: str, best_step: int | None) -> Checkpoint:
    """The checkpoint that becomes the model."""
    best = last_checkpoint(checkpoints, "best") if final == "best" else None
    chosen = best or last_checkpoint(checkpoints, "step")
    if chosen is None:
        raise NeoLMError(f"{checkpoints}: there is no intact checkpoint to build a model from")
    if final == "best" and chosen.step != best_step:
        lost = f"the best checkpoint, of step {best_step}, is missing or damaged"
        reason = "no validation loss was measured" if best_step is None else lost
        say(f"model: {reason}: the weights of step {chosen.step} are used")
    return chosen
