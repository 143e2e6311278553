"""`/v1/decisions` and `/v1/systemone`: the job of a request, and the objects of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from torch import Tensor

from neolm.core.errors import InputError
from neolm.generation.config import generation_config
from neolm.generation.continuations import Continuation
from neolm.prediction.decide import state_text
from neolm.prediction.decision_forms import asked, parts_text
from neolm.prediction.decision_question import Question, content_text
from neolm.prediction.option_scorer import MAX_KEPT, probabilities, rows_of
from neolm.prediction.option_scores import EncodedOptions
from neolm.serving.server.batch_run import BatchRun
from neolm.serving.server.decision_schema import (
    DecisionRequest,
    Decisions,
    DecisionUsage,
    NamedDecisions,
    SystemOneRequest,
    SystemOneUsage,
)
from neolm.serving.server.errors import ApiError
from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.job import Job
from neolm.serving.server.run import Run
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.service import Service
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.turn import Sender
from neolm.serving.server.wire import TurnResponse


@dataclass(frozen=True)
class DecisionJob:
    """Score the options of `questions`; what a client has asked for before without a text is kept by the model."""

    model: ServedModel
    text: str
    questions: Sequence[Question]
    encoded: EncodedOptions
    salt: str

    @cached_property
    def known(self) -> dict[Any, Tensor]:
        """What the model has given for rows without a text."""
        found = ((row, self.model.kept.get((self.salt, row))) for row in self.encoded.fixed)
        return {row: one for row, one in found if one is not None}

    @cached_property
    def rows(self) -> list[Any]:
        """What the engine computes."""
        fixed = (row for row in self.encoded.fixed if row not in self.known)
        return [*dict.fromkeys([*self.encoded.rows, *fixed])]

    @cached_property
    def prompts(self) -> list[Sequence[int]]:
        """Token ids of the rows."""
        return [row if isinstance(row[0], int) else row[0] for row in self.rows]

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of all rows."""
        return sum(map(len, self.prompts))

    def input_of(self, row: int) -> int:
        """There is one text."""
        return 0

    def probabilities(self, outputs: Tensor) -> list[list[float]]:
        """The probabilities of the options of each question, from what the model gives for the rows."""
        kept, encoded = self.model.kept, self.encoded
        found = self.known | dict(zip(self.rows, outputs, strict=True))
        if len(kept) > MAX_KEPT:
            kept.clear()
        kept |= {(self.salt, row): found[row] for row in encoded.fixed}
        scores = encoded.combine(rows_of(encoded.rows, found), rows_of(encoded.fixed, found))
        return [probabilities(*pair, self.model.decisions) for pair in zip(self.questions, scores, strict=True)]


@dataclass(frozen=True)
class ScoringJob(Job):
    """A decision by a decoder, whose engine scores prompts."""

    decision: DecisionJob = field(kw_only=True)


def decision_job(
    body: DecisionRequest | SystemOneRequest, model: ServedModel, settings: ServeConfig, salt: str
) -> DecisionJob:
    """The job of a request. Raises `ApiError` (400) if nothing can be asked or it exceeds a limit."""
    if model.options is None:
        problem = (
            "is a classifier with labels of its own: POST /v1/classify gives them. A classifier of pairs with the "
        )
        problem += "labels entailment and contradiction, an encoder or a decoder decides"
        raise ApiError(400, f"{model.name} {problem}", "model", "model_not_supported")
    listed = isinstance(body, DecisionRequest)
    name = "input" if listed else "state"
    try:
        questions = asked(enumerate(body.questions) if isinstance(body.questions, list) else body.questions.items())
    except InputError as error:
        raise ApiError(400, str(error), "questions", "invalid_value") from None
    try:
        text = state_text(input_text(body.input) if isinstance(body, DecisionRequest) else body.state)
        encoded = model.options.encode(text, questions)
    except InputError as error:
        code = "context_length_exceeded" if "tokens" in str(error) else "invalid_value"
        raise ApiError(400, f"{name}: {error}", name, code) from None
    job = DecisionJob(model, text, questions, encoded, salt)
    generates = isinstance(model, GenerationModel)
    most = settings.queue if generates else settings.inputs
    if len(job.rows) > most:
        problem = f"questions, options and windows of the {name} are {len(job.rows)} texts to read, the limit is {most}"
        raise ApiError(400, problem, "questions", "invalid_value")
    read = max(map(len, job.prompts)) if generates else sum(map(len, job.prompts[: encoded.windows]))
    if settings.prompt_tokens is not None and read > settings.prompt_tokens:
        problem = f"{name} is {read} tokens, this server takes {settings.prompt_tokens}"
        raise ApiError(400, problem, name, "context_length_exceeded")
    return job


def scoring_job(job: DecisionJob) -> ScoringJob:
    """The same for the engine of a decoder."""
    assert isinstance(job.model, GenerationModel)
    scored = [row.scored for row in job.rows if isinstance(row, Continuation)]
    config = generation_config(max_new_tokens=0)
    return ScoringJob(job.model, [[*ids] for ids in job.prompts], config, 1, logprobs=0, scored=scored, decision=job)


class DecisionResponse(TurnResponse):
    """Sends the answers to the questions of a request."""

    def __init__(
        self, body: DecisionRequest | SystemOneRequest, model: ServedModel, service: Service, sender: Sender
    ) -> None:
        salt = "" if service.settings.share_prefixes else sender.client.cache_salt

        def make() -> DecisionJob:
            return decision_job(body, model, service.settings, salt)

        self._body = body
        self._run: BatchRun[DecisionJob] | Run
        if isinstance(model, GenerationModel):
            self._run = Run(model, lambda: scoring_job(make()), service, sender, True, self._texts)
        else:
            self._run = BatchRun(model, make, service, sender, True, self._texts)
        super().__init__(self._run)

    @property
    def _job(self) -> DecisionJob:
        job = self._run.job.decision if isinstance(self._run.job, ScoringJob) else self._run.job
        assert isinstance(job, DecisionJob)
        return job

    def _texts(self) -> list[str]:
        """What the moderation policy judges: the text, the questions and the options."""
        asked_for = [text for one in self._job.questions for text in (one.instructions, *(o.text for o in one.options))]
        return [self._job.text, *(text for text in asked_for if text)]

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON object."""
        outputs = await (_likelihoods(self._run) if isinstance(self._run, Run) else self._run.outputs())
        job = self._job
        # The scores of thousands of options take a while, and other requests need the event loop.
        pairs = [*zip(job.questions, await asyncio.to_thread(job.probabilities, outputs), strict=True)]
        tokens, name = job.prompt_tokens, self._body.model
        found: Decisions | NamedDecisions
        if isinstance(self._body, DecisionRequest):
            usage = DecisionUsage(input_tokens=tokens, total_tokens=tokens)
            found = Decisions(answers=[one.listed(chances) for one, chances in pairs], model=name, usage=usage)
        else:
            by_name = {str(one.name): one.named(chances) for one, chances in pairs}
            found = NamedDecisions(model=name, answers=by_name, usage=SystemOneUsage(input_tokens=tokens))
        await JSONResponse(found.model_dump())(scope, receive, send)


async def _likelihoods(run: Run) -> Tensor:
    """Log-likelihoods (N, 1) of the options of a decoder."""
    found: dict[int, float] = {}
    async with aclosing(run.deltas()) as deltas:
        async for delta in deltas:
            if delta is not None and delta.tokens:
                assert run.job.scored is not None
                scored = delta.tokens[-run.job.scored[delta.choice] :]
                found[delta.choice] = sum(token.logprob or 0.0 for token in scored)
    outputs = torch.tensor([[found[number]] for number in range(len(found))], dtype=torch.float64)
    if not outputs.isfinite().all():
        raise ApiError(500, "a likelihood is not finite: the numbers of the model overflow", None, None, 5)
    return outputs


def input_text(given: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of an input: itself, the content of a single message, or each item behind who it is from.

    Raises:
        InputError: an item is of an unknown type, or a part is neither text nor JSON.
    """
    if isinstance(given, str):
        return given
    found = []
    for number, item in enumerate(given):
        try:
            found.append(_item(item))
        except InputError as error:
            raise InputError(f"{number}: {error}") from None
    return found[0][1] if len(found) == 1 else "\n\n".join(f"{who}: {text}" for who, text in found)


def _item(item: Mapping[str, Any]) -> tuple[str, str]:
    """Who an item of an input is from, and its text."""
    kind = item.get("type", "message")
    fields = {"message": "content", "function_call": "arguments", "custom_tool_call": "input"}
    content = item.get(fields.get(str(kind), "output"))
    whose = item.get({"message": "role"}.get(str(kind), "name" if kind in fields else "type"))
    if kind not in (*fields, "function_call_output", "custom_tool_call_output"):
        raise InputError(f"the type {content_text(kind)[:40]!r} is not known")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = parts_text(content)
    if not isinstance(content, str) or not isinstance(whose, str):
        raise InputError(f"a {kind} needs a text, and who it is from")
    return whose, content
