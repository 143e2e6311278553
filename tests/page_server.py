"""A server with the API of the page and scripted answers: slow, hostile, interrupted or refused."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

import neolm
from neolm.serving.server.middleware import CONTENT_SECURITY_POLICY

PAGE = Path(neolm.__file__).parent / "serving" / "page"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
KEY = "secret-key"


def model(name: str, **fields: Any) -> dict[str, Any]:
    common = {"object": "model", "created": 1, "owned_by": "neolm", "context": 2048, "family": "gpt-neo"}
    return {"id": name, **common, "parameters": 7_341_056, "loaded": True, "chat_template": "own", **fields}


@dataclass
class Reply:
    """The answer to one request: its tokens, one per chunk, and how it ends."""

    tokens: list[str] = field(default_factory=lambda: ["Hello", " there", "."])
    finish: str = "stop"
    status: int = 200
    message: str = ""
    code: str | None = None
    retry_after: int | None = None
    ending: str = "done"
    """`done`, `cut` (the connection ends) or `error` (an error in the stream)."""
    raw: list[bytes] | None = None
    """The body of the response."""
    gate: threading.Event | None = None
    """The tokens after the first `before` wait for it."""
    before: int = 1
    prompt_tokens: int = 7
    left_out: int = 0
    """Tokens of the prompt that were truncated."""
    others: list[tuple[str, float]] = field(default_factory=lambda: [(" world", 0.2), (" moon", 0.05)])
    """Alternatives of each token, with probabilities."""
    chances: list[float] = field(default_factory=lambda: [0.9, 0.4, 0.1, 0.02])
    """Probabilities of the tokens, repeated."""


def _bytes(text: str) -> list[int]:
    return list(text.encode())


class FakeServer:
    """Sends `replies` one after the other, then `Reply()`."""

    def __init__(self) -> None:
        self.reset()
        self.app = self._make_app()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=1)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def reset(self) -> None:
        self.models = [model("fox-7m"), model("owl-20m", loaded=False, chat_template="plain")]
        self.info = {
            "version": "1.2.3",
            "feedback": True,
            "key_required": False,
            "limits": {"max_tokens": 1024, "choices": 4},
        }
        self.cards: dict[str, dict[str, Any]] = {}
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Path and body of each request for an answer."""
        self.feedback: list[dict[str, Any]] = []
        self.left = 0
        """Number of answers that the browser aborted."""

    def __enter__(self) -> FakeServer:
        self.thread.start()
        while not self.uvicorn.started:
            self.thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()
        self.socket.close()

    def _make_app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            open_to_all = not request.url.path.startswith(("/v1/", "/api/")) or request.url.path == "/api/info"
            if (
                self.info["key_required"]
                and not open_to_all
                and request.headers.get("authorization") != f"Bearer {KEY}"
            ):
                return self._error(401, "a key is needed")
            response: Response = await call_next(request)
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        @app.get("/")
        async def page() -> Response:
            return FileResponse(PAGE / "index.html", media_type="text/html")

        @app.get("/static/{name}")
        async def static(name: str) -> Response:
            return FileResponse(PAGE / name, media_type=TYPES[Path(name).suffix])

        @app.get("/api/info")
        async def info() -> Any:
            return self.info

        @app.get("/v1/models")
        async def models() -> Any:
            return {"object": "list", "data": self.models}

        @app.get("/api/models/{name:path}")
        async def card(name: str) -> Response:
            return JSONResponse(self.cards[name]) if name in self.cards else self._error(404, f"no model {name}")

        @app.post("/api/feedback")
        async def feedback(request: Request) -> Response:
            if not self.info["feedback"]:
                return self._error(404, "no feedback here")
            self.feedback.append(await request.json())
            return JSONResponse({"id": len(self.feedback)}, 201)

        @app.post("/v1/{kind:path}")
        async def answer(kind: str, request: Request) -> Response:
            body = await request.json()
            self.asked.append((kind, body))
            if kind == "embeddings" and not self.replies:  # vectors with the cosine 0.96
                rows = [[0.6, 0.8], [0.8, 0.6]]
                data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
                usage = {"prompt_tokens": 9, "total_tokens": 9, "left_out_tokens": 0}
                return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})
            if kind == "classify" and not self.replies:
                return JSONResponse(self._classified(body))
            reply = self.replies.pop(0) if self.replies else Reply()
            if reply.status != 200:
                return self._error(reply.status, reply.message, reply.retry_after, reply.code)
            return StreamingResponse(self._stream(kind, body, reply), media_type="text/event-stream")

        return app

    def _classified(self, body: dict[str, Any]) -> dict[str, Any]:
        """Labels of which the first is a number, which JavaScript puts first, and each word's effect."""
        found: dict[str, Any] = {"index": 0, "label": "weather", "probability": 0.75}
        found["probabilities"] = {"weather": 0.75, "7": 0.25}
        if body["explain"]:
            words = body["input"][0]["text"].split()
            found["words"] = [{"text": word, "effect": 0.3 - 0.4 * number} for number, word in enumerate(words)]
        return {"object": "list", "data": [found], "model": body["model"], "usage": {}}

    def _error(self, status: int, message: str, retry_after: int | None = None, code: str | None = None) -> Response:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        error = {"message": message, "type": "error", "param": None, "code": code}
        return JSONResponse({"error": error}, status, headers)

    async def _stream(self, kind: str, body: dict[str, Any], reply: Reply) -> AsyncIterator[bytes]:
        whole = False
        try:
            for chunk in reply.raw or ():
                yield chunk
            if reply.raw is None:
                async for chunk in self._chunks(kind, body, reply):
                    yield chunk
            whole = True
        finally:
            self.left += not whole
        if reply.ending == "cut":
            raise asyncio.CancelledError  # ends the connection in the middle of a chunked body

    async def _chunks(self, kind: str, body: dict[str, Any], reply: Reply) -> AsyncIterator[bytes]:
        chat = kind == "chat/completions"
        if chat:
            yield self._data(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
            )
        yield b": kept alive\n\n"
        for index, token in enumerate(reply.tokens):
            if index == reply.before and reply.gate:
                while not reply.gate.is_set():
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0)
            logprobs = self._logprobs(chat, token, index, reply) if body.get("logprobs") is not None else None
            choice = {"delta": {"content": token}} if chat else {"text": token}
            yield self._data({"choices": [{"index": 0, **choice, "logprobs": logprobs, "finish_reason": None}]})
        if reply.ending == "cut":
            return
        if reply.ending == "error":
            yield self._data({"error": {"message": reply.message, "type": "server_error", "param": None, "code": None}})
            return
        last = {"delta": {}} if chat else {"text": ""}
        yield self._data({"choices": [{"index": 0, **last, "logprobs": None, "finish_reason": reply.finish}]})
        count = len(reply.tokens)
        prompt = reply.prompt_tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
        yield self._data({"choices": [], "usage": usage | {"left_out_tokens": reply.left_out}})
        yield b"data: [DONE]\n\n"

    def _data(self, chunk: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def _logprobs(self, chat: bool, token: str, index: int, reply: Reply) -> dict[str, Any]:
        chance = reply.chances[index % len(reply.chances)]
        top = [(token, chance), *reply.others]
        if chat:
            entry = lambda text, p: {"token": text, "logprob": math.log(p), "bytes": _bytes(text)}  # noqa: E731
            return {"content": [{**entry(token, chance), "top_logprobs": [entry(*other) for other in top]}]}
        logprobs = {text: math.log(p) for text, p in top}
        return {"tokens": [token], "token_logprobs": [math.log(chance)], "top_logprobs": [logprobs], "text_offset": [0]}
