"""Embedding in a contestant's process: turn texts into vectors on the parent's command and measure the time.

A contestant is a function `embed(texts, batch_size)`, which returns an array (texts, channels) in the order of the
texts. Before the first turn with a workload it is tried with each batch size, and the fastest is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Channel, exit_process

Embed = Callable[[list[str], int], Any]


def serve(channel: Channel, embed: Embed, batch_sizes: Sequence[int] = (1, 8, 32, 128)) -> None:
    """Execute the parent's commands until it stops."""
    workloads: dict[str, list[str]] = json.loads(Path(channel.job["texts"]).read_text(encoding="utf-8"))
    channel.answer(loaded=True)
    chosen: dict[str, int] = {}
    while True:
        command = channel.receive()
        if command["do"] not in ("embed", "save"):
            exit_process()
        name = command["workload"]
        texts, one_at_a_time = workloads[name], command.get("alone", False)
        if command["do"] == "save":
            path = Path(channel.job["directory"]) / "vectors.npy"
            np.save(path, np.asarray(embed(texts, 32), np.float32))
            channel.answer(path=str(path))
            continue
        if name not in chosen:
            embed(texts[:16], 8)
            chosen[name] = 1 if one_at_a_time else min(batch_sizes, key=lambda size: seconds(embed, texts[::4], size))
        if one_at_a_time:
            channel.answer(seconds=sum(seconds(embed, [text], 1) for text in texts), batch_size=1)
        else:
            channel.answer(seconds=seconds(embed, texts, chosen[name]), batch_size=chosen[name])


def seconds(embed: Embed, texts: list[str], batch_size: int) -> float:
    """Return the time of embedding `texts`."""
    began = time.perf_counter()
    embed(texts, batch_size)
    return time.perf_counter() - began
