"""The routes: OpenAI's, the page's, and those for whoever runs the server."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import neolm
from neolm.core.errors import InputError
from neolm.serving.server import forms, openapi
from neolm.serving.server.answer import Asking
from neolm.serving.server.failure import ApiError
from neolm.serving.server.feedback import Feedback, FeedbackError, FeedbackStore, Kept
from neolm.serving.server.guard import Guard
from neolm.serving.server.journal import Journal
from neolm.serving.server.keys import Client, KeyRing
from neolm.serving.server.measures import Measures
from neolm.serving.server.schema import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    Info,
    Limits,
    ModelCard,
    ModelEntry,
    ModelList,
)
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.shelf import Model, Shelf
from neolm.tokenizer.chat import Message

T = TypeVar("T")
_PAGE = files("neolm.serving") / "page"
_PATIENCE = 15  # seconds of nothing after which a stream says that it is there


class Service:
    """What the routes share."""

    def __init__(
        self,
        settings: ServeConfig,
        shelf: Shelf,
        keys: KeyRing,
        feedback: FeedbackStore | None,
        journal: Journal | None = None,
    ) -> None:
        self.settings, self.shelf, self.keys, self.feedback = settings, shelf, keys, feedback
        self.measures, self.journal = Measures(shelf), journal or Journal(settings.log_text)
        self.stop_at: float | None = None  # answers under way end then (monotonic seconds)

    @property
    def stopping(self) -> bool:
        """Whether the server has been told to stop."""
        return self.stop_at is not None

    def stop(self) -> None:
        """Take no more requests; those under way have some time left."""
        if self.stop_at is None:
            self.stop_at = time.monotonic() + self.settings.shutdown_seconds

    def seconds_left(self, deadline: float) -> float:
        """Until a request must end."""
        return min(deadline, self.stop_at if self.stop_at is not None else deadline) - time.monotonic()


def create_app(service: Service) -> FastAPI:
    """The application, guarded."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.shelf.close)
        if service.feedback is not None:
            service.feedback.close()

    app = FastAPI(
        title="NeoLM", version=neolm.__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    _add_errors(app)
    _add_operation(app, service)
    _add_answers(app, service)
    _add_page(app, service)
    description = openapi.describe(app)
    readable = openapi.page(description)
    app.add_api_route("/openapi.json", lambda: JSONResponse(description), include_in_schema=False)
    app.add_api_route("/docs", lambda: HTMLResponse(readable), include_in_schema=False, response_class=HTMLResponse)
    app.add_middleware(
        Guard,
        settings=service.settings,
        keys=service.keys,
        measures=service.measures,
        journal=service.journal,
    )
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse(forms.invalid(error.errors()).body, 400)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        words = {404: "there is nothing here", 405: "this cannot be done here"}
        told = ApiError(error.status_code, words.get(error.status_code, str(error.detail)))
        return JSONResponse(told.body, error.status_code, dict(error.headers or {}))


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready() -> dict[str, str]:
        """Requests are taken."""
        if service.stopping or any(model.engine is not None and model.engine.closed for model in service.shelf.loaded):
            raise ApiError(503, "the server is stopping", None, "not_ready", 5)
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.measures.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["models"])
    async def models() -> ModelList:
        """The models that can be asked for."""
        return ModelList(data=[forms.entry(model) for model in service.shelf.models.values()])

    @app.get("/v1/models/{model:path}", tags=["models"])
    async def model(model: str) -> ModelEntry:
        """One of them."""
        return forms.entry(service.shelf.find(model))

    @app.get("/api/info", tags=["page"])
    async def info() -> Info:
        """What the page needs to know."""
        settings = service.settings
        return Info(
            version=neolm.__version__,
            feedback=service.feedback is not None,
            key_required=service.keys.required,
            limits=Limits(max_tokens=settings.max_tokens, choices=settings.choices),
        )

    @app.get("/api/models/{model:path}", tags=["page"])
    async def card(model: str) -> ModelCard:
        """A model's card, settings and lineage."""
        return await asyncio.to_thread(forms.card, service.shelf.find(model))

    @app.post("/api/feedback", tags=["page"], status_code=201)
    async def feedback(body: Feedback, request: Request) -> Kept:
        """Keep what a person says of answers, who agreed to that."""
        store = service.feedback
        if store is None:
            raise ApiError(404, "this server takes no feedback", None, "feedback_off")
        client: Client = request.state.client
        found = [service.shelf.models.get(answer.model) for answer in body.answers]
        digests = await asyncio.to_thread(lambda: {model.name: model.digest for model in found if model is not None})
        try:
            return Kept(id=await asyncio.to_thread(store.keep, body, digests, client.name))
        except FeedbackError as error:
            service.journal.event("feedback", error=str(error))
            raise ApiError(503, "the database does not take feedback now", None, "feedback_failed", 30) from None


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions",
        tags=["answers"],
        response_model=Completion,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        model = service.shelf.find(body.model)
        prompts = await asyncio.to_thread(_encoded, model, body.prompts)
        echo = None
        if body.echo:
            echo = [prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt) for prompt in body.prompts]
        config = body.generation(16 if body.max_tokens is None else body.max_tokens)
        form = forms.CompletionForm(f"cmpl-{uuid.uuid4().hex}", body)
        return await _answer(service, request, form, prompts, config, body.logprobs, echo)

    @app.post(
        "/v1/chat/completions",
        tags=["answers"],
        response_model=ChatCompletion,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation."""
        model = service.shelf.find(body.model)
        roles = {"developer": "system"}
        messages = [Message(roles.get(turn.role, turn.role), turn.content) for turn in body.messages]  # type: ignore[arg-type]
        try:
            ids = await asyncio.to_thread(model.encode_chat, messages)
        except InputError as error:
            raise ApiError(400, str(error), "messages") from None
        room = max(0, min(model.context - len(ids) + 1, service.settings.max_tokens))
        config = body.generation(room if body.longest is None else body.longest)
        config = config.model_copy(update={"stop": (*config.stop, *model.template.stop)})
        form = forms.ChatForm(f"chatcmpl-{uuid.uuid4().hex}", body)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return await _answer(service, request, form, [ids], config, logprobs, None)


def _encoded(model: Model, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    return [model.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


async def _answer(
    service: Service,
    request: Request,
    form: forms.Form,
    prompts: list[list[int]],
    config: Any,
    logprobs: int | None,
    echo: list[str] | None,
) -> Response:
    """The answer in one piece, or as a stream."""
    if service.stopping:
        raise ApiError(503, "the server is stopping", None, "not_ready", 5)
    deadline = time.monotonic() + service.settings.request_seconds
    body = form.body

    @asynccontextmanager
    async def asking() -> AsyncIterator[Asking]:
        async with AsyncExitStack() as stack:
            try:
                loading = stack.enter_async_context(service.shelf.using(body.model))
                model, engine = await asyncio.wait_for(loading, service.settings.request_seconds)
            except TimeoutError:
                raise ApiError(504, "the model is not loaded in time", None, "request_timeout") from None
            asked = Asking(model, engine, prompts, config, body.choices, logprobs, echo)
            asked.check(service.settings)
            yield asked
            request.state.facts = {
                "model": model.name,
                "prompt_tokens": asked.prompt_tokens,
                "completion_tokens": asked.completion_tokens,
            } | ({"prompts": [model.tokenizer.decode(ids) for ids in prompts]} if service.journal.text else {})

    async def whole() -> Response:
        async with asking() as asked:
            async for piece in _in_time(service, deadline, asked.pieces(request.state.client, service.measures)):
                if piece is not None:
                    form.add(piece)
            answer = form.whole(asked)
        if service.journal.text:
            request.state.facts["answers"] = [choice.text for choice in form.choices.values()]
        return JSONResponse(answer.model_dump(mode="json"))

    if not body.stream:
        return await _unless_gone(request, whole)
    return await _stream(service, request, form, asking, deadline)


async def _stream(
    service: Service,
    request: Request,
    form: forms.Form,
    asking: Callable[[], Any],
    deadline: float,
) -> Response:
    """Server-sent events; the first is waited for, so that what is refused has its status."""

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            async with asking() as asked:
                pieces = asked.pieces(request.state.client, service.measures)
                silent = 0
                async for piece in _in_time(service, deadline, pieces):
                    silent = silent + 1 if piece is None else 0
                    if silent and silent % _PATIENCE == 0:
                        yield b": still here\n\n"
                    if piece is None:
                        continue
                    for chunk in form.chunks(piece):
                        yield _event(chunk)
                for chunk in form.last(asked):
                    yield _event(chunk)
        except ApiError as error:
            if not begun:
                raise
            yield b"data: " + json.dumps(error.body).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    begun: list[bytes] = []
    source = events()
    first = await _unless_gone(request, lambda: anext(source))
    begun.append(first)

    async def all_of_them() -> AsyncIterator[bytes]:
        try:
            yield first
            async for event in source:
                yield event
        finally:
            await source.aclose()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers=headers)


async def _in_time(service: Service, deadline: float, pieces: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The pieces, until the request's time is over or the server's is.

    Raises:
        ApiError: it is.
    """
    try:
        while True:
            left = service.seconds_left(deadline)
            if left <= 0:
                if service.stopping:
                    raise ApiError(503, "the server is stopping", None, "not_ready", 5)
                raise ApiError(504, "this takes longer than a request may", None, "request_timeout")
            try:
                yield await anext(pieces)
            except StopAsyncIteration:
                return
    finally:
        await pieces.aclose()


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


def _add_page(app: FastAPI, service: Service) -> None:
    index = (_PAGE / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(index, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=str(_PAGE)), name="static")
