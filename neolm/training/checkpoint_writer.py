"""Write checkpoints in a background thread.

A save copies the tensors to host memory and returns. The thread writes the copy to a temporary directory, flushes and
digests every file, writes the record last and renames the directory; then it removes old checkpoints. So a kill at any
moment leaves the earlier checkpoints intact. (Mohan, Phanishayee & Chidambaram 2021, "CheckFreq", split snapshot and
persistence in this way.) With several processes, each writes its shards, and rank 0 renames the directory at the end.

Not supported: a directory that the processes do not share.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan

from neolm.core.files import digest_file, jsonable, remove, storage_errors, sync_directory
from neolm.core.progress import say
from neolm.training.checkpoint import best_step_of, checkpoint_path, discard, named_checkpoints, write_record
from neolm.training.sharded_tensor import boxes, local_tensor
from neolm.training.tensor_files import Boxes, assign_shards, plan_shards, write_shards
from neolm.training.world import World

Parts = dict[str, dict[str, Tensor]]


class CheckpointWriter:
    """Writes checkpoints below `root`, one at a time. A `with` block waits at its end until the last is on disk.

    Of kind `step` the last `keep` are kept, and those at multiples of `keep_every`; of kind `best` the last one, and
    those that are the `best_step` of a step checkpoint on disk.
    With several processes, each creates a writer and makes the same calls.
    """

    def __init__(self, root: Path, *, keep: int, keep_every: int | None = None, asynchronous: bool = True) -> None:
        assert keep >= 1
        self._root, self._keep, self._keep_every = root, keep, keep_every
        self._world = World()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._pending: dict[str, Future[None]] = {}
        self._buffers: dict[str, Parts] = {}
        if self._world.first:
            with storage_errors(root):
                for leftover in (*root.glob(".*-*.partial"), *root.glob(".*-*.removed")):  # by a killed process
                    remove(leftover)

    def save(self, kind: str, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Save the current values of `parts`, named tensors by part, and of `state`, JSON with the step.

        Waits for the previous save of the same kind. An asynchronous save returns when the tensors are copied; `poll`
        or `wait` raises the errors of writing.

        Raises:
            StorageError: the disk is full, now or in the previous save; older checkpoints are intact.
        """
        self.wait(kind)
        final = checkpoint_path(self._root, kind, state["step"])
        plans = {part: plan_shards(tensors) for part, tensors in parts.items()}
        state = jsonable(state)
        if self._thread is None:
            copies = {part: {n: local_tensor(t).cpu() for n, t in tensors.items()} for part, tensors in parts.items()}
            self._write(final, plans, _boxes_of(parts, copies), state)
            return
        # The copies belong to the thread until all is written: an interruption here loses buffers, not data.
        copies = _copy_to_host(parts, self._buffers.pop(kind, {}))
        own = _boxes_of(parts, copies)
        self._pending[kind] = self._thread.submit(self._write_and_keep, kind, copies, final, plans, own, state)

    def poll(self) -> None:
        """Raise the errors of writes that have ended."""
        done = [self._pending.pop(kind) for kind, write in list(self._pending.items()) if write.done()]
        for write in done:
            write.result()

    def wait(self, *kinds: str) -> None:
        """Wait until the saves of `kinds`, or all of them, are on disk; raise the errors of writing."""
        writes = [write for kind, write in self._pending.items() if kind in kinds or not kinds]
        wait_for(writes)  # interrupted, they stay pending
        self.poll()

    def close(self) -> None:
        """Wait and stop the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            if str(second) != str(error):
                say(f"the checkpoint that was being written is lost: {second}")

    def _write_and_keep(self, kind: str, copies: Parts, *write: Any) -> None:
        try:
            self._write(*write)
        finally:
            self._buffers[kind] = copies

    def _write(
        self, final: Path, plans: Mapping[str, SavePlan], copies: Mapping[str, Boxes], state: Mapping[str, Any]
    ) -> None:
        partial = final.with_name(f".{final.name}.partial")
        try:
            assigned = self._world.combine(lambda: plans, lambda plans: self._begin(partial, plans))
            self._world.combine(
                lambda: self._write_parts(partial, assigned, copies),
                lambda digests: self._finish(partial, final, state, digests),
            )
        except BaseException:
            if self._world.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _begin(self, partial: Path, plans: list[Mapping[str, SavePlan]]) -> list[dict[str, SavePlan]]:
        """Create the directory and return the shards that each rank writes, by part."""
        with storage_errors(self._root):
            remove(partial)
            partial.mkdir(parents=True)
        assigned = {part: assign_shards([plan[part] for plan in plans]) for part in plans[0]}
        return [{part: plan[rank] for part, plan in assigned.items()} for rank in range(len(plans))]

    def _write_parts(
        self, partial: Path, assigned: Mapping[str, SavePlan], copies: Mapping[str, Boxes]
    ) -> dict[str, str]:
        """Write the files of this process and return their digests, read back from disk."""
        digests = {}
        with storage_errors(self._root):
            for part, plan in assigned.items():
                directory = partial / part
                directory.mkdir(exist_ok=True)
                if plan.items or self._world.first:  # at least one file, so that the directory of an empty part exists
                    for path in write_shards(directory, self._world.number, plan, copies[part]):
                        digests[path.relative_to(partial).as_posix()] = digest_file(path)
                sync_directory(directory)
        return digests

    def _finish(
        self, partial: Path, final: Path, state: Mapping[str, Any], digests: list[dict[str, str]]
    ) -> list[None]:
        """Write the record of a checkpoint whose files are on disk, rename it and remove older ones."""
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
        steps = named_checkpoints(self._root, "step")
        for step in list(steps)[: -self._keep] if kind == "step" else ():
            if self._keep_every is None or step % self._keep_every:
                discard(steps.pop(step))
        needed = {best_step_of(directory) for directory in steps.values()}
        for step, directory in list(named_checkpoints(self._root, "best").items())[:-1]:
            if step not in needed:
                discard(directory)


def _boxes_of(parts: Mapping[str, Mapping[str, Tensor]], copies: Parts) -> dict[str, Boxes]:
    """The parts of this process in `copies` of `parts`, by their offsets in the whole tensors."""
    return {
        part: {name: dict(boxes(tensor, copies[part][name])) for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }


def _copy_to_host(parts: Mapping[str, Mapping[str, Tensor]], buffers: Parts) -> Parts:
    """Copy this process's shards of `parts`, into `buffers` where their shapes and types agree."""
    copies: Parts = {part: {} for part in parts}
    gpus = set()
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            source = local_tensor(tensor)
            copy = buffers.get(part, {}).get(name)
            if copy is None or copy.shape != source.shape or copy.dtype != source.dtype:
                copy = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda)
            copies[part][name] = copy.copy_(source, non_blocking=source.is_cuda)
            if source.is_cuda:
                gpus.add(source.device)
    for gpu in gpus:
        torch.cuda.synchronize(gpu)
    return copies
