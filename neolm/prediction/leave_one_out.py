"""Which words moved a classifier: each is left out of the text in turn, and the text is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neolm.core.errors import InputError
from neolm.prediction.classify import Classify
from neolm.prediction.text_windows import EncodedText
from neolm.tables.words import text_words

MAX_WORDS = 60


class TooManyWordsError(InputError):
    """A text has more words than are left out in turn."""


@dataclass(frozen=True)
class LeftOutWord:
    """A word, and the text without it."""

    number: int
    """0: it is in the first text, 1: in the second."""
    text: str
    start: int
    end: int
    rest: EncodedText | None
    """None if the text is empty without the word."""


def without_each_word(classify: Classify, *texts: str) -> list[LeftOutWord]:
    """The words of a text, or of a pair, in order.

    Raises:
        TooManyWordsError: there are more than `MAX_WORDS`.
        InputError: a text is empty.
    """
    places = [(number, *place) for number, text in enumerate(texts) for place in text_words(text, "whole")]
    if len(places) > MAX_WORDS:
        problem = f"the text has {len(places)} words; each of at most {MAX_WORDS} is left out in turn"
        raise TooManyWordsError(problem)
    found = []
    for number, start, end in places:
        parts = [*texts]
        parts[number] = _without(texts[number], start, end)
        rest = classify.encode(*parts) if parts[number].strip() else None
        found.append(LeftOutWord(number, texts[number][start:end], start, end, rest))
    return found


def word_effect(whole: Mapping[str, Any], rest: Mapping[str, Any]) -> float:
    """How much the likeliest label's probability, or the score, of the `whole` text is above that of the `rest`."""
    if "score" in whole:
        return float(whole["score"] - rest["score"])
    name = "probability" if isinstance(whole["probability"], Mapping) else "probabilities"
    label = max(whole[name], key=whole[name].__getitem__)
    return float(whole[name][label] - rest[name][label])


def _without(text: str, start: int, end: int) -> str:
    """The text without a word and the space before it, unless that would join two other words."""
    before, behind = text[:start], text[end:]
    if not (behind and behind[0].isalnum()):
        before = before.rstrip()
    return before + behind if before else behind.lstrip()
