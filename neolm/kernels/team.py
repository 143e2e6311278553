"""A few threads that run one compiled function together, and the barrier at which they meet inside it.

torch's threads cannot be used: they only run torch's operations. A compiled function that lets go of Python's global
lock (`nogil`) runs in ordinary threads at full speed; one of them is the caller.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit

from neolm.kernels.compiled import compiled
from neolm.kernels.lanes import I32, I64, VOID, Builder, Value, call, emitted, number

_ARRIVED, _BROKEN, _FINISHED = 0, 8, 16  # places in a team's shared words, on cache lines of their own
_SPINS = 4_000  # about 50 microseconds of waiting before the processor is offered to others


class _Helper:
    """A thread that does one job at a time: `give` it, and `wait` until it is done.

    A futures' pool does the same, but takes 60 microseconds a job, and locks are handed over twice.
    """

    def __init__(self, rank: int) -> None:
        self.error: BaseException | None = None
        self._rank = rank
        self._job: tuple[Any, ...] | None = None  # there until it is done
        self._go, self._done = threading.Lock(), threading.Lock()  # held, but for a moment: "look at the job"
        self._go.acquire()
        self._done.acquire()
        threading.Thread(target=self._work, name=f"neolm-{rank}", daemon=True).start()

    def give(self, *job: Any) -> None:
        """Begin function(rank, size, shared, ...)."""
        self.error, self._job = None, job
        _let_go(self._go)

    def wait(self) -> None:
        """Until the job is done, if there is one. An interrupt comes out at once; then wait again."""
        while self._job is not None:
            _let_go(self._go)  # an interrupt may have kept `give` from it
            self._done.acquire(timeout=1)

    def _work(self) -> None:
        while True:
            self._go.acquire()
            if self._job is None:
                continue
            function, size, shared, *arguments = self._job
            try:
                function(self._rank, size, shared, *arguments)
            except BaseException as error:
                self.error, shared[_BROKEN] = error, 1
            self._job = function = arguments = None  # type: ignore[assignment]
            _let_go(self._done)
            _finish(shared)


def _let_go(lock: threading.Lock) -> None:
    if lock.locked():
        lock.release()


class Team:
    """`size` threads; `run(function, ...)` calls `function(rank, size, shared, ...)` in each and waits for all.

    `shared` (int64) is for `meet`. If one of the calls fails, the others leave at their next barrier, and its error
    comes out of `run`; so does an interrupt, when all have left.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._helpers = [_Helper(rank) for rank in range(1, size)]

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function` once in each thread; the caller is rank 0."""
        with self._lock:
            shared = np.zeros(24, np.int64)
            failure: BaseException | None = None
            try:
                for helper in self._helpers:
                    helper.give(function, self.size, shared, *arguments)
                function(0, self.size, shared, *arguments)
                _await_others(self.size - 1, shared)  # mostly they are as far: no lock has to wake us
            except BaseException as error:
                failure, shared[_BROKEN] = error, 1
            for helper in self._helpers:
                while True:
                    try:
                        helper.wait()
                        break
                    except KeyboardInterrupt as error:
                        failure, shared[_BROKEN] = error, 1
            failure = failure or next((helper.error for helper in self._helpers if helper.error), None)
        if failure is not None:
            raise failure


@functools.cache
def team(size: int | None = None) -> Team:
    """The process's team of `size` threads; None: as many as torch computes with."""
    return Team(size) if size is not None else team(torch.get_num_threads())


if hasattr(os, "register_at_fork"):  # a child has the object, but not its threads
    os.register_at_fork(after_in_child=team.cache_clear)


@emitted
def _arrive(builder: Builder, address: Value) -> None:
    builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), number(1), "seq_cst")


@emitted
def _look(builder: Builder, address: Value) -> Value:
    return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), "acquire", 8)


@emitted
def _offer_processor(builder: Builder) -> None:
    if os.name == "posix":
        name = "sched_yield"
        function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(I32, []), name)
        builder.call(function, [])


@emitted
def _pause(builder: Builder) -> None:
    if "x86" in builder.module.triple:
        call(builder, "llvm.x86.sse2.pause", VOID, [])


@njit(nogil=True)
def meet(size: int, shared: Any, turn: int) -> bool:
    """Wait until all have come here for the `turn`th time, from 1; false: one will not come, leave.

    What a thread wrote before, the others see after.
    """
    arrived = shared.ctypes.data
    _arrive(arrived + 8 * _ARRIVED)
    spins = 0
    while _look(arrived + 8 * _ARRIVED) < turn * size:
        if _look(arrived + 8 * _BROKEN):
            return False
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _offer_processor()
    return True


@compiled
def _finish(shared: Any) -> None:
    _arrive(shared.ctypes.data + 8 * _FINISHED)


@compiled
def _await_others(count: int, shared: Any) -> None:
    """Wait a little for `count` threads to finish."""
    for _ in range(_SPINS):
        if _look(shared.ctypes.data + 8 * _FINISHED) >= count:
            return
        _pause()
