"""The routes: OpenAI's, the page's, and those for whoever runs the server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import neolm
from neolm.core.errors import InputError
from neolm.serving.server import forms, openapi
from neolm.serving.server.answer import Asking
from neolm.serving.server.delivery import deliver
from neolm.serving.server.failure import ApiError
from neolm.serving.server.feedback import Feedback, FeedbackError, Kept
from neolm.serving.server.guard import Guard
from neolm.serving.server.keys import Client
from neolm.serving.server.replies import ChatCompletion, Completion, Info, Limits, ModelCard, ModelEntry, ModelList
from neolm.serving.server.schema import ChatRequest, CompletionRequest
from neolm.serving.server.service import Service
from neolm.serving.server.shelf import Model
from neolm.tokenizer.chat import Message, without_oldest

_PAGE = files("neolm.serving") / "page"


def create_app(service: Service) -> FastAPI:
    """The application, guarded."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        preload = asyncio.create_task(service.shelf.preload()) if service.settings.preload else None
        yield
        if preload is not None:
            preload.cancel()
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
        """Requests are taken, and models loaded that are from the start."""
        if service.stopping:
            raise ApiError(503, "the server is stopping", None, "not_ready", 5)
        if service.shelf.preloading:
            raise ApiError(503, "models are being loaded", None, "not_ready", 5)
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
            return Kept(id=await store.keep_soon(body, digests, client.name))
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
        prompts = await asyncio.to_thread(_encoded, model, body.prompt)
        given: Sequence[str | list[int]] = body.prompt
        most, left_out = body.truncate_prompt_tokens, None
        if most is not None:
            left_out = sum(max(0, len(prompt) - most) for prompt in prompts)
            given = [text if len(ids) <= most else ids[-most:] for text, ids in zip(given, prompts, strict=True)]
            prompts = [ids[-most:] for ids in prompts]
        echo = None
        if body.echo:
            echo = [prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt) for prompt in given]
        config = body.generation(16 if body.max_tokens is None else body.max_tokens)
        form = forms.CompletionForm(f"cmpl-{uuid.uuid4().hex}", body)
        asked = Asking(model, prompts, config, body.choices, body.logprobs, echo, left_out)
        return await deliver(service, request, form, asked)

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
            most, left_out = body.truncate_prompt_tokens, None
            ids = await asyncio.to_thread(model.template.encode, messages)
            if most is not None:
                whole = len(ids)
                _, ids = await asyncio.to_thread(without_oldest, model.template, messages, most)
                left_out = whole - len(ids)
        except InputError as error:
            raise ApiError(400, str(error), "messages") from None
        room = max(0, min(model.context - len(ids) + 1, service.settings.max_tokens))
        config = body.generation(room if body.longest is None else body.longest)
        later, config = config.stop, config.model_copy(update={"stop": model.template.stop})
        form = forms.ChatForm(f"chatcmpl-{uuid.uuid4().hex}", body)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        asked = Asking(model, [ids], config, body.choices, logprobs, left_out=left_out, later_stop=later)
        return await deliver(service, request, form, asked)


def _encoded(model: Model, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    return [model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _add_page(app: FastAPI, service: Service) -> None:
    index = (_PAGE / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(index, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=str(_PAGE)), name="static")
