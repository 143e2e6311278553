"""What the labels of texts stand for: ids of labels, several labels at once, or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.models.label_config import Problem
from neolm.tables.examples import Examples

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Targets:
    """What the outputs of a head stand for."""

    problem: Problem
    names: tuple[str, ...]
    """Names of the outputs."""

    def tensor(self, labels: Sequence[str | Sequence[str]], source: str) -> Tensor:
        """Ids (N,), or floats (N, K) for several labels and (N,) for numbers.

        Raises:
            InputError: a label that is not one of the names, or not a number.
        """
        if self.problem == "regression":
            return torch.tensor([_number(str(label), source) for label in labels])
        ids = {name: number for number, name in enumerate(self.names)}
        unknown = {name for label in labels for name in _names(label) if name not in ids}
        if unknown:
            shown = ", ".join(map(repr, sorted(unknown)[:3]))
            raise InputError(f"{source}: labels that no training example has: {shown}")
        if self.problem == "single_label_classification":
            return torch.tensor([ids[str(label)] for label in labels])
        found = torch.zeros(len(labels), len(self.names))
        for row, label in enumerate(labels):
            found[row, [ids[name] for name in _names(label)]] = 1.0
        return found

    def known(self, examples: Examples) -> Examples:
        """The examples whose label is one of the names; others are counted and named.

        Raises:
            InputError: there is none.
        """
        if self.problem != "single_label_classification":
            return examples
        kept = [number for number, label in enumerate(examples.labels) if label in self.names]
        if len(kept) == len(examples):
            return examples
        unknown = sorted({*examples.labels} - {*self.names})
        if not kept:
            raise InputError(
                f"{examples.path}: no label is one of the training part's: there {self.names[0]!r}, here {unknown[0]!r}"
            )
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        count = len(examples) - len(kept)
        say(f"{examples.path}: {count:,} examples left out: no training example has the label {shown}")
        return replace(examples.select(kept), left_out=examples.left_out)


def label_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once: numbers by their value, other names by the alphabet."""
    unique = set(names)
    if all(_NUMBER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=float))
    return tuple(sorted(unique))


def _names(label: str | Sequence[str]) -> Sequence[str]:
    return [label] if isinstance(label, str) else label


def _number(label: str, source: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{source}: {label!r} is not a number; for labels that are names use task classification")
    return value
