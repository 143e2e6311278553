"""Typed questions about a text: a choice among options, a score on ordered levels, or whether something is true (noul).

The answer is a probability for each option, in one of the two forms that are in use: `listed` as OpenAI's
`/v1/decisions` has it, `named` as System One's `/v1/systemone`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neolm.core.errors import InputError

Kind = Literal["choice", "score", "noul"]


@dataclass(frozen=True)
class Option:
    """A possible answer."""

    value: str | bool
    text: str
    """What the model reads; "" for a true or a false that is not described."""
    description: Any = None
    """As it was given."""


@dataclass(frozen=True)
class Question:
    """A question with its options; levels are in their order, and of noul the first option is true."""

    kind: Kind
    instructions: str
    options: tuple[Option, ...]
    name: str | None = None
    template: str | None = None
    """How an option is read, with `{label}` in its place; None: behind the instructions."""

    def __post_init__(self) -> None:
        """Raise an `InputError` if nothing is asked, or options are missing, empty or equal."""
        labels = [
            (type(option.value), option.value if self.kind == "choice" else option.text) for option in self.options
        ]
        if self.kind == "noul":
            if not self.instructions.strip() and not self.described:
                raise InputError("it has neither instructions nor descriptions of both true and false")
            return
        if len(labels) < 2:
            raise InputError(f"it needs at least two options, and there is {'one' if labels else 'none'}")
        if not self.described or any(not str(label).strip() for _, label in labels):
            raise InputError("an option is empty")
        (_, label), count = Counter(labels).most_common(1)[0]
        if count > 1:
            raise InputError(f"the option {label!r} occurs twice")

    @property
    def described(self) -> bool:
        """Whether each option has a text."""
        return all(option.text.strip() for option in self.options)

    def best(self, chances: Sequence[float]) -> int:
        """Index of the likeliest option; of equally likely ones, the first by the alphabet."""
        return min(range(len(chances)), key=lambda n: (-chances[n], str(self.options[n].value)))

    def confidence(self, chances: Sequence[float]) -> float:
        """How far the probabilities are from equal ones (0), up to certainty (1), as transformers defines it.

        Of a choice (p - 1 / n) / (1 - 1 / n) for the likeliest of n options; of a score 1 - d / e, where d is the mean
        distance from the likeliest level, and e that of equal probabilities from the middle.
        """
        count, best = len(chances), self.best(chances)
        if self.kind == "choice":
            return max(0.0, (chances[best] - 1 / count) / (1 - 1 / count))
        distance = sum(chance * abs(level - best) for level, chance in enumerate(chances))
        return max(0.0, 1 - distance * count / sum(abs(level - (count - 1) / 2) for level in range(count)))

    def listed(self, chances: Sequence[float]) -> dict[str, Any]:
        """The answer in OpenAI's form."""
        if self.kind == "noul":
            return {"name": self.name, "type": "predicate", "probability": chances[0]}
        pairs = [*zip(self.options, chances, strict=True)]
        answer = {"name": self.name, "type": self.kind, "confidence": self.confidence(chances)}
        if self.kind == "choice":
            each: list[Any] = [{"value": option.value, "probability": chance} for option, chance in pairs]
            return answer | {"choice": self.options[self.best(chances)].value, "probabilities": each}
        each = [{"label": one.value, "value": n, "probability": chance} for n, (one, chance) in enumerate(pairs)]
        return answer | {"score": _mean_level(chances), "probabilities": each}

    def named(self, chances: Sequence[float]) -> dict[str, Any]:
        """The answer in the form of System One."""
        if self.kind == "noul":
            return {"type": "noul", "noul": chances[0]}
        names = [str(n if self.kind == "score" else option.value) for n, option in enumerate(self.options)]
        rest = {"confidence": self.confidence(chances), "probabilities": dict(zip(names, chances, strict=True))}
        if self.kind == "choice":
            return {"type": "choice", "choice": names[self.best(chances)], **rest}
        legend = dict(zip(names, (option.description for option in self.options), strict=True))
        return {"type": "score", "score": _mean_level(chances), "legend": legend, **rest}


def label_option(label: str | bool, description: Any = None) -> Option:
    """An option that is read as its label, with underscores as spaces, and its description."""
    text = str(label).lower() if isinstance(label, bool) else label.replace("_", " ")
    more = content_text(description)
    return Option(label, f"{text}: {more}" if more.strip() else text, description)


def content_text(content: Any) -> str:
    """A text as it is, nothing as "", and JSON as its text. Raises `InputError` for infinities and endless nesting."""
    if content is None or isinstance(content, str):
        return content or ""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"it is no JSON: {error}") from None


def _mean_level(chances: Sequence[float]) -> float:
    return sum(level * chance for level, chance in enumerate(chances))
