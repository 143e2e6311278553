"""Threads that run one function: errors and interrupts come out, and nobody is left at a barrier."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from numba import njit

from neolm.kernels.team import Team, meet


@njit(nogil=True)
def relay(rank: int, size: int, shared: Any, numbers: Any) -> None:
    """Each turn everybody adds what all the others have at the end of the turn before."""
    for turn in range(numbers.shape[0] - 1):
        numbers[turn + 1, rank] = numbers[turn].sum() + rank
        if not meet(size, shared, turn + 1):
            return


@pytest.mark.parametrize("size", [1, 2, 5])
def test_everybody_sees_what_was_done_before_the_barrier(size: int) -> None:
    team = Team(size)
    numbers = np.zeros((40 if size < 3 else 12, size), np.int64)
    numbers[0] = 1
    for _ in range(20):
        team.run(relay, numbers)
        expected = numbers[0].copy()
        for turn in range(1, len(numbers)):
            expected = expected.sum() + np.arange(size)
            assert (numbers[turn] == expected).all()


@pytest.mark.parametrize("fails", [0, 1])
def test_if_one_fails_the_others_leave(fails: int) -> None:
    team = Team(3)

    def work(rank: int, size: int, shared: Any, numbers: Any) -> None:
        if rank == fails:
            if fails:  # the caller alone can call the others off
                shared[8] = 1
            raise ValueError("no")
        relay(rank, size, shared, numbers)

    with pytest.raises(ValueError, match="no"):
        team.run(work, np.ones((3, 3), np.int64))
    numbers = np.ones((3, 3), np.int64)
    team.run(relay, numbers)
    assert numbers[1].tolist() == [3, 4, 5]


def test_an_interrupt_waits_for_the_others_and_then_comes_out() -> None:
    team = Team(2)
    done: list[int] = []

    def work(rank: int, size: int, shared: Any) -> None:
        if rank == 0:
            _thread.interrupt_main(signal.SIGINT)
            for _ in range(100):
                time.sleep(0.01)
        time.sleep(0.05)
        done.append(rank)

    with pytest.raises(KeyboardInterrupt):
        team.run(work)
    assert done == [1]
    numbers = np.ones((3, 2), np.int64)
    team.run(relay, numbers)
    assert numbers[1].tolist() == [2, 3]


def test_two_callers_take_turns() -> None:
    team = Team(2)
    tables = [np.ones((30, 2), np.int64) for _ in range(4)]
    callers = [threading.Thread(target=team.run, args=(relay, table)) for table in tables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((table == tables[0]).all() for table in tables)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_forked_process_has_threads_of_its_own() -> None:
    script = (
        "import os, signal\n"
        "from neolm.kernels.team import team\n"
        "count = lambda rank, size, shared: None\n"
        "team(2).run(count)\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(60)\n"
        "    team(2).run(count)\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


def test_a_process_with_a_team_ends() -> None:
    script = "from neolm.kernels.team import team\nteam(3).run(lambda rank, size, shared: None)\nprint('done')\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
