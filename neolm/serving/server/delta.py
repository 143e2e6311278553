"""What an answer gains: text, tokens with log-probabilities, and at its end the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probability, as text and bytes."""

    text: str
    raw: bytes
    logprob: float | None
    alternatives: tuple[tuple[str, bytes, float], ...]
    offset: int  # characters of prompt and answer before it


@dataclass(frozen=True)
class Delta:
    """New text of one choice, with its tokens if log-probabilities were requested."""

    choice: int
    text: str = ""
    tokens: tuple[ScoredToken, ...] = ()
    finish_reason: FinishReason | None = None
    moderation: dict[str, Any] | None = None
    """What the moderation policy decided about the whole answer, if it flagged or blocked it."""
