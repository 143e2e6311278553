"""The contestant's side of a measurement: a process that trains when it is told to, and sleeps in between.

Every contestant runs a training loop of its own, and not one of those loops was made to be interrupted. So the gate
stands where all of them pass once a step, whoever wrote them: at the call of `Optimizer.step`, where torch lets a hook
in. From one gradient to the next lies one whole step: update, next batch, forward and backward pass, whatever the loop
logs. The loop runs through the gate as many times as the turn has steps; then the gate takes the time, answers, and
holds the loop until its next turn.

Commands and answers are JSON, one a line, on standard input and output. Runs in each contestant's environment, and
needs torch only.
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
    """Lines of JSON to and from the parent. What others print on standard output goes to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        with contextlib.suppress(OSError):  # whoever runs out of memory, it shall be the benchmark
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
        self.job = self.receive()
        torch.set_num_threads(self.job["threads"])

    def receive(self) -> dict[str, Any]:
        """The next command; without one the process ends."""
        line = sys.stdin.readline()
        if not line:
            leave()
        return dict(json.loads(line))

    def answer(self, **content: Any) -> None:
        """Answer the last command."""
        print(json.dumps(content), file=self._answers, flush=True)


class Gate:
    """Lets a training loop pass for a number of steps, then holds it until the next turn."""

    def __init__(
        self,
        channel: Channel,
        evaluate: Callable[[], float] | None = None,
        waited: Callable[[], float] | None = None,
    ) -> None:
        """Stand where the loop will pass.

        Args:
            channel: To the parent.
            evaluate: Gives the loss of the model as it stands; its time is nobody's.
            waited: Gives the seconds that the loop has waited for data so far, where it can be known.
        """
        self.channel, self.evaluate, self.waited = channel, evaluate, waited
        self._left = channel.job["warmup"] + 1  # the first arrival has a gradient, but no update yet
        self._marker: torch.Tensor | None = None
        self._parameters: dict[int, int] = {}
        self._began, self._processor_began = time.perf_counter(), time.process_time()
        register_optimizer_step_pre_hook(self._arrive)

    def _arrive(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimiser) not in self._parameters:
            self._parameters[id(optimiser)] = sum(p.numel() for g in optimiser.param_groups for p in g["params"])
        if self._marker is None:
            self._marker = next(p for g in optimiser.param_groups for p in g["params"] if p.grad is not None)
        # A loop may call several optimisers, or one for some parameters at a time: one of them all marks the step.
        if self._marker.grad is None or not any(p is self._marker for g in optimiser.param_groups for p in g["params"]):
            return
        self._left -= 1
        if self._left:
            return
        synchronise()
        self.channel.answer(
            seconds=time.perf_counter() - self._began,
            processor_seconds=time.process_time() - self._processor_began,
            waited=self.waited() if self.waited else None,
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
                leave()


def leave() -> NoReturn:
    """End the process here and now: no loop that is held at the gate has an end of its own."""
    sys.stderr.flush()
    os._exit(0)


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Most bytes that this process has held: on the GPU if there is one, else resident (VmHWM)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
