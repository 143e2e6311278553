"""The schedules of a pipeline, as data."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.training.pipeline_schedule import Pass, idle_share, most_in_flight, most_messages, needed, schedule

SIZES = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 20))


def played(stages: int, chunks: int, micro_batches: int) -> dict[tuple[int, Pass], int]:
    """When each pass of each process ends, if every pass takes one unit of time and waits for what it needs.

    A process with too many messages that nobody has received waits too.
    """
    waiting = [schedule(stages, chunks, micro_batches, rank) for rank in range(stages)]
    ends: dict[tuple[int, Pass], int] = {}
    free = [0] * stages
    targets = {needed(stages, chunks, rank, step): (rank, step) for rank, steps in enumerate(waiting) for step in steps}
    sent: list[list[tuple[int, Pass]]] = [[] for _ in waiting]  # the passes that receive what was sent
    while any(waiting):
        ready = []
        for rank, steps in enumerate(waiting):
            source = needed(stages, chunks, rank, steps[0]) if steps else None
            heard = all(target in ends for target in sent[rank][: -most_messages(stages)])
            if steps and heard and (source is None or source in ends):
                free[rank] = max(free[rank], ends[source] if source else 0) + 1
                ready.append((rank, steps.pop(0)))
        assert ready, "deadlock"
        ends |= {step: free[step[0]] for step in ready}
        for rank, step in ready:
            target = targets.get((rank, step))
            sent[rank] += [target] if target and target[0] != rank else []
    return ends


@given(sizes=SIZES)
def test_every_pass_runs_once_and_no_process_waits_for_ever(sizes: tuple[int, int, int]) -> None:
    stages, chunks, micro_batches = sizes
    ends = played(*sizes)
    assert len(ends) == 2 * stages * chunks * micro_batches
    assert {step for _, step in ends} == {
        Pass(backward, chunk, part)
        for backward in (False, True)
        for chunk in range(chunks)
        for part in range(micro_batches)
    }


@given(sizes=SIZES)
def test_the_time_is_what_idle_share_says(sizes: tuple[int, int, int]) -> None:
    _, chunks, micro_batches = sizes
    time = max(played(*sizes).values())
    assert idle_share(*sizes) == pytest.approx(1 - 2 * chunks * micro_batches / time)


@given(sizes=SIZES)
def test_activations_in_flight_are_limited(sizes: tuple[int, int, int]) -> None:
    stages, chunks, micro_batches = sizes
    for rank in range(stages):
        most = held = 0
        for step in schedule(*sizes, rank):
            held += -1 if step.backward else 1
            most = max(most, held)
        assert held == 0
        assert most <= most_in_flight(stages, chunks, micro_batches, rank)
        if chunks == 1:
            assert most == min(stages - rank, micro_batches)


@given(sizes=SIZES)
def test_messages_are_received_in_the_order_in_which_they_are_sent(sizes: tuple[int, int, int]) -> None:
    stages, chunks, _ = sizes
    sent, received = defaultdict(list), defaultdict(list)
    sources = {
        (rank, step): needed(stages, chunks, rank, step) for rank in range(stages) for step in schedule(*sizes, rank)
    }
    targets = {source: target for target, source in sources.items() if source and source[0] != target[0]}
    for rank in range(stages):
        for step in schedule(*sizes, rank):
            source = sources[rank, step]
            if source in targets:
                received[source[0], rank, step.backward].append((source, (rank, step)))
            if (rank, step) in targets:
                target = targets[rank, step]
                sent[rank, target[0], step.backward].append(((rank, step), target))
    assert sent == received


def test_one_forward_one_backward() -> None:
    names = [
        " ".join(f"{'FB'[step.backward]}{step.micro_batch}" for step in schedule(3, 1, 4, rank)) for rank in range(3)
    ]
    assert names == ["F0 F1 F2 B0 F3 B1 B2 B3", "F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"]
    assert idle_share(3, 1, 4) == pytest.approx(2 / 6)
