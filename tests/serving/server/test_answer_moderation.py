"""The parts of an answer: where they end, what is judged together, and when text leaves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from neolm.moderation.moderator import Score
from neolm.serving.server.answer_moderation import AnswerModeration
from neolm.serving.server.delta import Delta
from neolm.serving.server.moderation import Decision


class Phrase:
    """A policy that blocks answers with a phrase, and remembers what it has judged."""

    def __init__(self, phrase: str, size: int, holds: bool = True) -> None:
        self.phrase, self.holds, self.judged = phrase, holds, list[list[str]]()
        self.policy = SimpleNamespace(part_characters=size)
        self.moderator = SimpleNamespace(actions=self._actions)

    async def judge(self, encode: Any, client: Any, check: Any) -> Any:
        texts = await encode()
        self.judged.append(texts)
        return {"x": Score([float(any(self.phrase in text for text in texts))])} if texts else None

    def encode(self, texts: list[str]) -> list[str]:
        return [text for text in texts if text.strip()]

    def _actions(self, scores: Any, side: str) -> dict[str, str]:
        return {"x": "block"} if scores["x"].value else {}

    def decide(self, scores: Any, side: str) -> Decision:
        found = self._actions(scores, side) if scores else {}
        return Decision("block", {"x": 1.0}) if found else Decision("allow", {})


def passed(policy: Phrase, *texts: str, end: bool = True) -> list[Delta | None]:
    """What leaves at each delta."""
    answers = AnswerModeration(policy, "client", lambda: None, [])  # type: ignore[arg-type]
    reasons = [None] * (len(texts) - 1) + ["stop" if end else None]

    async def run() -> list[Delta | None]:
        return [
            await answers.passed(Delta(0, text, (), reason))  # type: ignore[arg-type]
            for text, reason in zip(texts, reasons, strict=True)
        ]

    return asyncio.run(run())


def texts_of(deltas: list[Delta | None]) -> list[str]:
    return ["" if delta is None else delta.text for delta in deltas]


def test_a_part_ends_before_a_word_and_leaves_once_it_was_judged() -> None:
    policy = Phrase("bad", 7)
    found = passed(policy, "one", " two", "s", " three", " four")
    assert texts_of(found) == ["", "", "", "one twos", " three four"]
    assert policy.judged == [["one twos"], ["one twos three four", " three four"]]
    assert (found[-1].finish_reason, found[-1].moderation) == ("stop", None)  # type: ignore[union-attr]


def test_what_spans_two_parts_is_seen() -> None:
    found = passed(Phrase("very bad", 8), "it is so", " very", " bad", " here", " and", " now")
    assert texts_of(found[:5]) == ["", "it is so", "", "", ""]
    assert [delta.finish_reason for delta in found if delta][-1] == "content_filter"
    found = passed(Phrase("so very", 8), "it is so", " very", " bad", " end")
    assert "".join(texts_of(found)) == "it is so"
    assert found[3].moderation["sent_characters"] == 8  # type: ignore[union-attr, index]


def test_a_text_without_spaces_is_cut_at_twice_the_length() -> None:
    policy = Phrase("bad", 4)
    assert texts_of(passed(policy, "ab", "cd", "ef", "gh", "ij", "kl", end=False)) == ["", "", "", "", "abcdefgh", ""]
    assert policy.judged == [["abcdefgh"]]


def test_a_short_end_is_judged_only_with_the_part_before_it() -> None:
    policy = Phrase("bad", 6)
    passed(policy, "one two", " x")
    assert policy.judged == [["one two"], ["one two x"]]


@pytest.mark.parametrize("texts", [["", ""], [" ", "\n"]])
def test_an_answer_of_nothing_is_allowed(texts: list[str]) -> None:
    assert "".join(texts_of(passed(Phrase("bad", 4), *texts))) == "".join(texts)


def test_where_nothing_is_held_text_leaves_at_once_and_is_judged_at_the_end() -> None:
    policy = Phrase("two three", 7, holds=False)
    assert texts_of(passed(policy, "one", " two", " three", " four")) == ["one", " two", " three", " four"]
    assert policy.judged == [["one two", "one two three four", " three four"]]


def test_answers_do_not_mix() -> None:
    policy = Phrase("one two", 4)
    answers = AnswerModeration(policy, "client", lambda: None, [])  # type: ignore[arg-type]
    deltas = [Delta(0, "one"), Delta(1, "six"), Delta(1, " two", (), "stop"), Delta(0, " ten", (), "stop")]

    async def run() -> list[Delta | None]:
        return [await answers.passed(delta) for delta in deltas]

    assert texts_of(asyncio.run(run())) == ["", "", "six two", "one ten"]
