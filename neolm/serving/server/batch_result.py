"""What an engine that works in batches gives for some rows, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from neolm.serving.batch_engine import BatchEngine, BatchRequest, Result

CHECK_SECONDS = 1.0
"""Time between two looks at the deadline while nothing happens."""
Row = TypeVar("Row")


async def computed(
    engine: BatchEngine[Row],
    rows: Sequence[Row],
    client: Hashable,
    check: Callable[[], None],
    requests: list[BatchRequest[Row]],
) -> Result:
    """Submit N rows and wait for their numbers (N, C), or an error.

    The request is added to `requests`. It is cancelled if the call is.

    Raises:
        QueueFullError: too many requests are waiting.
        EngineClosedError: the engine was closed or has failed.
        ApiError: by `check`, which is called once a second.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def deliver(outputs: Result) -> None:  # in the engine's thread
        loop.call_soon_threadsafe(_finish, result, outputs)

    request = engine.submit(rows, deliver, client)
    requests.append(request)
    try:
        while not result.done():
            await asyncio.wait({result}, timeout=CHECK_SECONDS)
            check()
        return result.result()
    finally:
        request.cancel()


def _finish(result: asyncio.Future[Result], outputs: Result) -> None:
    if not result.done():
        result.set_result(outputs)
