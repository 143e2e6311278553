"""An inventory of labelled examples, taken before anything is trained: what is there, and what is wrong with it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neolm.tables.examples import Examples, LeftOut, Line, describe

SHOWN = 6  # labels and names that a line lists


@dataclass(frozen=True)
class Lengths:
    """The lengths of texts; both texts of a pair count together."""

    median: int
    high: int
    """95% of the texts are at most this long."""
    longest: int
    longest_line: Line


@dataclass(frozen=True)
class Repeated:
    """Examples that have the text of an earlier one, which is on the line `first_of`."""

    count: int
    first_line: Line
    first_of: Line


@dataclass(frozen=True)
class Inventory:
    """What the examples of one file are."""

    path: str
    examples: int
    labels: Mapping[str, int]
    """Examples of each label, the most frequent first."""
    left_out: Mapping[str, LeftOut]
    shortened_labels: int
    similar_labels: Sequence[Sequence[str]]
    """Names that differ only in case or white space."""
    duplicates: Repeated | None
    """Examples with the text and the label of an earlier one."""
    conflicts: Repeated | None
    """Examples with the text of an earlier one and another label."""
    words: Lengths
    characters: Lengths

    @property
    def imbalance(self) -> float:
        """Examples of the most frequent label for one of the rarest."""
        return max(self.labels.values()) / min(self.labels.values())

    def lines(self) -> list[str]:
        """The inventory for a terminal."""
        lines = [f"{self.path}: {self.examples:,} examples, {_labels(self.labels)}"]
        if len(self.labels) > 1 and self.imbalance >= 2:
            lines.append(f"the most frequent label has {self.imbalance:,.1f} times as many examples as the rarest")
        lines += describe(self.left_out)
        if self.shortened_labels:
            lines.append(f"labels such as 1.0, read as 1: {self.shortened_labels:,}")
        for names in self.similar_labels:
            shown = ", ".join(f"{name!r} ({self.labels[name]:,})" for name in names)
            lines.append(f"labels that differ only in case or white space: {shown}")
        if self.duplicates:
            lines.append(_repeated(self.duplicates, "examples that repeat an earlier text and its label"))
        if self.conflicts:
            lines.append(_repeated(self.conflicts, "examples that repeat an earlier text with another label"))
        for unit, lengths in (("words", self.words), ("characters", self.characters)):
            most = f"{lengths.longest:,} (line {lengths.longest_line})"
            lines.append(f"{unit}: median {lengths.median:,}, 95% at most {lengths.high:,}, longest {most}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The inventory for a report."""
        return {**asdict(self), "imbalance": self.imbalance}


@dataclass(frozen=True)
class Leakage:
    """What a validation part has in common with the training part, and what it has not."""

    training: str
    validation: str
    examples: int
    """Examples of the validation part."""
    shared: Repeated | None
    """Those whose text is in the training part, up to case and white space; `first_of` is a line of the latter."""
    unknown_labels: Mapping[str, int]
    """Labels that no example of the training part has, with their numbers of examples."""
    untested_labels: Sequence[str]
    """Labels that no example of the validation part has."""

    def lines(self) -> list[str]:
        """What is wrong, for a terminal; nothing if all is well."""
        lines = []
        if self.shared:
            places = f"line {self.shared.first_line} is line {self.shared.first_of} of {self.training}"
            lines.append(
                f"{self.validation}: {self.shared.count:,} of {self.examples:,} texts are also in the training part "
                f"(first: {places}); scores will be too good"
            )
        if self.unknown_labels:
            names = _shown([f"{name!r} ({count:,})" for name, count in self.unknown_labels.items()])
            lines.append(f"{self.validation}: labels that the training part does not have: {names}")
        if self.untested_labels:
            names = _shown([repr(name) for name in self.untested_labels])
            lines.append(f"{self.validation}: labels without an example: {names}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same for a report."""
        return asdict(self)


def take_inventory(examples: Examples) -> Inventory:
    """Count labels, lengths, duplicates and conflicts. `examples` has at least one."""
    labels = dict(sorted(Counter(examples.labels).items(), key=lambda item: (-item[1], item[0])))
    similar = defaultdict(list)
    for name in labels:
        similar[normalised(name)].append(name)
    duplicates, conflicts = _repetitions(examples)
    texts = [" ".join(both) for both in examples.inputs()]
    return Inventory(
        str(examples.path),
        len(examples),
        labels,
        examples.left_out,
        examples.shortened_labels,
        [names for names in similar.values() if len(names) > 1],
        duplicates,
        conflicts,
        _lengths([len(text.split()) for text in texts], examples.lines),
        _lengths([len(text) for text in texts], examples.lines),
    )


def find_leakage(training: Examples, validation: Examples) -> Leakage:
    """Compare the two parts."""
    known = dict(zip(text_keys(training), training.lines, strict=True))
    shared = None
    for key, line in zip(text_keys(validation), validation.lines, strict=True):
        if key in known:
            shared = _once_more(shared, line, known[key])
    trained, tested = set(training.labels), Counter(validation.labels)
    unknown = {name: count for name, count in tested.most_common() if name not in trained}
    untested = sorted(trained - set(tested))
    return Leakage(str(training.path), str(validation.path), len(validation), shared, unknown, untested)


def normalised(text: str) -> str:
    """`text` without differences in case and white space."""
    return " ".join(text.split()).casefold()


def text_keys(examples: Examples) -> list[str]:
    """What is equal for texts, or pairs of texts, that differ only in case and white space."""
    return ["\n".join(map(normalised, texts)) for texts in examples.inputs()]


def _repetitions(examples: Examples) -> tuple[Repeated | None, Repeated | None]:
    """Exact repetitions: examples with the label of the first example of their text, and with another."""
    first: dict[tuple[str, ...], tuple[str, Line]] = {}
    duplicates = conflicts = None
    for text, label, line in zip(examples.inputs(), examples.labels, examples.lines, strict=True):
        if text not in first:
            first[text] = label, line
        elif first[text][0] == label:
            duplicates = _once_more(duplicates, line, first[text][1])
        else:
            conflicts = _once_more(conflicts, line, first[text][1])
    return duplicates, conflicts


def _once_more(before: Repeated | None, line: Line, of: Line) -> Repeated:
    return Repeated(1, line, of) if before is None else Repeated(before.count + 1, before.first_line, before.first_of)


def _repeated(found: Repeated, what: str) -> str:
    return f"{what}: {found.count:,} (first: line {found.first_line} that of line {found.first_of})"


def _lengths(lengths: Sequence[int], lines: Sequence[Line]) -> Lengths:
    ordered = sorted(lengths)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    high = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return Lengths(ordered[(len(ordered) - 1) // 2], high, lengths[longest], lines[longest])


def _labels(labels: Mapping[str, int]) -> str:
    counts = [f"{name!r} ({count:,})" for name, count in labels.items()]
    return f"only one label, {counts[0]}" if len(counts) == 1 else f"{len(counts)} labels: {_shown(counts)}"


def _shown(names: Sequence[str]) -> str:
    """The first names and the last."""
    return ", ".join(names if len(names) <= SHOWN + 1 else [*names[:SHOWN], "...", names[-1]])
