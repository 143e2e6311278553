"""A validation part of labelled examples where none is given.

Stratified: each label has nearly its share in both parts. Examples of one group, and examples whose texts differ only
in case and white space, are never divided. Which examples are drawn follows from a hash of the seed and their texts, so
that the order of the rows does not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from neolm.core.errors import InputError, SettingError
from neolm.tables.examples import Examples
from neolm.tables.inventory import text_keys


@dataclass(frozen=True)
class _Unit:
    """Examples that stay together."""

    examples: Sequence[int]
    label: str
    """The most frequent label among them."""
    draw: bytes


def split_examples(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """The training and the validation part, each in the order of `examples`.

    A label with one unit (an example, a group, or examples with one text) is in the training part.

    Raises:
        InputError: no example can be put aside, because all belong together or each has a label of its own.
    """
    keys = [f"text {key}" for key in text_keys(examples)]
    drawn = drawn_numbers(keys, examples.groups, examples.labels, share, seed)
    if not drawn:
        raise InputError(
            f"{examples.path}: no validation part can be drawn from {len(examples):,} examples: no label has two "
            "different texts or groups; give a file of validation examples"
        )
    parts = ([n for n in range(len(examples)) if (n in drawn) == aside] for aside in (False, True))
    training, validation = (examples.select(part) for part in parts)
    return training, validation


def drawn_numbers(
    keys: Sequence[str], groups: Sequence[str] | None, labels: Sequence[str], share: float, seed: int
) -> set[int]:
    """Indices of the examples of a validation part.

    Args:
        keys: A key of each example; those with the same one are not divided.
        groups: The group of each example, also not divided.
        labels: The label of each example, of which both parts have nearly the same share.
        share: Share of the validation part, between 0 and 1.
        seed: Number from which the draw follows.
    """
    if not 0 < share < 1:
        raise SettingError("validation", f"the share {share} is not between 0 and 1")
    by_label = defaultdict(list)
    for unit in _units(keys, groups, labels, seed):
        by_label[unit.label].append(unit)
    return {number for units in by_label.values() for unit in _draw(units, share) for number in unit.examples}


def _units(keys: Sequence[str], groups: Sequence[str] | None, labels: Sequence[str], seed: int) -> list[_Unit]:
    roots = _connected(keys, groups) if groups is not None else {key: key for key in keys}
    members = defaultdict(list)
    for number, key in enumerate(keys):
        members[roots[key]].append(number)
    units = []
    for root, numbers in members.items():
        found = Counter(labels[number] for number in numbers)
        label = min(found, key=lambda name: (-found[name], name))
        data = f"{seed}\n{root}".encode("utf-8", "surrogatepass")
        units.append(_Unit(numbers, label, hashlib.blake2b(data, digest_size=16).digest()))
    return units


def _connected(keys: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """For each key the smallest key that is connected to it by groups and equal texts."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    for key, group in zip(keys, groups, strict=True):
        one, other = root(f"0{key}"), root(f"1{group}")  # so that the smallest, a root, is a key
        parents[max(one, other)] = min(one, other)
    return {key: root(f"0{key}")[1:] for key in keys}


def _draw(units: Sequence[_Unit], share: float) -> list[_Unit]:
    """Units of one label with nearly `share` of their examples; at least one of them, and never all."""
    if len(units) < 2:
        return []
    wanted = share * sum(len(unit.examples) for unit in units)
    drawn: list[_Unit] = []
    size = 0
    for unit in sorted(units, key=lambda unit: unit.draw):
        with_it = size + len(unit.examples)
        if len(drawn) < len(units) - 1 and abs(with_it - wanted) < abs(size - wanted):
            drawn.append(unit)
            size = with_it
    return drawn or [min(units, key=lambda unit: (len(unit.examples), unit.draw))]
