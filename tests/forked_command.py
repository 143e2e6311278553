"""`neolm`, or a script, in a process that is forked from one that has imported torch and Daft.

It starts in a fraction of the time that a new interpreter takes, and can be killed like any other process.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["neolm.cli", "neolm.pipeline", "neolm.corpus.frames", "neolm.training.pretrain_task", "torch._dynamo"]
)


def start(arguments: Sequence[object], said: Path, script: str | None = None) -> ForkServerProcess:
    """Start `neolm` or a Python `script` with `arguments`.

    What it says on standard error is in the file `said`. A script's warnings are errors.
    """
    process = _CONTEXT.Process(target=_run, args=([*map(str, arguments)], said, script))
    process.start()
    return process


def finish(arguments: Sequence[object], said: Path) -> str:
    """Run `neolm` to its end, without an error, and return what it says."""
    process = start(arguments, said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    return said.read_text()


def _run(arguments: Sequence[str], said: Path, script: str | None) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["neolm" if script is None else "-c", *arguments]
    if script is None:
        from neolm.cli import main

        main()
    else:
        warnings.simplefilter("error")
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
