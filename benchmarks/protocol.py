"""Communication of a contestant's process with its parent, and a gate that stops its training loop between turns.

Every contestant has its own training loop, and none of the loops was written to be interrupted. So the gate is a hook
of torch on `Optimizer.step`, which every loop calls once per step. Between two calls is one whole step: update, next
batch, forward and backward pass, logging. The hook counts the steps of the turn. Then it takes the time, answers, and
blocks the loop until its next turn.

Commands and answers are JSON, one per line, on standard input and output. This module runs in each contestant's
environment and needs only torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Channel:
    """Lines of JSON to and from the parent. Other output to standard output is redirected to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        with contextlib.suppress(OSError):  # if memory runs out, the benchmark is killed first
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
        self.job = self.receive()
        torch.set_num_threads(self.job["threads"])

    def receive(self) -> dict[str, Any]:
        """Return the next command. At the end of the input, end the process."""
        line = sys.stdin.readline()
        if not line:
            exit_process()
        return dict(json.loads(line))

    def answer(self, **content: Any) -> None:
        """Send the answer to the last command."""
        print(json.dumps(content), file=self._answers, flush=True)


class Gate:
    """Let a training loop run for a number of steps, then block it until the next turn."""

    def __init__(
        self,
        channel: Channel,
        evaluate: Callable[[], float] | None = None,
        data_wait: Callable[[], float] | None = None,
    ) -> None:
        """Install the hook.

        Args:
            channel: Connection to the parent.
            evaluate: Returns the loss of the current model. Its time is not counted.
            data_wait: Returns the seconds for which the loop has waited for data so far, if known.
        """
        self.channel, self.evaluate, self.data_wait = channel, evaluate, data_wait
        self._left = channel.job["warmup"] + 1  # at the first call there is a gradient, but no update yet
        self._marker: torch.Tensor | None = None
        self._parameters: dict[int, int] = {}
        self._began, self._processor_began = time.perf_counter(), time.process_time()
        register_optimizer_step_pre_hook(self._before_step)

    def _before_step(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimiser) not in self._parameters:
            self._parameters[id(optimiser)] = sum(p.numel() for g in optimiser.param_groups for p in g["params"])
        if self._marker is None:
            self._marker = next(p for g in optimiser.param_groups for p in g["params"] if p.grad is not None)
        # A loop may call several optimisers in a step, or one several times: one parameter marks the step.
        if self._marker.grad is None or not any(p is self._marker for g in optimiser.param_groups for p in g["params"]):
            return
        self._left -= 1
        if self._left:
            return
        synchronise()
        self.channel.answer(
            seconds=time.perf_counter() - self._began,
            processor_seconds=time.process_time() - self._processor_began,
            waited=self.data_wait() if self.data_wait else None,
            memory=peak_memory(),
            parameters=sum(self._parameters.values()),
        )
        self._wait()
        self._began, self._processor_began = time.perf_counter(), time.process_time()

    def _wait(self) -> None:
        while True:
            command = self.channel.receive()
            if command["do"] == "run":
                self._left = command["steps"]
                return
            if command["do"] == "evaluate":
                assert self.evaluate is not None
                self.channel.answer(loss=self.evaluate())
            else:
                exit_process()


def exit_process() -> NoReturn:
    """End the process immediately: a loop that the gate blocks does not end itself."""
    sys.stderr.flush()
    os._exit(0)


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Peak memory of this process in bytes: of the GPU if it is used, else resident (VmHWM)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
