"""The writer of checkpoints: while training goes on, a thread puts a copy of the state on disk.

A save copies the tensors to host memory and returns. The thread writes the copy beside its place, flushes every file,
takes its digest, writes the record last and renames the directory into place; then it removes what is no longer to be
kept. So a kill at any moment leaves the checkpoints that were there, and one more or not. (Snapshot and persistence are
split in this way by Mohan, Phanishayee and Chidambaram 2021, "CheckFreq".) Over several processes each writes what it
holds, and the first names the checkpoint once all have.

Left out: a directory that is not shared by all processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan

from neolm.core.files import digest_file, jsonable, remove, storage_errors, sync_directory
from neolm.core.progress import say
from neolm.training.checkpoint import (
    best_step_of,
    checkpoint_path,
    discard,
    discard_remains,
    named_checkpoints,
    partial_path,
    step_of,
    write_record,
)
from neolm.training.tensor_files import local_tensor, plan_pieces, share_pieces, write_pieces
from neolm.training.world import World

Parts = dict[str, dict[str, Tensor]]


class CheckpointWriter:
    """Writes checkpoints below `root`, one at a time; used as a context, it is not left before the last is on disk.

    Of kind `step` the last `keep` are kept, and those at multiples of `keep_every`; of kind `best` the last one, and
    those that are the `best_step` of a step checkpoint on disk.
    With several processes, each of them makes a writer and calls it alike.
    """

    def __init__(self, root: Path, *, keep: int, keep_every: int | None = None, asynchronous: bool = True) -> None:
        assert keep >= 1
        self._root, self._keep, self._keep_every = root, keep, keep_every
        self._ranks = World()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._pending: dict[str, Future[None]] = {}
        self._room: dict[str, Parts] = {}
        if self._ranks.first:
            with storage_errors(root):
                discard_remains(root)

    def save(self, kind: str, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Save `parts`, named tensors by the name of the part, and `state`, JSON with the step, as they are now.

        Waits for the save of its kind before. Asynchronous, it returns when the tensors are copied; `poll` or `wait`
        says how the writing went.

        Raises:
            StorageError: the disk is full, now or in the save before; older checkpoints are as they were.
        """
        self._wait(kind)
        final = checkpoint_path(self._root, kind, state["step"])
        plans = {part: plan_pieces(tensors) for part, tensors in parts.items()}
        state = jsonable(state)
        if self._thread is None:
            held = {part: {n: local_tensor(t).cpu() for n, t in tensors.items()} for part, tensors in parts.items()}
            self._write(final, plans, held, state)
            return
        # The room belongs to the thread until all is written: a save that is interrupted here loses room, not data.
        room = self._room.pop(kind, {})
        held = _copy_to_host(parts, room)
        self._pending[kind] = self._thread.submit(self._write_and_return, kind, room, final, plans, held, state)

    def poll(self) -> None:
        """Raise what a write that has ended raised."""
        done = [self._pending.pop(kind) for kind, write in list(self._pending.items()) if write.done()]
        for write in done:
            write.result()

    def wait(self) -> None:
        """Return when everything is on disk; raises what writing raised."""
        self._wait(*self._pending)

    def _wait(self, *kinds: str) -> None:
        wait_for([self._pending[kind] for kind in kinds if kind in self._pending])  # interrupted, they stay pending
        self.poll()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            if str(second) != str(error):
                say(f"the checkpoint that was being written is lost: {second}")

    def _write_and_return(self, kind: str, room: Parts, *save: Any) -> None:
        try:
            self._write(*save)
        finally:
            self._room[kind] = room

    def _write(self, final: Path, plans: Mapping[str, SavePlan], held: Parts, state: Mapping[str, Any]) -> None:
        partial = partial_path(final)
        try:
            shares = self._ranks.combine(lambda: self._begin(partial, plans), _share)
            self._ranks.combine(
                lambda: self._write_parts(partial, shares, held),
                lambda digests: self._finish(partial, final, state, digests),
            )
        except BaseException:
            if self._ranks.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _begin(self, partial: Path, plans: Mapping[str, SavePlan]) -> Mapping[str, SavePlan]:
        if self._ranks.first:
            with storage_errors(self._root):
                remove(partial)
                partial.mkdir(parents=True)
        return plans

    def _write_parts(self, partial: Path, shares: Mapping[str, SavePlan], held: Parts) -> dict[str, str]:
        """Write this process's files; returns their digests as the disk has them."""
        digests = {}
        with storage_errors(self._root):
            for part, share in shares.items():
                directory = partial / part
                directory.mkdir(exist_ok=True)
                if share.items or self._ranks.first:  # one file at least, so that an empty part is there
                    path = write_pieces(directory, self._ranks.number, share, held[part])
                    digests[path.relative_to(partial).as_posix()] = digest_file(path)
                sync_directory(directory)
        return digests

    def _finish(
        self, partial: Path, final: Path, state: Mapping[str, Any], digests: list[dict[str, str]]
    ) -> list[None]:
        """Give a checkpoint whose files are all on disk its record and its name, and remove older ones."""
        with storage_errors(self._root):
            write_record(partial, state, {name: digest for each in digests for name, digest in each.items()})
            if final.exists():
                discard(final)
            partial.rename(final)
            sync_directory(self._root)
            self._prune(final.name.rpartition("-")[0])
        return [None] * len(digests)

    def _prune(self, kind: str) -> None:
        """Remove old checkpoints. A run that resumes from a step checkpoint needs the best one that it names."""
        for directory in named_checkpoints(self._root, "step")[: -self._keep] if kind == "step" else ():
            if self._keep_every is None or step_of(directory) % self._keep_every:
                discard(directory)
        needed = {best_step_of(directory) for directory in named_checkpoints(self._root, "step")}
        for directory in named_checkpoints(self._root, "best")[:-1]:
            if step_of(directory) not in needed:
                discard(directory)


def _share(plans: list[Mapping[str, SavePlan]]) -> list[dict[str, SavePlan]]:
    """What each rank writes of each part."""
    shares = {part: share_pieces([plan[part] for plan in plans]) for part in plans[0]}
    return [{part: share[rank] for part, share in shares.items()} for rank in range(len(plans))]


def _copy_to_host(parts: Mapping[str, Mapping[str, Tensor]], room: Parts) -> Parts:
    """A copy of what is held here of `parts`, in the tensors of `room`; those that it lacks are put there."""
    copies: Parts = {}
    devices = set()
    for part, tensors in parts.items():
        places, copies[part] = room.setdefault(part, {}), {}
        for name, tensor in tensors.items():
            source = local_tensor(tensor)
            place = places.get(name)
            if place is None or place.shape != source.shape or place.dtype != source.dtype:
                place = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda)
            place.copy_(source, non_blocking=source.is_cuda)
            places[name] = copies[part][name] = place
            if source.is_cuda:
                devices.add(source.device)
    for device in devices:
        torch.cuda.synchronize(device)
    return copies
