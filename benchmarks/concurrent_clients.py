"""Concurrent clients of a server: their total throughput, and the latency of short requests in the meantime.

`complete(text, tokens)` requests that many tokens and returns the number received.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def run_clients(complete: Callable[[str, int], int], command: dict[str, Any]) -> dict[str, Any]:
    """Run one client for each list in `texts`; each sends its texts one after the other.

    In the meantime, a further client repeatedly requests one token after `probe`, with a pause in between.
    """
    counts: list[int] = []
    failures: list[str] = []
    waits: list[float] = []
    finished = threading.Event()

    def client(texts: list[str]) -> None:
        try:
            counts.extend(complete(text, command["tokens"]) for text in texts)
        except Exception as error:
            failures.append(repr(error))

    def prober() -> None:
        number = 0
        while not finished.wait(command["pause"]):
            began = time.perf_counter()
            try:
                complete(f"{number} {command['probe']}", 1)  # a new prompt each time, so that no part of it is cached
            except Exception as error:
                failures.append(repr(error))
                return
            waits.append(time.perf_counter() - began)
            number += 1
            if not command["texts"] and number == command["probes"]:
                return

    clients = [threading.Thread(target=client, args=(texts,)) for texts in command["texts"]]
    probing = threading.Thread(target=prober)
    began = time.perf_counter()
    for thread in (*clients, probing):
        thread.start()
    for thread in clients:
        thread.join()
    seconds = time.perf_counter() - began
    if clients:
        finished.set()
    probing.join()
    if failures:
        raise RuntimeError(failures[0])
    return {"tokens": sum(counts), "seconds": seconds, "waits": waits}
