"""The output directory of a run: refuse directories with other files, and let one run use it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from neolm.core.artifact import RECIPE
from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.manifest import read_manifest


@contextlib.contextmanager
def claim_output(output: Path, names: Collection[str]) -> Iterator[None]:
    """Create `output` if need be and lock it; new directories that stay empty are removed at the end.

    `names` are the files and directories that a run creates: an existing directory with none of them is refused.

    Raises:
        InputError: the directory contains other files, cannot be written, or is in use by another run.
    """
    with storage_errors(output):
        if output.exists() and not output.is_dir():
            raise InputError(f"output: {output} is a file. Choose a directory")
        entries = {p.name for p in output.iterdir() if not p.name.startswith(".")} if output.exists() else set()
        if entries and not entries & {*names, RECIPE}:
            raise InputError(
                f"output: {output} already contains other files ({', '.join(sorted(entries)[:3])}). "
                "Choose an empty or new directory: output=DIR"
            )
        created = [path for path in (output, *output.parents) if not path.exists()]
        try:
            output.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # the error of file systems such as /proc
            raise InputError(f"output: {output} cannot be created") from None
        lock = (output / ".lock").open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a run that built nothing may have removed the file since it was opened, and another may have made it anew
            if not os.path.samestat(os.fstat(lock.fileno()), (output / ".lock").stat()):
                raise BlockingIOError
        except OSError:
            lock.seek(0)
            raise InputError(
                f"output: {output} is in use by another run (process {lock.read().strip() or 'unknown'}). "
                "Wait until it ends, or choose another directory: output=DIR"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            if {path.name for path in output.iterdir()} <= {".lock"}:  # nothing was built
                (output / ".lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    for path in created:
                        path.rmdir()


def refuse_foreign(directory: Path) -> None:
    """Refuse to write an artefact to `directory` if that would destroy other files.

    Raises:
        InputError: it is a file, or a directory that contains files but no artefact.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file. Choose a new or empty directory")
    if directory.is_dir() and any(directory.iterdir()) and read_manifest(directory) is None:
        raise InputError(f"{directory}: already contains other files. Choose a new or empty directory")
