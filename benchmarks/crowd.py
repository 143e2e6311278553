"""Many clients at once, on the contestant's side: what they get together, and how long one with a short question waits.

`complete(text, tokens)` asks for that many tokens and returns how many came.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def crowd(complete: Callable[[str, int], int], command: dict[str, Any]) -> dict[str, Any]:
    """Let each of the `texts`' lists be asked by a client of its own, one text after the other.

    Meanwhile another asks for the first token after `probe` again and again, with a pause between.
    """
    counts: list[int] = []
    failures: list[str] = []
    waits: list[float] = []
    over = threading.Event()

    def client(texts: list[str]) -> None:
        try:
            counts.extend(complete(text, command["tokens"]) for text in texts)
        except Exception as error:
            failures.append(repr(error))

    def prober() -> None:
        number = 0
        while not over.wait(command["pause"]):
            began = time.perf_counter()
            try:
                complete(f"{number} {command['probe']}", 1)  # a new one each time: nothing is known of it
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
        over.set()
    probing.join()
    if failures:
        raise RuntimeError(failures[0])
    return {"tokens": sum(counts), "seconds": seconds, "waits": waits}
