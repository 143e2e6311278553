"""Several labelled tables as one: each with a mapping from its labels to those that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from neolm.core.errors import InputError
from neolm.tables.examples import Examples, LeftOut, leave_out


def relabelled(examples: Examples, labels: Mapping[str, str | None]) -> Examples:
    """The examples with other labels; those whose label is mapped to None are left out and counted.

    Raises:
        InputError: a label is not mapped, a mapped one does not occur, or no example is kept.
    """
    counts = Counter(examples.labels)
    if missing := [f"{name!r} ({count:,})" for name, count in counts.most_common() if name not in labels]:
        advice = "give each the label that is trained on, or null to leave its examples out"
        raise InputError(f"{examples.path}: labels that are not mapped: {', '.join(missing[:10])}; {advice}")
    if unknown := [name for name in labels if name not in counts]:
        raise InputError(
            f"{examples.path}: no example has the label {unknown[0]!r}, only {', '.join(map(repr, counts))}"
        )
    left_out = dict(examples.left_out)
    kept = [number for number, name in enumerate(examples.labels) if labels[name] is not None]
    for line, name in zip(examples.lines, examples.labels, strict=True):
        if labels[name] is None:
            leave_out(left_out, f"the label {name!r} is mapped to null", line)
    if not kept:
        raise InputError(f"{examples.path}: every label is mapped to null")
    found = examples.select(kept)
    names = [str(labels[name]) for name in found.labels]
    return replace(found, labels=names, left_out=left_out, shortened_labels=examples.shortened_labels)


def joined(folder: Path, parts: Sequence[tuple[str, Examples]]) -> Examples:
    """The examples of several tables, by name, one after the other. The line of each is `NAME:LINE`.

    Groups of different tables are different. Each text has one label.
    """
    left_out: dict[str, LeftOut] = {}
    for name, part in parts:
        for reason, rows in part.left_out.items():
            before = left_out.get(reason, LeftOut(0, f"{name}:{rows.first_line}"))
            left_out[reason] = replace(before, count=before.count + rows.count)
    groups = [
        f"{number} {group}"
        for number, (_, part) in enumerate(parts)
        for group in part.groups or [f"line {line}" for line in part.lines]
    ]
    return Examples(
        folder,
        [text for _, part in parts for text in part.texts],
        [label for _, part in parts for label in part.labels],
        [f"{name}:{line}" for name, part in parts for line in part.lines],
        groups=groups if any(part.groups for _, part in parts) else None,
        left_out=left_out,
        shortened_labels=sum(part.shortened_labels for _, part in parts),
    )
