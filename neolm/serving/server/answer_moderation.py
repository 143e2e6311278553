"""Answers are judged in parts while they are generated. Text is held back until its part has been judged.

A part ends at the first word after `part_characters`. It is judged alone, and together with the part before it, so that
neither harmless text around it nor the border hides anything. Where the policy blocks no answer nothing is held back,
and all parts are judged at the end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from neolm.moderation.moderator import Encoded, Scores, highest
from neolm.serving.server.delta import Delta
from neolm.serving.server.moderation import Decision, Moderation


@dataclass
class _Answer:
    """One choice as it grows."""

    before: str = ""  # the part before
    part: str = ""
    unjudged: list[str] = field(default_factory=list)
    held: list[Delta] = field(default_factory=list)
    scores: Scores | None = None  # the highest so far
    sent: int = 0  # characters

    def end_part(self, size: int) -> None:
        """Let the part be judged. The last one, if it is short, is judged only together with the one before it."""
        if self.before and self.part.strip():
            self.unjudged.append(self.before + self.part)
        if len(self.part) >= size or not self.before:
            self.unjudged.append(self.part)
        self.before, self.part = self.part, ""


class AnswerModeration:
    """The answers to one request."""

    def __init__(
        self, moderation: Moderation, client: Hashable, check: Callable[[], None], decisions: list[str]
    ) -> None:
        """`check` raises if the request takes too long; notes for the log are added to `decisions`."""
        self._moderation, self._client, self._check, self._decisions = moderation, client, check, decisions
        self._answers: defaultdict[int, _Answer] = defaultdict(_Answer)

    async def passed(self, delta: Delta) -> Delta | None:
        """What can be sent now that `delta` was generated, if anything; the end of the answer if it is blocked.

        Raises:
            ApiError: in mode block, the answer cannot be judged.
        """
        answer, size = self._answers[delta.choice], self._moderation.policy.part_characters
        released: list[Delta] = []
        if len(answer.part) >= size and (delta.text[:1].isspace() or len(answer.part) >= 2 * size):
            answer.end_part(size)
            if self._moderation.holds:
                await self._judge(answer)
                if self._blocks(answer):
                    return self._stopped(delta.choice, answer)
                released, answer.held = answer.held, []
        answer.held.append(delta)
        answer.part += delta.text
        decision = None
        if delta.finish_reason is not None:
            answer.end_part(size)
            await self._judge(answer)
            if self._blocks(answer):
                return self._stopped(delta.choice, answer)
            decision = self._decide(answer)
        if decision is not None or not self._moderation.holds:
            released, answer.held = released + answer.held, []
        return self._merged(answer, released, decision)

    async def _judge(self, answer: _Answer) -> None:
        texts, answer.unjudged = answer.unjudged, []

        async def encode() -> list[Encoded]:
            return await asyncio.to_thread(self._moderation.encode, texts)  # with `echo`, a part can be long

        found = await self._moderation.judge(encode, self._client, self._check)
        if found is not None:
            answer.scores = found if answer.scores is None else highest([answer.scores, found])

    def _blocks(self, answer: _Answer) -> bool:
        actions = self._moderation.moderator.actions(answer.scores, "answer") if answer.scores else {}
        return self._moderation.holds and "block" in actions.values()

    def _decide(self, answer: _Answer) -> Decision:
        decision = self._moderation.decide(answer.scores, "answer")
        self._decisions += [decision.note] if decision.note else []
        return decision

    def _stopped(self, choice: int, answer: _Answer) -> Delta:
        """The end of a blocked answer; what was held back is dropped."""
        decision = self._decide(answer)
        sent = f"{answer.sent} characters of it were sent before" if answer.sent else "nothing of it was sent"
        message = f"the answer was stopped by the moderation policy of this server ({decision.names}); {sent}"
        found = {"action": "block", "categories": decision.categories, "sent_characters": answer.sent}
        return Delta(choice, finish_reason="content_filter", moderation={**found, "message": message})

    def _merged(self, answer: _Answer, deltas: list[Delta], decision: Decision | None) -> Delta | None:
        if not deltas:
            return None
        text = "".join(delta.text for delta in deltas)
        answer.sent += len(text)
        tokens = tuple(token for delta in deltas for token in delta.tokens)
        last, moderation = deltas[-1], None
        if decision is not None and decision.action == "flag":
            moderation = {"action": "flag", "categories": decision.categories, "sent_characters": answer.sent}
            moderation["message"] = f"the answer was flagged by the moderation policy of this server ({decision.names})"
        return Delta(last.choice, text, tokens, last.finish_reason, moderation)
