"""`/v1/classify`: the job of a request, and the objects of its results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from torch import Tensor

from neolm.core.errors import InputError
from neolm.prediction.leave_one_out import LeftOutWord, TooManyWordsError, without_each_word, word_effect
from neolm.prediction.text_windows import EncodedText, Window
from neolm.serving.server.batch_run import BatchRun
from neolm.serving.server.classify_model import ClassifyModel
from neolm.serving.server.classify_schema import DEFAULT_TOP, ClassifyRequest, InputText
from neolm.serving.server.errors import ApiError
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.wire import TurnResponse

FIELDS = ("text", "second")


@dataclass(frozen=True)
class ClassifyJob:
    """Say what each of `inputs` is, and what changes without each of `words`, if there are some, in the first one."""

    model: ClassifyModel
    inputs: Sequence[EncodedText]
    top_k: int
    words: Sequence[LeftOutWord] = ()

    @cached_property
    def texts(self) -> list[EncodedText]:
        """All that is read: the inputs, and the first one without each word."""
        return [*self.inputs, *(word.rest for word in self.words if word.rest is not None)]

    @cached_property
    def rows(self) -> list[Window]:
        """What the engine computes: the windows of all texts."""
        return [window for text in self.texts for window in text.inputs]

    @property
    def prompts(self) -> list[Sequence[int]]:
        """Token ids of the windows."""
        return [ids for ids, _ in self.rows]

    def input_of(self, row: int) -> int:
        """Index of the text that a window belongs to."""
        return [index for index, text in enumerate(self.texts) for _ in text.windows][row]

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of all windows."""
        return sum(map(len, self.prompts))

    def results(self, logits: Tensor) -> list[dict[str, Any]]:
        """What the logits of the windows say about each input, as `neolm predict` gives it."""
        parts = torch.split(logits, [len(text.windows) for text in self.texts])
        found = zip(self.inputs, parts, strict=False)
        data = [{"index": index} | self._entry(self._result(*pair)) for index, pair in enumerate(found)]
        if self.words:
            whole = self._result(self.inputs[0], parts[0])
            rests = map(self._result, self.texts[1:], parts[1:])
            effects = [None if word.rest is None else word_effect(whole, next(rests)) for word in self.words]
            data[0]["words"] = [*map(_word, self.words, effects)]
        return data

    def _result(self, text: EncodedText, logits: Tensor) -> dict[str, Any]:
        return self.model.classify.result(logits, text)

    def _entry(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result in the form of the API."""
        chances = result.get("probability")
        if isinstance(chances, Mapping):  # of several labels at once
            ordered = dict(sorted(chances.items(), key=lambda item: -item[1]))
            result = result | {"probability": [chances[name] for name in result["label"]], "probabilities": ordered}
        if "probabilities" in result:
            result = result | {"probabilities": dict(islice(result["probabilities"].items(), self.top_k))}
        return result


def _word(word: LeftOutWord, effect: float | None) -> dict[str, Any]:
    place = {"text": word.text, "start": word.start, "end": word.end}
    return place | {"effect": effect, "field": FIELDS[word.number]}


def classify_job(body: ClassifyRequest, model: ClassifyModel, settings: ServeConfig) -> ClassifyJob:
    """The job of a request. Raises `ApiError` (400) if it exceeds a limit or the model cannot read a text."""
    if len(body.input) > settings.inputs:
        problem = f"input has {len(body.input)} texts, the limit of this server is {settings.inputs}"
        raise ApiError(400, problem, "input", "invalid_value")
    top_k = min(body.top_k or DEFAULT_TOP, len(model.classify.names))
    if len(body.input) * top_k > settings.scores:
        problem = f"{len(body.input) * top_k:,} probabilities are requested, the limit is {settings.scores:,}"
        raise ApiError(400, f"{problem}; a smaller top_k gives fewer", "top_k", "invalid_value")
    limits = [limit for limit in (settings.prompt_tokens, settings.context) if limit is not None]
    most = min(limits, default=None)
    if body.explain and len(body.input) > 1:
        raise ApiError(400, f"explain is for one text, and input has {len(body.input)}", "explain", "invalid_value")
    inputs = [_encoded(index, one, model, most) for index, one in enumerate(body.input)]
    return ClassifyJob(model, inputs, top_k, _words(body.input[0], model) if body.explain else ())


def _words(one: InputText, model: ClassifyModel) -> list[LeftOutWord]:
    try:
        return without_each_word(model.classify, *(text for text in (one.text, one.second) if text is not None))
    except TooManyWordsError as error:
        raise ApiError(400, f"explain: {error}", "explain", "too_many_words") from None


def _encoded(index: int, one: InputText, model: ClassifyModel, most: int | None) -> EncodedText:
    """A text in windows of together at most `most` tokens."""
    if model.pair != (one.second is not None):
        problem = (
            f'{model.name} reads pairs: each input needs two texts, {{"text": ..., "second": ...}}'
            if model.pair
            else f"{model.name} reads one text, and there is a second one"
        )
        raise ApiError(400, f"input.{index}: {problem}", "input", "invalid_value")
    try:
        encoded = model.classify.encode(one.text, one.second)
    except InputError as error:
        raise ApiError(400, f"input.{index}: {error}", "input", "invalid_value") from None
    tokens = sum(map(len, encoded.windows))
    if most is not None and tokens > most:
        problem = f"input.{index} is {tokens} tokens, this server takes {most}"
        raise ApiError(400, problem, "input", "context_length_exceeded")
    return encoded


class ClassifyResponse(TurnResponse):
    """Sends the results of a run."""

    def __init__(self, run: BatchRun[ClassifyJob], name: str) -> None:
        super().__init__(run)
        self._run, self._name = run, name

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON object."""
        logits = await self._run.outputs()
        # The probabilities of thousands of texts take a while, and other requests need the event loop.
        response = await asyncio.to_thread(lambda: JSONResponse(self._object(logits)))
        await response(scope, receive, send)

    def _object(self, logits: Tensor) -> dict[str, Any]:
        tokens = self._run.job.prompt_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": self._name, "data": self._run.job.results(logits), "usage": usage}
