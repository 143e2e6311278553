"""The items of evaluation sets, and the word n-grams by which a text shows that it has them.

The rule `careful` takes n-grams of 13 words as GPT-3 does, but only those that belong to the question: none from the
item's passage, from a long quotation, from many other questions, or mostly of numbers and repetitions. An item of short
texts is found by its longest one, whole, with the others near it.
"""

from __future__ import annotations

import math
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neolm.corpus.config import DecontaminationConfig
from neolm.corpus.shingles import normalise
from neolm.kernels.shingles import hash_shingles

MIN_WORDS, MIN_SHORT = 8, 5  # words of an item that can be judged, and of the text by which a short one is found
MIN_SHARE = 1 / 3  # of the words of a question, which the n-grams cover
_QUOTED = re.compile(r'"[^"]{40,}"|“[^”]{40,}”')
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Item:
    """An item of an evaluation set. `name` is the file and the line that it was read from.

    One of `answers` is enough; none: the answer is a label, which no text has to have. `both`: the question alone does
    not tell, because there is a `passage`, or question and answer are a pair. `problem`: why it cannot be judged.
    """

    evaluation: str
    name: str
    question: tuple[str, ...]
    answers: tuple[str, ...] = ()
    passage: str = ""
    both: bool = False
    problem: str | None = None


class EvaluationSets(NamedTuple):
    """The evaluation sets of a corpus. Later rooms know the files of tasks; this one does not import them."""

    files: Mapping[str, Path]
    items: Callable[[], Iterable[Item]]
    """Reads all items. Raises SettingError if one cannot be read or is empty."""


class Clue(NamedTuple):
    """An n-gram of an item. A text has the item if it has `least` n-grams and one text of each group of `needs`.

    If it is `near` them, the n-gram alone is enough.
    """

    item: int
    needs: tuple[tuple[bytes, ...], ...] = ()
    least: int = 1
    near: bool = False


def careful_words(text: str) -> bytes:
    """The words of a text as near-duplicates have them, with a space between them."""
    return b" ".join(normalise(text).split())


def gpt3_words(text: str) -> bytes:
    """The words of a text for GPT-3's rule: lower case, divided at white space, without ASCII punctuation."""
    return " ".join(text.lower().translate(_PUNCTUATION).split()).encode("utf-8")


def _ngrams(words: bytes, length: int) -> list[bytes]:
    split = words.split()
    return [b" ".join(split[first : first + length]) for first in range(len(split) - length + 1)]


def _last_line(text: str) -> str:
    """The last line of a text, if it is long enough to be the question; else the text."""
    last = text.rstrip().rpartition("\n")[2]
    return last if _size(careful_words(last)) >= MIN_WORDS else text


def _size(words: bytes) -> int:
    return words.count(b" ") + 1 if words else 0


def _tells(ngram: bytes) -> bool:
    """Whether half of the words are different words with letters. Series of numbers and repetitions tell nothing."""
    return 2 * len({word for word in ngram.decode().split() if any(map(str.isalpha, word))}) >= _size(ngram)


def _clues(number: int, item: Item, config: DecontaminationConfig) -> dict[bytes, Clue] | str:
    """The n-grams of an item that count, or why it cannot be judged."""
    form, length = gpt3_words if config.rule == "gpt3" else careful_words, config.ngram
    fields, answers = ([words for text in texts if (words := form(text))] for texts in (item.question, item.answers))
    question, passage = b" ".join(fields), form(item.passage)
    total = b" ".join([question, *answers[:1]])
    if not fields:
        return "no text"
    if config.rule != "careful":
        return dict.fromkeys(_ngrams(b" ".join([passage, total]), length), Clue(number)) or "too short"
    if item.problem or _size(total) < MIN_WORDS:
        return item.problem or "too short"
    # What stands before the last line of a question, and a long quotation in it, are like a passage.
    asked = [_last_line(_QUOTED.sub("\x1e", text)) for text in item.question]
    own = [careful_words(text) for text in "\0".join(asked).split("\x1e")]
    if sum(map(_size, own)) < MIN_WORDS:  # there is little else
        asked, own = list(item.question), [question]
    least = max(1, math.ceil(sum(map(_size, own)) * MIN_SHARE) - length + 1)
    if not item.both and answers:  # an n-gram of the answer alone does not count
        own[-1] = b" ".join([own[-1], *answers[0].split()[: length - 1]])
    pieces = tuple(piece for words in answers for piece in _ngrams(words, length) or [words])
    group = (pieces,) if pieces else ()
    found = {ngram: Clue(number, group * item.both, least) for words in own for ngram in _ngrams(words, length)}
    parts = own if len(own) > 1 else ()
    found |= {words: Clue(number, group, near=True) for words in parts if MIN_WORDS <= _size(words) < length}
    short = [(words,) for text in asked if (words := careful_words(text))]
    texts = [*short, *group]
    if not item.both and pieces and _size(pieces[0]) < length:
        short = texts
    longest = max(short, key=lambda one: _size(one[0]))
    if (MIN_WORDS if len(texts) == 1 else MIN_SHORT) <= _size(longest[0]) < length:
        found[longest[0]] = Clue(number, tuple(one for one in texts if one is not longest), near=True)
    elif not item.both and _size(total) < length:
        found[total] = Clue(number)
    elif _size(longest[0]) < MIN_SHORT:
        return "too short"
    padded = b" %b " % passage
    return {ngram: clue for ngram, clue in found.items() if _tells(ngram) and b" %b " % ngram not in padded}


@dataclass
class EvaluationIndex:
    """All items, with the n-grams by which they are found: `known` numbers the n-grams, `clues` are those of each."""

    config: DecontaminationConfig
    items: list[Item]
    not_judged: dict[int, str] = field(default_factory=dict)
    known: dict[bytes, int] = field(default_factory=dict)
    clues: list[list[Clue]] = field(default_factory=list)
    tables: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = field(default_factory=dict)
    """By the number of words: the hashes of the n-grams, sorted, and which of their highest bits occur."""

    def __post_init__(self) -> None:
        clues: defaultdict[bytes, list[Clue]] = defaultdict(list)
        for number, item in enumerate(self.items):
            found = _clues(number, item, self.config)
            self.not_judged[number] = found if isinstance(found, str) else "nothing of its own"
            for ngram, clue in {} if isinstance(found, str) else found.items():
                clues[ngram].append(clue)
        lengths: defaultdict[int, list[bytes]] = defaultdict(list)
        for ngram, own in clues.items():
            questions = {self.items[clue.item].question for clue in own}  # the words of many are a template
            if self.config.rule != "careful" or len(questions) <= self.config.max_documents:
                self.known[ngram] = len(self.clues)
                self.clues.append(own)
                lengths[_size(ngram)].append(ngram)
                for clue in own:
                    self.not_judged.pop(clue.item, None)
        for length, known in lengths.items():
            hashes = np.sort(_hashes(known, length)[0])
            bits = np.zeros(2 ** max(10, len(known).bit_length() + 4), bool)
            bits[_highest(hashes, bits)] = True
            self.tables[length] = hashes, bits

    @property
    def form(self) -> Callable[[str], bytes]:
        """Gives the words of a text, separated by single spaces."""
        return gpt3_words if self.config.rule == "gpt3" else careful_words

    def find(self, texts: Sequence[bytes]) -> Iterator[tuple[int, int, bytes]]:
        """The known n-grams in some texts: the number of the text, the first byte, the n-gram. Hashes only propose."""
        spaces: dict[int, npt.NDArray[Any]] = {}
        for length, (known, bits) in self.tables.items():
            hashes, counts = _hashes(texts, length)
            places = np.flatnonzero(bits[_highest(hashes, bits)])
            nearest = known[np.minimum(np.searchsorted(known, hashes[places]), len(known) - 1)]
            places = places[nearest == hashes[places]]
            numbers = np.searchsorted(ends := np.cumsum(counts), places, side="right")
            for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
                if number not in spaces:
                    gaps = np.flatnonzero(np.frombuffer(texts[number], np.uint8) == ord(" "))
                    spaces[number] = np.concatenate(([-1], gaps, [len(texts[number])]))
                first = place - int(ends[number] - counts[number])
                start, end = int(spaces[number][first]) + 1, int(spaces[number][first + length])
                if texts[number][start:end] in self.known:
                    yield number, start, texts[number][start:end]


def _hashes(texts: Sequence[bytes], length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    hashes, counts = hash_shingles(np.frombuffer(b"".join(texts), np.uint8), ends, length)
    return hashes, counts


def _highest(hashes: npt.NDArray[np.uint64], bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    return hashes >> np.uint64(65 - len(bits).bit_length())
