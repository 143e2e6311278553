"""The application: OpenAI's routes, the routes of the web page, and those for operation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import neolm
from neolm.serving.server import response_schema
from neolm.serving.server.api_docs import STATUSES, api_description, api_page
from neolm.serving.server.batch_run import BatchRun
from neolm.serving.server.classifications import ClassifyResponse, classify_job
from neolm.serving.server.classify_model import ClassifyModel
from neolm.serving.server.classify_schema import ClassificationList, ClassifyRequest
from neolm.serving.server.connection import ConnectionLimit
from neolm.serving.server.decision_schema import DecisionRequest, Decisions, NamedDecisions, SystemOneRequest
from neolm.serving.server.decisions import DecisionResponse
from neolm.serving.server.embedding_model import EmbeddingModel
from neolm.serving.server.embedding_schema import EmbeddingList, EmbeddingRequest
from neolm.serving.server.embeddings import EmbeddingResponse, embedding_job
from neolm.serving.server.errors import ApiError, StoppingError
from neolm.serving.server.feedback import Feedback, FeedbackError, Kept
from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.job import chat_job, completion_job
from neolm.serving.server.json_body import JsonRoute
from neolm.serving.server.middleware import middleware
from neolm.serving.server.moderation import prompt_texts
from neolm.serving.server.moderation_schema import AnalyzeRequest, ModerationList, ModerationRequest
from neolm.serving.server.moderations import analyze, moderations
from neolm.serving.server.request_schema import ChatRequest, CompletionRequest
from neolm.serving.server.response_schema import ErrorReply, Info, Limits, ModelCard, ModelEntry, ModelList
from neolm.serving.server.run import Run
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.service import Service
from neolm.serving.server.turn import Sender
from neolm.serving.server.wire import AnswerResponse, Wire

_PAGE = files("neolm.serving") / "page"
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
ModelName = Annotated[str, Path(description="One of `/v1/models`.")]


def create_app(service: Service) -> FastAPI:
    """The application with all routes and middleware."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        preload = asyncio.create_task(service.pool.preload()) if service.settings.preload else None
        yield {"connection_limit": ConnectionLimit(service.settings.connections)}  # for connection.py
        if preload is not None:
            preload.cancel()
        await asyncio.to_thread(service.pool.close)
        for model in service.pool.models.values():
            await asyncio.to_thread(model.end)
        if service.moderation is not None:
            await asyncio.to_thread(service.moderation.close)
        if service.feedback is not None:
            service.feedback.close()

    app = FastAPI(
        title="NeoLM",
        version=neolm.__version__,
        lifespan=lifespan,
        middleware=middleware(service),
        openapi_url=None,  # and so no documentation of FastAPI's
        responses={status: {"model": ErrorReply, "description": meaning} for status, meaning in STATUSES.items()},
        exception_handlers={ApiError: _api_error, RequestValidationError: _invalid_body, HTTPException: _no_route},
    )
    app.router.route_class = JsonRoute
    _add_operation(app, service)
    _add_api(app, service)
    _add_page(app, service)
    description = api_description(app, service.pool.models.values())
    html = api_page(description, service.settings)
    app.add_api_route("/openapi.json", lambda: JSONResponse(description), include_in_schema=False)
    app.add_api_route("/docs", lambda: HTMLResponse(html), include_in_schema=False, response_class=HTMLResponse)
    return app


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response


async def _no_route(request: Request, error: HTTPException) -> Response:
    problems = {404: "there is nothing at this path", 405: "this path does not support this method"}
    response = ApiError(error.status_code, problems.get(error.status_code, str(error.detail))).response
    response.headers.update(error.headers or {})
    return response


_BODIES = (
    *(CompletionRequest, ChatRequest, EmbeddingRequest, ClassifyRequest, DecisionRequest, SystemOneRequest),
    ModerationRequest,
)
_FIELDS = {name for body in _BODIES for name in body.model_fields}
_UNSUPPORTED = dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), "these models call no tools")


async def _invalid_body(request: Request, error: RequestValidationError) -> Response:
    """The first of pydantic's errors, with the name of the field."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    # The rest of a location names validators and alternatives of a union.
    param = ".".join(part for part in location if part.isidentifier() or part.isdigit()) or None
    if problem["type"] == "json_invalid":
        reason = str(problem["ctx"]["error"]).partition(":")[0]
        return ApiError(400, f"the body is not valid JSON: {reason}", None, "invalid_json").response
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = _UNSUPPORTED.get(location[-1], "unknown field")
    if param is None:  # the message of a rule between fields starts with the name of one
        name = message.partition(" ")[0]
        return ApiError(400, message, name if name in _FIELDS else None, "invalid_value").response
    return ApiError(400, f"{param}: {message}", param, "invalid_value").response


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Return 200 while the process runs."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready() -> dict[str, str]:
        """Return 200 when requests are accepted: the models are loaded and the server is not stopping."""
        if service.stopping:
            raise StoppingError
        if service.pool.preloading:
            raise ApiError(503, "models are being loaded", None, "not_ready", 5)
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_api(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.get("/v1/models", tags=["models"])
    async def models() -> ModelList:
        """List the models that can be requested."""
        return ModelList(data=[model.entry() for model in service.pool.models.values()])

    @app.get("/v1/models/{model:path}", tags=["models"])
    async def model(model: ModelName) -> ModelEntry:
        """Return one model of the list."""
        return service.pool.find(model).entry()

    @app.post("/v1/completions", tags=["answers"], response_model=response_schema.Completion, responses=_STREAM)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        model = _find(service, body.model, GenerationModel)
        make = partial(completion_job, body, model, settings)
        texts = partial(prompt_texts, body, model.tokenizer.decode)
        return AnswerResponse(Run(model, make, service, await _sender(request), True, texts), Wire(body))

    @app.post(
        "/v1/chat/completions", tags=["answers"], response_model=response_schema.ChatCompletion, responses=_STREAM
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation."""
        model = _find(service, body.model, GenerationModel)
        make, quick = partial(chat_job, body, model, settings), model.template.kind == "plain"
        texts = partial(prompt_texts, body, model.tokenizer.decode)
        return AnswerResponse(Run(model, make, service, await _sender(request), quick, texts), Wire(body))

    @app.post("/v1/embeddings", tags=["embeddings"], response_model=EmbeddingList)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Turn texts into vectors."""
        model = _find(service, body.model, EmbeddingModel)
        make, texts = partial(embedding_job, body, model, settings), partial(prompt_texts, body, model.tokenizer.decode)
        run = BatchRun(model, make, service, await _sender(request), True, texts)
        return EmbeddingResponse(run, body, model)

    @app.post("/v1/classify", tags=["labels"], response_model=ClassificationList)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        """Give labels to texts, or a number."""
        model = _find(service, body.model, ClassifyModel)
        make, texts = partial(classify_job, body, model, settings), partial(prompt_texts, body, model.tokenizer.decode)
        run = BatchRun(model, make, service, await _sender(request), True, texts)
        return ClassifyResponse(run, body.model)

    @app.post("/v1/decisions", tags=["decisions"], response_model=Decisions)
    async def decisions(body: DecisionRequest, request: Request) -> Response:
        """Answer typed questions about an input: a probability for every option."""
        return DecisionResponse(body, service.pool.find(body.model), service, await _sender(request))

    @app.post("/v1/systemone", tags=["decisions"], response_model=NamedDecisions)
    async def systemone(body: SystemOneRequest, request: Request) -> Response:
        """Answer typed questions about a state, in the form of System One."""
        return DecisionResponse(body, service.pool.find(body.model), service, await _sender(request))

    @app.post("/v1/moderations", tags=["moderation"], response_model=ModerationList)
    async def moderate(body: ModerationRequest, request: Request) -> Response:
        """Judge texts by the moderation policy of the server."""
        return JSONResponse(await moderations(body, service, await _sender(request)))

    @app.post("/v1alpha1/comments:analyze", tags=["moderation"])
    async def comments(body: AnalyzeRequest, request: Request) -> Response:
        """Score a comment in the form of the Perspective API."""
        return JSONResponse(await analyze(body, service, await _sender(request)))


M = TypeVar("M", bound=ServedModel)
_OTHER_KIND = {
    "embed": "is an encoder: it reads texts and writes none; POST /v1/embeddings gives its vectors, and neolm finetune "
    "makes a classifier of it",
    "generate": "is a decoder: it writes text and gives no vectors and no labels; POST /v1/completions asks it",
    "classify": "is a classifier: it gives texts labels or a number, and neither writes nor gives vectors; "
    "POST /v1/classify asks it",
}


def _find(service: Service, name: str, kind: type[M]) -> M:
    """The model of that name. Raises `ApiError`: there is none (404), or it is of another kind (400)."""
    model = service.pool.find(name)
    if not isinstance(model, kind):
        raise ApiError(400, f"{name} {_OTHER_KIND[model.kind]}", "model", "model_not_supported")
    return model


async def _sender(request: Request) -> Sender:
    address = request.client.host if request.client else ""
    return Sender(request.state.client, address, len(await request.body()))


def _add_page(app: FastAPI, service: Service) -> None:
    index = (_PAGE / "index.html").read_bytes()

    @app.get("/api/info", tags=["page"])
    async def info() -> Info:
        """Return what the web page needs to know about the server."""
        settings = service.settings
        return Info(
            version=neolm.__version__,
            feedback=service.feedback is not None,
            key_required=service.keys.required,
            limits=Limits(max_tokens=settings.max_tokens, choices=settings.choices),
        )

    @app.get("/api/models/{model:path}", tags=["page"])
    async def card(model: ModelName, request: Request) -> ModelCard:
        """Return a model's configuration, model card and lineage."""
        found = service.pool.find(model)
        return await found.reading.make(request.state.client.name, 0, found.card)

    @app.post("/api/feedback", tags=["page"], status_code=201)
    async def feedback(body: Feedback, request: Request) -> Kept:
        """Store a rating of an answer or a choice between two, with the person's consent."""
        store = service.feedback
        if store is None:
            raise ApiError(404, "this server does not collect feedback", None, "feedback_off")
        client, names = request.state.client.name, {answer.model for answer in body.answers}
        found = [service.pool.models[name] for name in names if name in service.pool.models]
        digests = {
            model.name: await model.reading.make(client, 0, partial(getattr, model, "digest")) for model in found
        }
        try:
            return Kept(id=await store.save_soon(body, digests, client))
        except FeedbackError as error:
            service.log.event("feedback", error=str(error))
            raise ApiError(503, "the database of feedback is not available", None, "feedback_failed", 30) from None

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(index, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=str(_PAGE)), name="static")
