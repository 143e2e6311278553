"""The processes of a command: those that torchrun started together, or a single one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from neolm.core.ranks import ONE_RANK, RunRanks, ranks_in_environment


@contextlib.contextmanager
def run_ranks(room: str | None = None) -> Iterator[RunRanks]:
    """Meet the other processes that torchrun started, if there are any.

    The arguments of a command, and the code of its `room`, must be the same in all of them; None: the caller compares.

    Raises:
        InputError: they are not.
    """
    if ranks_in_environment() == 1:
        yield ONE_RANK
        return
    from neolm.core.artifact import code_digest
    from neolm.distributed.ranks import joined

    with joined() as ranks:
        if room is not None:
            ranks.compare({"command": sys.argv[1:], "code": code_digest(room)})
        yield ranks
