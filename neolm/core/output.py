"""The directory that a run builds in: never somebody else's, and one run's at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from neolm.core.artifact import read_manifest
from neolm.core.errors import InputError
from neolm.core.files import storage_errors


def claim_output(output: Path) -> contextlib.AbstractContextManager[None]:
    """Make `output` ours: create it, refuse a directory that holds something else, and lock it against a second run.

    Raises:
        InputError: it holds foreign files, cannot be written, or another run is using it.
    """
    known = {"corpus", "tokenizer", "shards", "pretrain", "model", "evaluation", "report.html", "recipe.yaml"}
    with storage_errors(output):
        if output.exists() and not output.is_dir():
            raise InputError(f"output: {output} is a file; give a directory")
        entries = {p.name for p in output.iterdir() if not p.name.startswith(".")} if output.exists() else set()
        if entries and not entries & known:
            raise InputError(
                f"output: {output} already holds something else ({', '.join(sorted(entries)[:3])}); "
                "give an empty or new directory: output=DIR"
            )
        try:
            output.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # what a file system such as /proc says
            raise InputError(f"output: {output} cannot be created") from None
    return _locked(output)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    with storage_errors(output):
        lock = (output / ".lock").open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise InputError(
                f"output: {output} is in use by another run (process {lock.read().strip() or 'unknown'}); "
                "wait for it, or give another directory: output=DIR"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def refuse_foreign(directory: Path) -> None:
    """Make sure that writing an artefact to `directory` destroys nothing that is not one.

    Raises:
        InputError: it is a file, or a directory that holds something else.
    """
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and read_manifest(directory) is None):
        raise InputError(f"{directory}: already holds something else; give a new or empty directory")
