"""The filters of clean text, in their order. Each measures a text, may change it, and may give a reason against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

from neolm.core.config import Config
from neolm.corpus.c4 import c4_lines, c4_refusal, sentences
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filter_config import (
    C4Config,
    FinewebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    PrivacyConfig,
)
from neolm.corpus.fineweb import fineweb_quality
from neolm.corpus.gopher import gopher_quality, gopher_repetition
from neolm.corpus.language import language_codes, language_of
from neolm.corpus.privacy import mask

ROUNDED = 4


@dataclass(frozen=True)
class Outcome:
    """What the filters made of a text."""

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by the name of the filter and of the value."""
    language: str | None = None
    """The most probable language, if it was measured."""
    masked: Mapping[str, int] = field(default_factory=dict)
    """Placeholders by kind."""
    reason: str | None = None
    """The filter that rejects the text; None: it is kept."""
    why: str | None = None
    """The value and the limit, or the rule."""


Step = Callable[[str], Outcome]
Named = tuple[str, Step]


def apply(steps: Iterable[Named], text: str) -> Outcome:
    """Run the steps one after the other, up to the first that rejects the text."""
    scores: dict[str, float] = {}
    language, masked = None, dict[str, int]()
    for name, step in steps:
        found = step(text)
        scores |= {f"{name}.{value}": round(number, ROUNDED) for value, number in found.scores.items()}
        text, language, masked = found.text, language or found.language, {**masked, **found.masked}
        if found.why is not None:
            return Outcome(text, scores, language, masked, name, found.why)
    return Outcome(text, scores, language, masked)


@lru_cache(maxsize=4)
def steps(config: CorpusConfig) -> tuple[Named, ...]:
    """The steps that are set, by name, in their order.

    Raises:
        SettingError: a language is unknown, a file cannot be read, or a package is missing.
    """
    found: list[Named] = []
    if config.language is not None:
        found.append(("language", partial(_language, config.language, language_codes(config.language.languages))))
    if config.gopher_repetition is not None:
        found.append(("gopher_repetition", partial(_gopher_repetition, config.gopher_repetition)))
    if config.gopher_quality is not None:
        found.append(("gopher_quality", partial(_gopher_quality, config.gopher_quality)))
    if config.c4 is not None:
        c4_refusal("", config.c4)  # reads the blocklist
        found.append(("c4", partial(_c4, config.c4)))
    if config.fineweb is not None:
        found.append(("fineweb", partial(_fineweb, config.fineweb)))
    if config.privacy is not None:
        found.append(("privacy", partial(_privacy, config.privacy)))
    return tuple(found)


def beyond_limit(values: Mapping[str, float], limits: Config) -> str | None:
    """The first value that is beyond a limit `min_...` or `max_...` of the settings, in words; None: none is."""
    for name in type(limits).model_fields:
        limit, value = getattr(limits, name), values.get(name[4:])
        if limit is None or value is None:
            continue
        if name.startswith("min_") and value < limit:
            return f"{name[4:]} {value:.4g} is below {limit:.4g}"
        if name.startswith("max_") and value > limit:
            return f"{name[4:]} {value:.4g} is above {limit:.4g}"
    return None


def _language(config: LanguageConfig, codes: frozenset[str], text: str) -> Outcome:
    if len(text) < config.min_characters:
        why = "too short to tell its language" if config.unknown == "drop" else None
        return Outcome(text, why=why)
    language, score = language_of(text)
    sure = language in codes and score >= config.min_score
    why = None if sure else f"its language is {language} with a probability of {score:.2f}"
    return Outcome(text, {"score": score}, language, why=why)


def _gopher_repetition(config: GopherRepetitionConfig, text: str) -> Outcome:
    values = gopher_repetition(text)
    return Outcome(text, values, why=beyond_limit(values, config))


def _gopher_quality(config: GopherQualityConfig, text: str) -> Outcome:
    values = gopher_quality(text, config.stop_words)
    return Outcome(text, values, why=beyond_limit(values, config))


def _c4(config: C4Config, text: str) -> Outcome:
    if why := c4_refusal(text, config):
        return Outcome(text, why=why)
    kept, removed = c4_lines(text, config)
    values = {"sentences": float(sentences(kept)), "removed_lines": float(removed.total())}
    return Outcome(kept, values, why=beyond_limit(values, config))


def _fineweb(config: FinewebConfig, text: str) -> Outcome:
    values = fineweb_quality(text, config.short_line_characters)
    return Outcome(text, values, why=beyond_limit(values, config))


def _privacy(config: PrivacyConfig, text: str) -> Outcome:
    masked, counts = mask(text, config.kinds)
    return Outcome(masked, masked=counts)
