"""Texts whose words have tags: entities, as in CoNLL-2003, in BIO, IOB2 or IOBES tags or as places in the raw text."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neolm.core.errors import InputError, shortened
from neolm.metrics.entities import Entity, entities
from neolm.tables.questions import Places, counted, reasons
from neolm.tables.words import Place, WordRule, splits_character, text_words


@dataclass(frozen=True)
class TaggedText:
    """A text with its words and entities."""

    text: str
    words: Sequence[Place]
    entities: Sequence[Entity] | None
    """Label, first word, and the word after the last one; None if they are not known."""
    place: str
    """Where the text is in its file, for messages."""

    @property
    def tags(self) -> list[str]:
        """The tag of each word in IOB2: B- for the first word of an entity, I- for the others, O for those in none."""
        return iob2_tags(len(self.words), self.entities or [])


def iob2_tags(words: int, found: Sequence[Entity]) -> list[str]:
    """The tag of each word in IOB2."""
    tags = ["O"] * words
    for label, first, after in found:
        tags[first:after] = [f"B-{label}", *[f"I-{label}"] * (after - first - 1)]
    return tags


@dataclass(frozen=True)
class TaggedTexts:
    """The texts of a file."""

    path: Path
    texts: Sequence[TaggedText]
    left_out: Mapping[str, Places] = field(default_factory=dict)
    """Texts that cannot be used, by reason."""
    widened: Places | None = None
    """Entities that begin or end inside a word, although each mark is a word; the whole word is taken."""
    rule: WordRule = "whole"
    """How raw texts are to be divided into words by a model that is trained on these: split if these are raw texts
    with entities, whole if their words are given."""
    repaired: Places | None = None
    """Tags that do not begin an entity as IOB2 does, such as I-PER behind O; they were read as in conlleval."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> list[TaggedText]:
        """The texts that can be scored."""
        return [text for text in self.texts if text.entities is not None]

    @property
    def labels(self) -> dict[str, int]:
        """Entities of each label, the most frequent first."""
        found = Counter(label for text in self.texts for label, _, _ in text.entities or [])
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def lines(self) -> list[str]:
        """What was read and what is wrong with it, for a person."""
        words = sum(len(text.words) for text in self.texts)
        labels = [f"{label} {count:,}" for label, count in self.labels.items()]
        line = f"{self.path}: {len(self):,} texts of {words:,} words"
        if unlabelled := len(self) - len(self.labelled):
            line += f", {unlabelled:,} of them not labelled"
        lines = [f"{line}; entities: {', '.join(labels) or 'none'}"]
        lines += reasons(self.left_out, "text")
        for places, note in (
            (self.widened, "entities with an end inside a word, of which the whole word is taken"),
            (self.repaired, "tags that cannot follow the one before them, and were read as the start of an entity"),
        ):
            if places is not None:
                lines.append(f"{note}: {places.count:,} (first: {places.first})")
        return lines


def joined_words(words: Sequence[str]) -> tuple[str, list[Place]]:
    """A text of words with a space between them, and the place of each. Raises `InputError` if there are none."""
    if not any(word.strip() for word in words):
        raise InputError("it has no words")
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), places


class TaggedList:
    """Texts as they are read from a file; those that cannot be used are counted by reason."""

    def __init__(self) -> None:
        self.texts: list[TaggedText] = []
        self.left_out: dict[str, Places] = {}
        self._notes: dict[str, Places] = {}
        self._rule: WordRule = "whole"

    def add_words(self, words: Sequence[str], tags: Sequence[str] | None, place: str) -> None:
        """Add a text of given words; the raw text has them with a space between them. Tags None: not labelled."""
        try:
            text, places = joined_words(words)
            if tags is not None and len(tags) != len(words):
                raise InputError(f"it has {len(words):,} words but {len(tags):,} tags")
            found = None if tags is None else tag_entities(tags)
        except InputError as error:
            self.leave_out(str(error), place)
            return
        self._note_repairs(tags, found, place)
        self.texts.append(TaggedText(text, places, found, place))

    def add_spans(self, text: str, spans: Sequence[tuple[int, int, str]] | None, place: str) -> None:
        """Add a raw text with start, end and label of its entities, which are characters. None: not labelled."""
        self._rule = "split"
        words = text_words(text, self._rule)
        try:
            if not words:
                raise InputError("the text is empty")
            found = None if spans is None else self._word_entities(text, words, spans, place)
        except InputError as error:
            self.leave_out(str(error), place)
            return
        self.texts.append(TaggedText(text, words, found, place))

    def leave_out(self, reason: str, place: str) -> None:
        """Count a text that cannot be used."""
        counted(self.left_out, reason, place)

    def of_file(self, path: Path) -> TaggedTexts:
        """The texts that were read. Raises `InputError` if there are none."""
        notes = self._notes
        found = TaggedTexts(path, self.texts, self.left_out, notes.get("widened"), self._rule, notes.get("repaired"))
        if not self.texts:
            why = "; ".join(found.lines()[1:]) or "it has none"
            raise InputError(f"{path}: there is no text that can be used; {why}")
        return found

    def _note_repairs(self, tags: Sequence[str] | None, found: Sequence[Entity] | None, place: str) -> None:
        for _, first, _ in found or []:
            if tags is not None and tags[first][0] in "IE":
                counted(self._notes, "repaired", place)

    def _word_entities(
        self, text: str, words: Sequence[Place], spans: Sequence[tuple[int, int, str]], place: str
    ) -> list[Entity]:
        found: list[Entity] = []
        widened = 0
        behind = 0
        for start, end, label in sorted(spans):
            first_character, after = _trimmed(text, start, end)
            if first_character < behind:
                raise InputError("two of its entities overlap")
            behind = after
            if splits_character(text, first_character) or splits_character(text, after):
                raise InputError(f"an end of the entity {shortened(text[start:end], 40)} is inside a character")
            first = bisect.bisect_right(words, first_character, key=lambda word: word[1])
            stop = bisect.bisect_left(words, after, key=lambda word: word[0])
            if first >= stop:
                raise InputError(f"the entity from {start} to {end} has no character that is seen")
            if found and first < found[-1][2]:
                raise InputError("two of its entities are in one word")
            widened += words[first][0] < first_character or words[stop - 1][1] > after
            found.append((label, first, stop))
        for _ in range(widened):
            counted(self._notes, "widened", place)
        return found


def tag_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of tags in BIO, IOB2 or IOBES, read as conlleval does.

    Raises:
        InputError: a tag is of no such scheme.
    """
    for tag in tags:
        if not isinstance(tag, str):
            raise InputError(f"the tag {shortened(tag, 30)} is not text: tags are O, B-LABEL and I-LABEL")
        if tag != "O" and (tag[:2] not in ("B-", "I-", "E-", "S-") or not tag[2:].strip()):
            raise InputError(f"{shortened(tag, 30)} is no tag of BIO, IOB2 or IOBES: tags are O, B-LABEL and I-LABEL")
    return entities(tags)


def _trimmed(text: str, start: int, end: int) -> Place:
    """A span without white space at its ends. Raises `InputError` if nothing is left, or it is not in the text."""
    if not 0 <= start < end <= len(text):
        raise InputError(f"the entity from {start} to {end} is not in the text, which has {len(text):,} characters")
    inside = text[start:end]
    if not inside.strip():
        raise InputError(f"the entity from {start} to {end} is white space")
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
