"""Entities in sequences of B/I/O or B/I/O/E/S tags, scored as in seqeval and CoNLL's conlleval.

An entity is right if its type and both of its ends are right (Tjong Kim Sang & De Meulder 2003). By default, tags that
break the scheme still make entities, as conlleval reads them: I-PER after O starts one. In strict mode such entities
do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from neolm.core.errors import InputError, shortened
from neolm.metrics.counts import Counts

Scheme = Literal["IOB2", "IOBES"]
Entity = tuple[str, int, int]
"""Type, first token, and the token after the last one."""


def entities(tags: Sequence[str], strict: Scheme | None = None) -> list[Entity]:
    """The entities of one sequence, in order.

    Args:
        tags: A tag for each token: O, or one of B-, I-, E- and S- with a type. A tag without a type has the type "_".
        strict: Read the tags by this scheme, and leave out entities that are not complete in it: IOB2 starts each with
            B; IOBES has B I* E, or S for a single token. None: the default mode of seqeval.

    Raises:
        InputError: a tag is not of this form, or strict IOB2 meets E or S.
    """
    kinds = [_parsed(tag, "BIO" if strict == "IOB2" else "BIOES") for tag in tags]
    starts = [index for index, pair in enumerate(pairwise([("O", ""), *kinds])) if not _continues(*pair)]
    found = [(start, end) for start, end in pairwise([*starts, len(kinds)]) if kinds[start][0] != "O"]
    return [
        (kinds[start][1], start, end)
        for start, end in found
        if strict is None or _is_complete(kinds[start][0], kinds[end - 1][0], strict)
    ]


def entity_counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], strict: Scheme | None = None
) -> tuple[list[str], Counts]:
    """The types of entities, sorted, and the counts of each; `Counts.micro` is the score that papers report.

    Args:
        gold: The tags of each sequence.
        predicted: The same number of sequences of the same lengths.
        strict: As in `entities`.

    Raises:
        InputError: there are no sequences, or the lengths differ.
    """
    if not gold or len(gold) != len(predicted):
        raise InputError(f"entities: there are {len(gold)} gold and {len(predicted)} predicted sequences")
    for number, (truth, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(truth) != len(guess):
            raise InputError(
                f"entities: sequence {number} (counted from 0) has {len(truth)} gold and {len(guess)} predicted tags; "
                "a text that was cut needs O for the tokens that were not read"
            )
    truths, guesses = (set(_located(sequences, strict)) for sequences in (gold, predicted))
    sets = truths & guesses, guesses, truths
    types = sorted({entity[0] for _, entity in truths | guesses})
    counted = (np.array([sum(entity[0] == one for _, entity in group) for one in types], np.int64) for group in sets)
    return types, Counts(*counted)


def _located(sequences: Sequence[Sequence[str]], strict: Scheme | None) -> Iterator[tuple[int, Entity]]:
    """The entities with the number of their sequence."""
    return ((number, entity) for number, tags in enumerate(sequences) for entity in entities(tags, strict))


def _parsed(tag: str, prefixes: str) -> tuple[str, str]:
    """Prefix and type of a tag."""
    prefix, dash, kind = tag[:1], tag[1:2], tag[2:]
    if prefix not in prefixes or not prefix or dash not in ("", "-") or (prefix == "O" and dash):
        expected = ", ".join(f"{one}-TYPE" for one in prefixes if one != "O")
        raise InputError(f"entities: {shortened(tag)} is not a tag; tags are O, {expected}")
    return prefix, kind or "_"


def _continues(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether two neighbouring tokens are of one entity, or both of none."""
    if before[0] == "O" or now[0] == "O":
        return before[0] == now[0]
    return before[0] in "BI" and now[0] in "IE" and before[1] == now[1]


def _is_complete(first: str, last: str, scheme: Scheme) -> bool:
    """Whether an entity has the ends that the scheme asks for."""
    if scheme == "IOB2":
        return first == "B"
    return first == "S" or (first == "B" and last == "E")
