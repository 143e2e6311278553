"""The contestant's side of decoding: texts are continued when the parent says so, token by token, on the clock.

A contestant is a function `generate(prompts, tokens, stamp)`: it takes prompts of token ids, all of one length,
chooses the likeliest of all tokens `tokens` times for each, calls `stamp` whenever every text has one more, and returns
the ids that the first text was given. From the call to the first stamp it reads the prompts; from the first stamp to
the last it decodes. What it does for the first time, such as compiling or choosing an algorithm, is done before in a
run that nobody times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from protocol import Channel, leave

Generate = Callable[[list[list[int]], int, Callable[[], None]], list[int]]
WARMUP_TOKENS = 16


def serve(channel: Channel, generate: Generate, facts: dict[str, Any]) -> None:
    """Answer the parent until it has no more to ask; `facts`, which `generate` may change, go along with the times."""
    channel.answer(loaded=True)
    warm: set[tuple[int, int, bool]] = set()
    while True:
        command = channel.receive()
        if command["do"] != "generate":
            leave()
        prompts, tokens = command["prompts"], command["tokens"]
        work = len(prompts), len(prompts[0]), tokens == 1
        if work not in warm:
            generate(prompts, min(tokens, WARMUP_TOKENS), lambda: None)
            warm.add(work)
        channel.answer(**timed(generate, prompts, tokens), facts=facts)


def timed(generate: Generate, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """The seconds of both parts, and what was written."""
    stamps: list[float] = []
    began = time.perf_counter()
    ids = generate(prompts, tokens, lambda: stamps.append(time.perf_counter()))
    if len(stamps) != tokens:
        raise RuntimeError(f"{tokens} tokens were asked for, {len(stamps)} came")
    return {"reading": stamps[0] - began, "decoding": stamps[-1] - stamps[0], "ids": ids}
