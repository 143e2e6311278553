"""The schedule of a pipeline: in which order each process runs the passes of its chunks of layers.

- One chunk a process: 1F1B (Narayanan et al. 2021, "Memory-efficient pipeline-parallel DNN training", section 3). After
  as many forward passes as fill the pipeline, forward and backward passes take turns, so that process r of p holds the
  activations of at most p - r micro-batches.
- Several chunks: interleaved 1F1B (Narayanan et al. 2021, "Efficient large-scale language model training on GPU
  clusters", section 2.2). Process r has the chunks r, r + p, ... of all; the pipeline fills and empties in less time.
  Micro-batches go through the chunks in waves, of p or a few more.

All processes run the same sequence of forward passes, and the same one of backward passes. So between two of them,
messages of one kind are received in the order in which they were sent.

Zero-bubble schedules are left out: they divide the backward pass in two, and count shared weights twice
(pytorch issue 180952).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

MICRO_BATCHES = 4
"""Micro-batches of a step for each stage, at most, where `micro_batch_size` is not given. The processes then wait for
less than a fifth of the time (Huang et al. 2019, "GPipe", section 2.3)."""


class Pass(NamedTuple):
    """The forward or backward pass of a micro-batch through a chunk of layers of one process."""

    backward: bool
    chunk: int
    micro_batch: int


def schedule(stages: int, chunks: int, micro_batches: int, rank: int) -> list[Pass]:
    """The passes of process `rank` of `stages`, in their order."""
    waves = _waves(stages, micro_batches)
    forward = [Pass(False, chunk, part) for wave in waves for chunk in range(chunks) for part in wave]
    backward = [Pass(True, chunk, part) for wave in waves for chunk in reversed(range(chunks)) for part in wave]
    first = min(most_in_flight(stages, chunks, micro_batches, rank) - 1, len(forward))
    turns = [step for pair in zip(forward[first:], backward, strict=False) for step in pair]
    return [*forward[:first], *turns, *backward[len(forward) - first :]]


def needed(stages: int, chunks: int, rank: int, step: Pass) -> tuple[int, Pass] | None:
    """The process and its pass whose result `step` of `rank` needs; None: it needs the batch alone."""
    place = step.chunk * stages + rank  # of the chunk among all
    last = stages * chunks - 1
    if place == (last if step.backward else 0):
        return (rank, step._replace(backward=False)) if step.backward else None
    chunk, source = divmod(place + 1 if step.backward else place - 1, stages)
    return source, step._replace(chunk=chunk)


def most_in_flight(stages: int, chunks: int, micro_batches: int, rank: int) -> int:
    """Forward passes of process `rank` that wait for their backward pass, at most."""
    if chunks == 1:
        return stages - rank
    return 2 * (stages - rank - 1) + (chunks - 1) * max(map(len, _waves(stages, micro_batches))) + 1


def most_messages(stages: int) -> int:
    """Messages of a process that others have not received yet, with which no process ever waits for itself."""
    return 2 * stages


def idle_share(stages: int, chunks: int, micro_batches: int) -> float:
    """Share of the time that each process waits while the pipeline fills and empties, if all passes take as long."""
    least, most = sorted((stages, micro_batches))
    return 1 - chunks * micro_batches / (chunks * most + least - 1)


def _waves(stages: int, micro_batches: int) -> list[range]:
    count = max(1, micro_batches // stages)
    edges = [micro_batches * number // count for number in range(count + 1)]
    return [range(start, end) for start, end in pairwise(edges)]
