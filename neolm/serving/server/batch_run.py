"""A run of a model that writes no text: the rows of one job on the model's engine, with deadline and accounting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar

from torch import Tensor

from neolm.core.errors import NeoLMError
from neolm.serving.batch_engine import BatchEngine, BatchRequest, Result
from neolm.serving.request import EngineClosedError, QueueFullError
from neolm.serving.server.batch_result import computed
from neolm.serving.server.errors import ApiError
from neolm.serving.server.turn import AnyJob, Turn


class BatchJob(AnyJob, Protocol):
    """A job that an engine computes in batches."""

    @property
    def rows(self) -> Sequence[Any]:
        """What the engine computes."""

    def input_of(self, row: int) -> int:
        """Index of the text of the request that a row belongs to."""


B = TypeVar("B", bound=BatchJob)


class BatchRun(Turn[B]):
    """Makes a job and computes its rows."""

    async def outputs(self) -> Tensor:
        """Make the job, load the model, and wait for what it gives for the N rows, (N, C).

        A cancelled call cancels the request.

        Raises:
            ApiError: refused, failed, not finite, too long, or stopping.
        """
        job = await self.wait_for_job()
        metrics, name = self._service.metrics, self._model.name
        async with AsyncExitStack() as stack:
            engine: BatchEngine[Any] = await self.load(stack)
            self._client.tokens.spend(job.prompt_tokens)
            requests: list[BatchRequest[Any]] = []
            finished = False
            try:
                found = await computed(engine, job.rows, self.client_id, self.check_deadline, requests)
                finished = True
                return self._checked(found)
            except EngineClosedError as error:
                raise ApiError(503, str(error), None, "engine_closed", 5) from None
            except QueueFullError as error:
                raise ApiError(429, f"the server is busy: {error}", None, "queue_full", 5) from None
            finally:
                if not finished:
                    metrics.cancelled.labels(name).inc()
                num_tokens = sum(request.num_computed_tokens for request in requests)
                self._client.tokens.level += job.prompt_tokens - num_tokens
                metrics.tokens.labels(name, "prompt").inc(num_tokens)

    def _checked(self, result: Result) -> Tensor:
        if isinstance(result, EngineClosedError):
            raise ApiError(503, str(result), None, "engine_closed", 5)
        if isinstance(result, NeoLMError):
            raise ApiError(500, str(result), None, None, 5)
        wrong = (~result.isfinite().all(dim=1)).nonzero()
        if len(wrong):
            index = self.job.input_of(int(wrong[0]))
            problem = f"the result of input.{index} is not finite: the numbers of the model overflow"
            raise ApiError(500, problem, None, None, 5)
        return result
