"""The moderation policy of a server: its classifiers on engines of their own, and its decisions, counted.

Nothing here stores or logs a text.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import NeoLMError
from neolm.moderation.moderator import Encoded, Moderator, Scores, highest, strictest
from neolm.moderation.policy import Action, Side
from neolm.prediction.classify import Classify
from neolm.prediction.text_windows import Window
from neolm.serving.batch_engine import BatchEngine, BatchRequest
from neolm.serving.server.batch_result import computed
from neolm.serving.server.errors import ApiError, StoppingError
from neolm.serving.server.event_log import EventLog
from neolm.serving.server.job_queue import JobQueue
from neolm.serving.server.metrics import Metrics
from neolm.serving.server.settings import ServeConfig


@dataclass(frozen=True)
class Decision:
    """What happens to a prompt or an answer."""

    action: Action
    """What the policy's mode makes of the strictest action."""
    categories: dict[str, float]
    """Scores of the categories that flag or block it."""
    note: str = ""
    """One line for the log; nothing if the text is allowed."""

    @property
    def names(self) -> str:
        """The categories, for a message."""
        return ", ".join(self.categories)


class Moderation:
    """Judges texts for all requests of a server."""

    def __init__(self, settings: ServeConfig, metrics: Metrics, log: EventLog) -> None:
        """Load the policy and start the engines. Raises `InputError` if the policy cannot be used."""
        assert settings.moderation is not None
        self.moderator = Moderator(Path(settings.moderation), settings.device)
        self.policy = self.moderator.policy
        self.jobs = JobQueue(settings.queue)
        self._metrics, self._log = metrics, log
        self._labels = self.moderator.digest[:12], self.policy.mode
        self._engines: dict[str, BatchEngine[Window]] = {
            name: BatchEngine(
                self._compute(one), len(one.names), lambda window: len(window[0]), settings.queue * 16
            ).start()
            for name, one in self.moderator.classifiers.items()
        }

    @property
    def name(self) -> str:
        """File, version, mode and digest."""
        digest, mode = self._labels
        return f"{self.moderator.path}, version {self.policy.version}, mode {mode}, sha256 {digest}"

    @property
    def holds(self) -> bool:
        """Whether answers are held back until they have been judged."""
        return self.policy.mode == "block" and any(one.answer == "block" for one in self.policy.categories.values())

    def close(self) -> None:
        """Stop the engines."""
        for engine in self._engines.values():
            engine.close()

    def _compute(self, classifier: Classify) -> Callable[[list[Window]], Tensor]:
        def compute(windows: list[Window]) -> Tensor:
            try:
                return classifier.window_logits(windows)
            except Exception as error:  # these texts cannot be judged, others may
                self._log.failure("moderation", error)
                return torch.full((len(windows), len(classifier.names)), torch.nan)

        return compute

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The texts as the classifiers read them, without empty ones, which say nothing."""
        return [self.moderator.encode(text) for text in texts if text.strip()]

    async def scores(self, rows: Sequence[Encoded], client: Hashable, check: Callable[[], None]) -> list[Scores]:
        """The scores of each of some texts; `check` raises if it takes too long. Raises `NeoLMError` if one fails."""
        parts = {}
        started = time.monotonic()
        for name, engine in self._engines.items():
            windows = [window for row in rows for window in row[name].inputs]
            found = await computed(engine, windows, client, check, list[BatchRequest[Window]]())
            if isinstance(found, NeoLMError):
                raise found
            parts[name] = torch.split(found, [len(row[name].windows) for row in rows])
        self._metrics.moderation_seconds.observe(time.monotonic() - started)
        return [self.moderator.judge({name: parts[name][number] for name in parts}) for number in range(len(rows))]

    async def judge(
        self, encode: Callable[[], Awaitable[list[Encoded]]], client: Hashable, check: Callable[[], None]
    ) -> Scores | None:
        """The scores of texts that are judged as one; None if there is no text.

        If they cannot be judged, that is counted and logged, and None is returned, but not in mode block.

        Raises:
            ApiError: in mode block, the texts cannot be judged (503); or as `check`.
        """
        try:
            rows = await encode()
            return highest(await self.scores(rows, client, check)) if rows else None
        except StoppingError:
            raise
        except Exception as error:
            check()
            self._metrics.moderation_failures.inc()
            self._log.event("moderation_failure", error=type(error).__name__, mode=self.policy.mode)
            if self.policy.mode == "block":
                problem = "the moderation policy could not be applied, so the text is not passed on"
                raise ApiError(503, problem, None, "moderation_failed", 5) from error
            return None

    def decide(self, scores: Scores | None, side: Side) -> Decision:
        """What happens to a prompt or an answer with these scores; it is counted."""
        if scores is None:
            return Decision("allow", {})
        actions = self.moderator.actions(scores, side)
        for name in scores:
            self._metrics.moderation.labels(*self._labels, name, side, actions.get(name, "allow")).inc()
        categories = {name: round(scores[name].value, 4) for name, action in actions.items() if action != "allow"}
        if not categories:
            return Decision("allow", {})
        wanted, mode = strictest(actions), self.policy.mode
        action: Action = "allow" if mode == "observe" else "flag" if mode == "flag" else wanted
        return Decision(action, categories, f"{side} {wanted} {', '.join(categories)} (mode {mode})")

    def check_prompt(self, decision: Decision) -> None:
        """Raise an `ApiError` (400) if a prompt is blocked."""
        if decision.action == "block":
            problem = f"the prompt was blocked by the moderation policy of this server: {decision.names}"
            raise ApiError(400, problem, None, "content_filter")


def prompt_texts(body: Any, decode: Callable[[list[int]], str]) -> list[str]:
    """The texts of a request for completions, chat, embeddings or labels; token ids are decoded."""
    if hasattr(body, "messages"):
        return [message.content for message in body.messages]
    given = body.prompt if hasattr(body, "prompt") else body.input
    texts = [(one.text, one.second) if hasattr(one, "text") else (one,) for one in given]
    return [text if isinstance(text, str) else decode(text) for row in texts for text in row if text is not None]
