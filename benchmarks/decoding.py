"""Decoding in a contestant's process: continue prompts on the parent's command and measure the time.

A contestant is a function `generate(prompts, tokens, on_token)`. It continues prompts of token ids, all of one
length, by `tokens` tokens with greedy decoding, calls `on_token` whenever every sequence has one more token, and
returns the new ids of the first sequence. The time until the first call of `on_token` is the prefill ("reading"), the
time from the first to the last is the decode. A run that is not timed comes first; it includes compilation and the
choice of algorithms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from protocol import Channel, exit_process

Generate = Callable[[list[list[int]], int, Callable[[], None]], list[int]]
WARMUP_TOKENS = 16


def serve(channel: Channel, generate: Generate, facts: dict[str, Any]) -> None:
    """Execute the parent's commands until it stops; `facts`, which `generate` may change, are sent with the times."""
    channel.answer(loaded=True)
    warm: set[tuple[int, int, bool]] = set()
    while True:
        command = channel.receive()
        if command["do"] != "generate":
            exit_process()
        prompts, tokens = command["prompts"], command["tokens"]
        workload = len(prompts), len(prompts[0]), tokens == 1
        if workload not in warm:
            generate(prompts, min(tokens, WARMUP_TOKENS), lambda: None)
            warm.add(workload)
        channel.answer(**timed(generate, prompts, tokens), facts=facts)


def timed(generate: Generate, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """Return the seconds of prefill and decode, and the generated ids."""
    times: list[float] = []
    began = time.perf_counter()
    ids = generate(prompts, tokens, lambda: times.append(time.perf_counter()))
    if len(times) != tokens:
        raise RuntimeError(f"{tokens} tokens were requested, {len(times)} were generated")
    return {"reading": times[0] - began, "decoding": times[-1] - times[0], "ids": ids}
