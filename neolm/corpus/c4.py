"""The rules of C4 (Raffel et al. 2020, section 2.2): lines are removed, and what is left is judged."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from neolm.core.errors import SettingError
from neolm.core.files import expanded
from neolm.corpus.filter_config import C4Config

ENDS = (".", "?", "!", '"', "”", "'", "’")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[(?:\d+|edit|citation needed)\]")
_SENTENCE = re.compile(r"[.?!]+[\"'”’)\]]*(?=\s|$)")


def c4_lines(text: str, config: C4Config) -> tuple[str, Counter[str]]:
    """The text without the lines and citation marks that the rules remove, and the number of lines by rule."""
    removed: Counter[str] = Counter()
    kept = []
    for raw in text.split("\n"):
        line = (_CITATION.sub("", raw) if config.citations else raw).strip()
        if (rule := _rule(line, config)) is None:
            kept.append(line)
        elif line:
            removed[rule] += 1
    return "\n".join(kept), removed


def _rule(line: str, config: C4Config) -> str | None:
    """The rule that removes a line; None: it stays."""
    words = line.split()
    if any(len(word) > config.max_word_characters for word in words):
        return "max_word_characters"
    if config.terminal_punctuation and (not line.endswith(ENDS) or line.endswith("...")):
        return "terminal_punctuation"
    if len(words) < config.min_line_words:
        return "min_line_words"
    lowered = line.lower()
    if config.javascript and "javascript" in lowered:
        return "javascript"
    if config.policies and any(phrase in lowered for phrase in POLICIES):
        return "policies"
    return None


def c4_refusal(text: str, config: C4Config) -> str | None:
    """Why the whole document is rejected, by the text before lines are removed."""
    lowered = text.lower()
    if config.lorem_ipsum and "lorem ipsum" in lowered:
        return 'it has "lorem ipsum"'
    if config.curly_brackets and "{" in text:
        return "it has a curly bracket"
    if config.blocklist is not None and (found := _pattern(config.blocklist).search(lowered)):
        return f"it has {found[0]!r} of the blocklist"
    return None


def sentences(text: str) -> int:
    """Number of sentences: ends of sentences, and lines without one."""
    return sum(max(1, len(_SENTENCE.findall(line))) for line in text.split("\n") if line.strip())


def _pattern(path: str) -> re.Pattern[str]:
    """The phrases of a blocklist as one expression, read again if the file has changed."""
    place = expanded(path)
    return _blocked(place, place.stat().st_mtime_ns if place.is_file() else 0)


@lru_cache(maxsize=4)
def _blocked(path: Path, modified: int) -> re.Pattern[str]:
    phrases = blocked_phrases(path)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(phrases, key=len, reverse=True))) + r")(?!\w)")


def blocked_phrases(path: Path) -> set[str]:
    """The phrases of a blocklist, in lower case.

    Raises:
        SettingError: the file cannot be read, or has no phrases.
    """
    try:
        found = {line.strip().lower() for line in path.read_text("utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("c4.blocklist", f"{path} cannot be read: {error}") from None
    if not found:
        raise SettingError("c4.blocklist", f"{path} has no words")
    return found
