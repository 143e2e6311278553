r"""Division of raw text into sentences, as the pair tasks of BERT and ALBERT need them.

Rules, not a model, so that no language needs data:

- `.`, `!`, `?` and `…`, with the quotes and brackets that close after them, end a sentence before white space.
- `。`, `！`, `？` and `｡`, with what closes after them, end a sentence without white space.
- None of these ends one before a lower-case letter (`"Why?" he asked.`), and `.` does not after a title or another
  abbreviation of the list below, an initial (`J. R. R. Tolkien`) or a number at the start (`1. Introduction`).
- A line break ends a sentence, unless the next line begins with a lower-case letter: then the line was wrapped. A blank
  line always ends one.
- A sentence of more than MAX_CHARACTERS is cut at the last white space before the limit, or at the limit.

What it leaves out: abbreviations of other languages than English (`z. B.`) where a capital follows, sentences that end
without a mark on the same line (Thai), and quoted speech of several sentences, which is divided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_CHARACTERS = 1000  # a text without sentence ends does not become one sentence of 100,000 words

_CLOSING = "\"'”’»›)\\]}」』】）》〉"
_END = re.compile(rf"(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？｡]+[{_CLOSING}]*|\n\s*")
_NEXT = re.compile(rf"(\s*)[{_CLOSING}“‘«‹(\[{{「『【（《〈—–-]*(.?)")
_ABBREVIATIONS = re.compile(
    "mr|mrs|ms|messrs|dr|prof|rev|hon|st|sr|jr|capt|lt|sgt|gov|vs|al|cf|viz|figs?|nos|vols?|pp|approx|dept|"
    r"jan|feb|apr|aug|sept|oct|nov|mt|ft|[^\W\d_]|(\w\.)+\w"
)
_LAST_WORD = re.compile(r"[\w.&-]*\Z")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, without white space around them. Nothing but white space between them is left out."""
    text = "\n".join(text.splitlines())
    start = 0
    sentences: list[str] = []
    for match in _END.finditer(text):
        if _ends_sentence(text, start, match):
            sentences += _pieces(text, start, match.end())
            start = match.end()
    return [*sentences, *_pieces(text, start, len(text))]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the mark or line break `match` ends the sentence that begins at `start`."""
    following = _NEXT.match(text, match.end())
    assert following is not None  # it matches everywhere
    space, character = following.groups()
    mark = match.group()
    if mark[0] == "\n":
        return "\n" in mark[1:] or not character.islower()
    if "\n" in space:  # the line break decides
        return False
    if character.islower() or character == ".":  # `. . .`
        return False
    if mark != ".":
        return True
    found = _LAST_WORD.search(text, max(start, match.start() - 20), match.start())
    word = found.group().lower() if found else ""
    if word.isdigit():
        return text[start : match.start()].strip() != word
    return not _ABBREVIATIONS.fullmatch(word)


def _pieces(text: str, start: int, end: int) -> Iterator[str]:
    """`text[start:end]` without white space around it, in pieces of at most MAX_CHARACTERS."""
    while end - start > MAX_CHARACTERS:
        head = text[start : start + MAX_CHARACTERS + 1]
        cut = start + (max((found.start() for found in re.finditer(r"\s", head)), default=0) or MAX_CHARACTERS)
        if piece := text[start:cut].strip():
            yield piece
        start = cut
    if piece := text[start:end].strip():
        yield piece
