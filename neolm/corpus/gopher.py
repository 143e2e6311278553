"""What the rules of Gopher measure (Rae et al. 2021, appendix A.1 and table A1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from neolm.corpus.words import SYMBOLS, NGrams, duplicates, words_of

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
TOP, REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)


def gopher_quality(text: str, stop_words: Sequence[str]) -> dict[str, float]:
    """The values of the quality rules. Symbols that stand alone are no words."""
    words = words_of(text)
    spoken = [word for word in words if not SYMBOLS.fullmatch(word)]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ellipses = sum(text.count(mark) for mark in ELLIPSES)
    return {
        "words": len(spoken),
        "mean_word_length": sum(map(len, spoken)) / (len(spoken) or 1),
        "hashes_per_word": text.count("#") / (len(words) or 1),
        "ellipses_per_word": ellipses / (len(words) or 1),
        "bullet_lines": sum(line.startswith(BULLETS) for line in lines) / (len(lines) or 1),
        "ellipsis_lines": sum(line.endswith(ELLIPSES) for line in lines) / (len(lines) or 1),
        "alphabetic_words": sum(word.isalpha() or any(map(str.isalpha, word)) for word in spoken) / (len(spoken) or 1),
        "stop_words": len({*stop_words} & {word.lower() for word in spoken}),
    }


def gopher_repetition(text: str) -> dict[str, float]:
    """The values of the repetition rules, all shares of the characters or of the lines of the text."""
    found: dict[str, float] = {}
    for name, separator in (("paragraph", r"\n{2,}"), ("line", r"\n+")):
        pieces = re.split(separator, text.strip())
        repeated, characters = duplicates(pieces)
        found[f"duplicate_{name}s"] = repeated / len(pieces)
        found[f"duplicate_{name}_characters"] = characters / (len(text) or 1)
    grams = NGrams(words_of(text))
    for n in TOP:
        found[f"top_{n}_gram"] = grams.top(n) / (len(text) or 1)
    repeats = True
    for n in REPEATED:
        characters = grams.repeated(n) if repeats else 0
        found[f"duplicate_{n}_grams"] = characters / (len(text) or 1)
        repeats = characters > 0  # longer sequences do not repeat if shorter ones do not
    return found
