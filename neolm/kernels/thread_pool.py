"""Thread pool whose threads run one compiled function together, and the barrier that synchronises them inside it.

torch's threads run only torch's operations. A compiled function that releases the GIL (`nogil`) runs at full speed in
ordinary threads; the caller is one of them.
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

from neolm.kernels.jit import cached_jit
from neolm.kernels.simd import I32, I64, VOID, Builder, Value, call, int64, llvm_function

_ARRIVED, _FAILED, _FINISHED = 0, 8, 16  # indices into `shared`, each on its own cache line
_SPINS = 4_000  # about 50 microseconds of busy waiting before a thread yields


class _Worker:
    """A thread that runs one job at a time: `submit` starts a job, `wait` waits for its end.

    `concurrent.futures` does the same, but takes 60 microseconds a job.
    """

    def __init__(self, rank: int) -> None:
        self.error: BaseException | None = None
        self._rank = rank
        self._job: tuple[Any, ...] | None = None  # None when done
        self._go, self._done = threading.Lock(), threading.Lock()  # binary semaphores: acquired at rest
        self._go.acquire()
        self._done.acquire()
        threading.Thread(target=self._work, name=f"neolm-{rank}", daemon=True).start()

    def submit(self, *job: Any) -> None:
        """Start function(rank, size, shared, ...)."""
        self.error, self._job = None, job
        _release(self._go)

    def wait(self) -> None:
        """Wait for the end of the job, if any. Raises KeyboardInterrupt at once; then call `wait` again."""
        while self._job is not None:
            _release(self._go)  # an interrupt may have stopped `submit` before it
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
                self.error, shared[_FAILED] = error, 1
            self._job = function = arguments = None  # type: ignore[assignment]
            _release(self._done)
            _mark_finished(shared)


def _release(lock: threading.Lock) -> None:
    if lock.locked():
        lock.release()


class ThreadPool:
    """`size` threads; `run(function, ...)` calls `function(rank, size, shared, ...)` in each and waits for all.

    `shared` (int64) holds the state of `barrier`. If one call fails, barriers no longer wait. `run` raises an error or
    an interrupt when all threads have returned.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._workers = [_Worker(rank) for rank in range(1, size)]

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function` once in each thread; the caller is rank 0."""
        with self._lock:
            shared = np.zeros(24, np.int64)
            failure: BaseException | None = None
            try:
                for worker in self._workers:
                    worker.submit(function, self.size, shared, *arguments)
                function(0, self.size, shared, *arguments)
                _spin_until_finished(self.size - 1, shared)  # usually enough: no lock has to wake this thread
            except BaseException as error:
                failure, shared[_FAILED] = error, 1
            for worker in self._workers:
                while True:
                    try:
                        worker.wait()
                        break
                    except KeyboardInterrupt as error:
                        failure, shared[_FAILED] = error, 1
            failure = failure or next((worker.error for worker in self._workers if worker.error), None)
        if failure is not None:
            raise failure


@functools.cache
def thread_pool(size: int | None = None) -> ThreadPool:
    """The process's pool of `size` threads; None: as many as torch uses."""
    return ThreadPool(size) if size is not None else thread_pool(torch.get_num_threads())


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=thread_pool.cache_clear)


@llvm_function
def _increment(builder: Builder, address: Value) -> Value:
    return builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), int64(1), "seq_cst")


@llvm_function
def _load_acquire(builder: Builder, address: Value) -> Value:
    return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), "acquire", 8)


@llvm_function
def _yield_processor(builder: Builder) -> None:
    if os.name == "posix":
        name = "sched_yield"
        function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(I32, []), name)
        builder.call(function, [])


@llvm_function
def _pause(builder: Builder) -> None:
    if "x86" in builder.module.triple:
        call(builder, "llvm.x86.sse2.pause", VOID, [])


@njit(nogil=True, error_model="numpy")
def barrier(size: int, shared: Any) -> None:
    """Wait until all threads have called this as often as this one; once a thread has failed, do not wait.

    Writes before the barrier are visible to all threads after it.
    """
    address = shared.ctypes.data
    expected = (_increment(address + 8 * _ARRIVED) // size + 1) * size
    spins = 0
    while _load_acquire(address + 8 * _ARRIVED) < expected and not _load_acquire(address + 8 * _FAILED):
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _yield_processor()


@cached_jit
def _mark_finished(shared: Any) -> None:
    _increment(shared.ctypes.data + 8 * _FINISHED)


@cached_jit
def _spin_until_finished(count: int, shared: Any) -> None:
    """Busy-wait a short time for `count` threads to finish."""
    for _ in range(_SPINS):
        if _load_acquire(shared.ctypes.data + 8 * _FINISHED) >= count:
            return
        _pause()
