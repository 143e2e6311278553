"""The words of a raw text: runs of letters and digits, and every other character alone, such as punctuation.

Characters that are not seen, such as soft hyphens and the joiners of Persian, are in no word, or inside of one.

Languages that are written without spaces between words have a word for each character, as BERT's tokenizer has.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

JOINER = "\u200d"  # makes one emoji of several
_JOINS, _JOINS_DIGITS = ("-", ".", "&", "@"), (",", ":", "/")  # marks inside of whole words
WordRule = Literal["whole", "split"]
"""Whether a mark between two letters or digits makes one word of them, such as 3.5, U.S or Paris-based."""
Place = tuple[int, int]
"""Index of the first character, and of the one after the last."""

# Thai, Lao; Burmese; Khmer; Hiragana, Katakana; Han
_ALONE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)


def text_words(text: str, rule: WordRule) -> list[Place]:
    """The places of the words of `text`, in order; white space is in none."""
    words: list[Place] = []
    joined = False  # whether the word before goes on with a letter
    for start, end in itertools.pairwise([0, *_unit_ends(text)]):
        character = text[start]
        if unicodedata.category(character) == "Cf":
            continue
        letter = _is_letter(character)
        if letter and joined:
            words[-1] = words[-1][0], end
        elif not character.isspace():
            words.append((start, end))
        joined = letter
    return words if rule == "split" else _whole_words(text, words)


def _whole_words(text: str, words: list[Place]) -> list[Place]:
    """The words, those that a mark without white space joins as one."""
    found: list[Place] = []
    for word in words:
        if len(found) > 1 and _joined(text, found[-2], found[-1], word):
            del found[-1]
            found[-1] = found[-1][0], word[1]
        else:
            found.append(word)
    return found


def _joined(text: str, before: Place, between: Place, behind: Place) -> bool:
    """Whether three neighbours are two words of letters or digits and a mark that joins them."""
    if before[1] < between[0] or between[1] < behind[0]:
        return False
    mark = text[slice(*between)]
    if mark in _JOINS_DIGITS:
        return text[before[1] - 1].isdecimal() and text[behind[0]].isdecimal()
    return mark in _JOINS and _is_letter(text[before[0]]) and _is_letter(text[behind[0]])


def _is_letter(character: str) -> bool:
    """Whether a character makes words together with others."""
    return (character.isalnum() or character == "_") and not _ALONE.match(character)


def splits_character(text: str, index: int) -> bool:
    """Whether `index` is inside a character that is written as several, such as a letter with accents or an emoji."""
    return 0 < index < len(text) and not text[index - 1].isspace() and _continues(text[index - 1], text[index])


def _unit_ends(text: str) -> Iterator[int]:
    """The end of each character with the accents and modifiers that follow it."""
    for index in range(1, len(text)):
        if not splits_character(text, index):
            yield index
    if text:
        yield len(text)


def _continues(before: str, character: str) -> bool:
    if unicodedata.category(before) == "Cf" and before != JOINER:  # is not seen, so it takes no accent
        return False
    return (
        unicodedata.category(character) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
        or JOINER in (before, character)
    )
