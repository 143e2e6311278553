"""The filters of clean text, in their order. Each measures a text, may change it, and may give a reason against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from neolm.core.config import Config
from neolm.core.errors import SettingError
from neolm.core.files import expanded
from neolm.core.manifest import MANIFEST
from neolm.corpus.c4 import blocklist, c4_lines, c4_refusal, sentences
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filter_config import (
    FILTERS,
    C4Config,
    LanguageConfig,
    PrivacyConfig,
    QualityConfig,
    UrlConfig,
    WebtextConfig,
)
from neolm.corpus.fineweb import fineweb_quality
from neolm.corpus.gopher import gopher_quality, gopher_repetition
from neolm.corpus.language import language_codes, language_of
from neolm.corpus.privacy import mask
from neolm.corpus.quality import MADE_BY, keeps, load_weights, quality_scores
from neolm.corpus.url import url_rules
from neolm.corpus.words import words_of

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


Metadata = Mapping[str, Any]
Step = Callable[[str, Metadata], Outcome]
Named = tuple[str, Step]


def apply(steps: Iterable[Named], text: str, metadata: Metadata = MappingProxyType({})) -> Outcome:
    """Run the steps one after the other, up to the first that rejects the text."""
    scores: dict[str, float] = {}
    language, masked = None, dict[str, int]()
    for name, step in steps:
        found = step(text, metadata)
        scores |= {f"{name}.{value}": round(number, ROUNDED) for value, number in found.scores.items()}
        text, language, masked = found.text, language or found.language, {**masked, **found.masked}
        if found.why is not None:
            return Outcome(text, scores, language, masked, name, found.why)
    return Outcome(text, scores, language, masked)


def steps(config: CorpusConfig) -> tuple[Named, ...]:
    """The steps that are set, by name, in their order. Files that they read are read again if they have changed.

    Raises:
        SettingError: a language is unknown, a file cannot be read, or a package is missing.
    """
    places = map(expanded, config.files().values())
    files = (place / MANIFEST if place.is_dir() else place for place in places)
    return _steps(config, tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files))


@lru_cache(maxsize=4)
def _steps(config: CorpusConfig, modified: tuple[int, ...]) -> tuple[Named, ...]:
    found = ((name, getattr(config, name)) for name in FILTERS)
    return tuple((name, STEPS[name](settings)) for name, settings in found if settings is not None)


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


def _url(config: UrlConfig) -> Step:
    refusal = url_rules(config)

    def step(text: str, metadata: Metadata) -> Outcome:
        url = metadata.get("url")
        return Outcome(text, why=refusal(url)) if url and isinstance(url, str) else Outcome(text, {"missing": 1.0})

    return step


def _language(config: LanguageConfig) -> Step:
    codes = language_codes(config.languages)

    def step(text: str, _: Metadata) -> Outcome:
        if len(text) < config.min_characters:
            return Outcome(text, why="too short to tell its language" if config.unknown == "drop" else None)
        language, score = language_of(text)
        sure = language in codes and score >= config.min_score
        why = None if sure else f"its language is {language} with a probability of {score:.2f}"
        return Outcome(text, {"score": score}, language, why=why)

    return step


def _measured(measure: Callable[[str, Any, Metadata], Mapping[str, float]], config: Config) -> Step:
    """A step that leaves the text as it is, and compares what is measured with the limits."""

    def step(text: str, metadata: Metadata) -> Outcome:
        values = measure(text, config, metadata)
        return Outcome(text, values, why=beyond_limit(values, config))

    return step


def _c4(config: C4Config) -> Step:
    blocked = blocklist(config.blocklist) if config.blocklist is not None else None

    def step(text: str, _: Metadata) -> Outcome:
        if why := c4_refusal(text, config, blocked):
            return Outcome(text, why=why)
        kept, removed = c4_lines(text, config)
        values = {"sentences": float(sentences(kept)), "removed_lines": float(removed.total())}
        return Outcome(kept, values, why=beyond_limit(values, config))

    return step


def _webtext(text: str, _: WebtextConfig, metadata: Metadata) -> dict[str, float]:
    scores = metadata.get("reddit_scores")
    given = [metadata.get("karma"), *(scores if isinstance(scores, list) else ())]
    karma = [float(number) for number in given if isinstance(number, (int, float)) and not isinstance(number, bool)]
    return {"words": float(len(words_of(text))), **({"karma": max(karma)} if karma else {})}


def _quality(config: QualityConfig) -> Step:
    if config.model is None:
        raise SettingError("quality.model", f"name the folder of a classifier; train one with `{MADE_BY}`")
    weights = load_weights(expanded(config.model))

    def step(text: str, _: Metadata) -> Outcome:
        score = float(quality_scores(weights, [text])[0])
        why = beyond_limit({"score": score}, config)
        if why is None and config.alpha is not None and not keeps(score, text, config.alpha, config.seed):
            why = f"score {score:.4f}, of which the draw keeps {(2 - score) ** -config.alpha:.1%}"
        return Outcome(text, {"score": score}, why=why)

    return step


def _privacy(config: PrivacyConfig) -> Step:
    def step(text: str, _: Metadata) -> Outcome:
        masked, counts = mask(text, config.kinds)
        return Outcome(masked, masked=counts)

    return step


STEPS: Mapping[str, Callable[[Any], Step]] = {
    "url": _url,
    "language": _language,
    "gopher_repetition": partial(_measured, lambda text, config, _: gopher_repetition(text)),
    "gopher_quality": partial(_measured, lambda text, config, _: gopher_quality(text, config.stop_words)),
    "c4": _c4,
    "fineweb": partial(_measured, lambda text, config, _: fineweb_quality(text, config.short_line_characters)),
    "webtext": partial(_measured, _webtext),
    "quality": _quality,
    "privacy": _privacy,
}
"""What makes the step of each filter from its settings."""
