"""An answer on its way to a client, whole or as a stream of server-sent events.

It ends when the client leaves, when the request's time is over, or when the server stops and its patience is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from neolm.serving.server.answer import Asking, Piece
from neolm.serving.server.failure import ApiError
from neolm.serving.server.forms import Form
from neolm.serving.server.service import Service

T = TypeVar("T")
_PATIENCE = 15  # seconds of nothing after which a stream says that it is there


async def deliver(service: Service, request: Request, form: Form, asked: Asking) -> Response:
    """The answer in one piece, or as a stream.

    Raises:
        ApiError: it is refused, or fails before anything is sent.
    """
    if service.stopping:
        raise ApiError(503, "the server is stopping", None, "not_ready", 5)
    asked.check(service.settings)
    pieces = _pieces(service, request, asked)
    if form.body.stream:
        return await _stream(request, form, asked, pieces)
    return await _unless_gone(request, lambda: _whole(service, request, form, asked, pieces))


async def _pieces(service: Service, request: Request, asked: Asking) -> AsyncGenerator[Piece | None, None]:
    """All pieces, once the model is loaded, until the request's time is over or the server's is.

    Raises:
        ApiError: it is, or the request is refused.
    """
    deadline = time.monotonic() + service.settings.request_seconds
    said: defaultdict[int, str] = defaultdict(str)  # by choice, if it is to be logged
    try:
        async with AsyncExitStack() as stack:
            try:
                loading = stack.enter_async_context(service.shelf.using(asked.model.name))
                engine = await asyncio.wait_for(loading, service.settings.request_seconds)
            except TimeoutError:
                raise ApiError(504, "the model is not loaded in time", None, "request_timeout") from None
            pieces = asked.pieces(engine, request.state.client, service.measures)
            await stack.enter_async_context(aclosing(pieces))
            async for piece in pieces:
                if service.seconds_left(deadline) <= 0:
                    if service.stopping:
                        raise ApiError(503, "the server is stopping", None, "not_ready", 5)
                    raise ApiError(504, "this takes longer than a request may", None, "request_timeout")
                if service.journal.text and piece is not None:
                    said[piece.choice] += piece.text
                yield piece
    finally:
        counts = {"prompt_tokens": asked.prompt_tokens, "completion_tokens": asked.completion_tokens}
        request.state.facts = {"model": asked.model.name, **counts}
        if service.journal.text:
            prompts = [asked.model.tokenizer.decode(prompt) for prompt in asked.prompts]
            request.state.facts |= {"prompts": prompts, "answers": [said[choice] for choice in sorted(said)]}


async def _whole(
    service: Service, request: Request, form: Form, asked: Asking, pieces: AsyncGenerator[Piece | None, None]
) -> Response:
    async with aclosing(pieces):
        async for piece in pieces:
            if piece is not None:
                form.add(piece)
    # Scores can be many megabytes, and others wait for the loop.
    body = await asyncio.to_thread(lambda: JSONResponse(form.whole(asked)).body)
    return Response(body, media_type="application/json")


async def _stream(request: Request, form: Form, asked: Asking, pieces: AsyncGenerator[Piece | None, None]) -> Response:
    """Server-sent events; the first is waited for, so that what is refused has its status."""
    begun = False

    async def events() -> AsyncGenerator[bytes, None]:
        silent = 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    silent = silent + 1 if piece is None else 0
                    if silent and silent % _PATIENCE == 0:
                        yield b": still here\n\n"
                    if piece is not None:
                        yield _event(form.chunk(piece))
            for chunk in form.last(asked):
                yield _event(chunk)
        except ApiError as error:
            if not begun:
                raise
            yield _event(error.body)
        yield b"data: [DONE]\n\n"

    source = events()
    first = await _unless_gone(request, lambda: anext(source))
    begun = True

    async def all_of_them() -> AsyncIterator[bytes]:
        async with aclosing(source):
            yield first
            async for event in source:
                yield event

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers=headers)


async def _unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work, but stop it when the client leaves."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work()), asyncio.create_task(left())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise ApiError(499, "the client left", None, "client_left")
        return task.result()
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()


def _event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
