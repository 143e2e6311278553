"""Threads that run one function: `run` raises errors and interrupts, and no thread stays at a barrier."""

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

from neolm.kernels.thread_pool import ThreadPool, barrier


@njit(nogil=True)
def relay(rank: int, size: int, shared: Any, numbers: Any) -> None:
    """In each phase every thread adds the numbers of all threads from the phase before."""
    for phase in range(numbers.shape[0] - 1):
        numbers[phase + 1, rank] = numbers[phase].sum() + rank
        barrier(size, shared)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_writes_before_a_barrier_are_visible_after_it(size: int) -> None:
    pool = ThreadPool(size)
    numbers = np.zeros((40 if size < 3 else 12, size), np.int64)
    numbers[0] = 1
    for _ in range(20):
        pool.run(relay, numbers)
        expected = numbers[0].copy()
        for phase in range(1, len(numbers)):
            expected = expected.sum() + np.arange(size)
            assert (numbers[phase] == expected).all()


@pytest.mark.parametrize("fails", [0, 1])
def test_if_one_thread_fails_the_others_return(fails: int) -> None:
    pool = ThreadPool(3)

    def work(rank: int, size: int, shared: Any, numbers: Any) -> None:
        if rank == fails:
            if fails:  # as `run` does for the caller's errors
                shared[8] = 1
            raise ValueError("no")
        relay(rank, size, shared, numbers)

    with pytest.raises(ValueError, match="no"):
        pool.run(work, np.ones((3, 3), np.int64))
    numbers = np.ones((3, 3), np.int64)
    pool.run(relay, numbers)
    assert numbers[1].tolist() == [3, 4, 5]


def test_an_interrupt_is_raised_after_all_threads_have_returned() -> None:
    pool = ThreadPool(2)
    done: list[int] = []

    def work(rank: int, size: int, shared: Any) -> None:
        if rank == 0:
            _thread.interrupt_main(signal.SIGINT)
            for _ in range(100):
                time.sleep(0.01)
        time.sleep(0.05)
        done.append(rank)

    with pytest.raises(KeyboardInterrupt):
        pool.run(work)
    assert done == [1]
    numbers = np.ones((3, 2), np.int64)
    pool.run(relay, numbers)
    assert numbers[1].tolist() == [2, 3]


def test_concurrent_callers() -> None:
    pool = ThreadPool(2)
    tables = [np.ones((30, 2), np.int64) for _ in range(4)]
    callers = [threading.Thread(target=pool.run, args=(relay, table)) for table in tables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((table == tables[0]).all() for table in tables)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_forked_process_starts_new_threads() -> None:
    script = (
        "import os, signal\n"
        "from neolm.kernels.thread_pool import thread_pool\n"
        "count = lambda rank, size, shared: None\n"
        "thread_pool(2).run(count)\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(60)\n"
        "    thread_pool(2).run(count)\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


def test_a_process_with_a_pool_exits() -> None:
    script = (
        "from neolm.kernels.thread_pool import thread_pool\n"
        "thread_pool(3).run(lambda rank, size, shared: None)\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
