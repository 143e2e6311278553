"""What the rules of FineWeb measure (Penedo et al. 2024, section 3.6)."""

from __future__ import annotations

from neolm.corpus.words import duplicates, words_of

ENDS = (".", "?", "!", '"', "'", "…", "”", "’", "»", "。", "！", "？", "」", "।", "؟", "۔")


def fineweb_quality(text: str, short_line_characters: int) -> dict[str, float]:
    """The values of the rules; lines are those with text."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    count = len(lines) or 1
    characters = len(text) - text.count("\n")
    return {
        "punctuated_lines": sum(line.endswith(ENDS) for line in lines) / count,
        "short_lines": sum(len(line) <= short_line_characters for line in lines) / count,
        "duplicate_line_characters": duplicates(lines)[1] / (characters or 1),
        "newlines_per_word": text.count("\n") / (len(words_of(text)) or 1),
    }
