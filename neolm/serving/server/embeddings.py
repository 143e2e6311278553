"""`/v1/embeddings`: the job of a request, and OpenAI's objects of its vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from torch import Tensor

from neolm.embedding.embedder import encode_texts, truncate
from neolm.serving.server.batch_run import BatchRun
from neolm.serving.server.embedding_model import EmbeddingModel
from neolm.serving.server.embedding_schema import EmbeddingRequest
from neolm.serving.server.errors import ApiError
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.wire import TurnResponse


@dataclass(frozen=True)
class EmbeddingJob:
    """Turn each of `prompts`, token ids with special tokens, into a vector."""

    model: EmbeddingModel
    prompts: Sequence[list[int]]
    truncated: int | None  # tokens left out of longer texts, if that was allowed

    @property
    def rows(self) -> Sequence[list[int]]:
        """What the engine computes."""
        return self.prompts

    def input_of(self, row: int) -> int:
        """Index of the text that a row belongs to."""
        return row

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of all texts."""
        return sum(map(len, self.prompts))

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens, as the API reports them."""
        usage = {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens}
        return usage if self.truncated is None else usage | {"left_out_tokens": self.truncated}


def embedding_job(body: EmbeddingRequest, model: EmbeddingModel, settings: ServeConfig) -> EmbeddingJob:
    """The job of a request. Raises `ApiError` (400) if it exceeds a limit of the model or the server."""
    if body.dimensions is not None and body.dimensions > model.dimensions:
        problem = f"dimensions is {body.dimensions}, the vectors of {model.name} have {model.dimensions}"
        raise ApiError(400, problem, "dimensions", "invalid_value")
    if len(body.input) > settings.inputs:
        problem = f"input has {len(body.input)} texts, the limit of this server is {settings.inputs}"
        raise ApiError(400, problem, "input", "invalid_value")
    texts = [one for one in body.input if isinstance(one, str)]  # all or none
    prompts = [one for one in body.input if isinstance(one, list)]
    prompts = prompts or encode_texts(model.tokenizer, model.config, texts)
    largest = max(max(ids) for ids in prompts)
    if largest >= model.vocab_size:
        problem = f"input has the token id {largest}; the vocabulary has {model.vocab_size} tokens"
        raise ApiError(400, problem, "input", "invalid_value")
    most = min(model.context, settings.prompt_tokens or model.context)
    truncated, limit = None, body.truncate_prompt_tokens
    if limit is not None:
        truncated, limit = 0, most if limit == -1 else limit
    if limit is not None and limit <= most:  # to keep more than a text may have means to keep all
        truncated = sum(max(0, len(ids) - limit) for ids in prompts)
        prompts = [truncate(ids, limit) for ids in prompts]
    for index, ids in enumerate(prompts):
        if len(ids) > most:
            shown = f"the model's context is {most}" if most == model.context else f"this server takes {most}"
            problem = f"input.{index} is {len(ids)} tokens, {shown}; truncate_prompt_tokens: -1 reads its beginning"
            raise ApiError(400, problem, "input", "context_length_exceeded")
    return EmbeddingJob(model, prompts, truncated)


class EmbeddingResponse(TurnResponse):
    """Sends the vectors of a run."""

    def __init__(self, run: BatchRun[EmbeddingJob], body: EmbeddingRequest, model: EmbeddingModel) -> None:
        super().__init__(run)
        self._run, self._body = run, body
        self._normalize = model.normalize if body.normalize is None else body.normalize

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON object."""
        vectors = await self._run.outputs()
        # Thousands of vectors are many megabytes of JSON, and other requests need the event loop.
        response = await asyncio.to_thread(lambda: JSONResponse(self._object(vectors)))
        await response(scope, receive, send)

    def _object(self, vectors: Tensor) -> dict[str, Any]:
        dimensions = self._body.dimensions
        vectors = vectors[:, :dimensions]  # (N, C)
        vectors = torch.nn.functional.normalize(vectors) if self._normalize else vectors
        rows: list[Any] = vectors.tolist()
        if self._body.encoding_format == "base64":
            rows = [base64.b64encode(row.tobytes()).decode() for row in vectors.numpy().astype("<f4")]
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": self._body.model, "usage": self._run.job.usage}
