"""The rules of C4 (Raffel et al. 2020, section 2.2): lines are removed, and what is left is judged."""

from __future__ import annotations

import re
from collections import Counter

from neolm.corpus.filter_config import C4Config
from neolm.corpus.words import word_list

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


def blocklist(path: str) -> re.Pattern[str]:
    """The phrases of a file as one expression. Raises SettingError if it cannot be read."""
    phrases = sorted(word_list("c4.blocklist", path), key=lambda phrase: (-len(phrase), phrase))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, phrases)) + r")(?!\w)")


def c4_refusal(text: str, config: C4Config, blocked: re.Pattern[str] | None) -> str | None:
    """Why the whole document is rejected, by the text before lines are removed."""
    lowered = text.lower()
    if config.lorem_ipsum and "lorem ipsum" in lowered:
        return 'it has "lorem ipsum"'
    if config.curly_brackets and "{" in text:
        return "it has a curly bracket"
    if blocked is not None and (found := blocked.search(lowered)):
        return f"it has {found[0]!r} of the blocklist"
    return None


def sentences(text: str) -> int:
    """Number of sentences: ends of sentences, and lines without one."""
    return sum(max(1, len(_SENTENCE.findall(line))) for line in text.split("\n") if line.strip())
