"""Entities and their scores: by hand, and against regular expressions over the written tags."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.metrics.entities import Scheme, entities, entity_counts

PATTERNS: dict[Scheme | None, str] = {
    None: r"[BI]-(\w) (?:I-\1 )*(?:E-\1 )?|[SE]-(\w) ",
    "IOB2": r"B-(\w) (?:I-\1 )*",
    "IOBES": r"B-(\w) (?:I-\1 )*E-\1 |S-(\w) ",
}


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "E-x", "S-x", "B-y", "I-y", "E-y"]), max_size=12))
def test_entities_are_what_the_scheme_describes(tags: list[str]) -> None:
    for strict, pattern in PATTERNS.items():
        used = [tag for tag in tags if strict != "IOB2" or tag[0] in "BIO"]
        text = "".join(f"{tag} " for tag in used)
        expected = [
            (match[1] or match[2], text[: match.start()].count(" "), text[: match.end()].count(" "))
            for match in re.finditer(pattern, text)
        ]
        assert entities(used, strict) == expected


@pytest.mark.parametrize(
    ("tags", "default", "strict"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)], [("PER", 0, 2), ("LOC", 3, 4)]),
        ("O I-PER I-PER", [("PER", 1, 3)], []),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)], [("PER", 0, 1)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)], [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER-X I-PER-X", [("PER-X", 0, 2)], [("PER-X", 0, 2)]),
        ("B I O", [("_", 0, 2)], [("_", 0, 2)]),
        ("O O", [], []),
        ("", [], []),
    ],
)
def test_default_and_strict_mode(tags: str, default: list[object], strict: list[object]) -> None:
    assert entities(tags.split()) == default
    assert entities(tags.split(), "IOB2") == strict


def test_scores_are_those_of_seqevals_documentation() -> None:
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    types, counts = entity_counts(gold, predicted)
    assert types == ["MISC", "PER"]
    assert counts.by_label().f1.tolist() == [0, 1]
    assert (counts.micro().f1, counts.macro().f1, counts.weighted().f1) == (0.5, 0.5, 0.5)
    # strict mode, from the same documentation: the predicted I-ORG does not start an entity
    gold, predicted = [["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]
    assert float(entity_counts(gold, predicted)[1].micro().f1) == 1
    assert float(entity_counts(gold, predicted, "IOB2")[1].micro().f1) == 0


def test_a_type_that_is_only_predicted_counts() -> None:
    types, counts = entity_counts([["B-a", "O"]], [["B-a", "B-b"]])
    assert types == ["a", "b"]
    assert float(counts.micro().precision) == 0.5
    assert float(counts.micro().recall) == 1
    assert float(counts.macro().f1) == 0.5


def test_equal_spans_of_different_sequences_are_different_entities() -> None:
    _, counts = entity_counts([["B-a"], ["O"]], [["O"], ["B-a"]])
    assert float(counts.micro().f1) == 0


def test_no_entities_at_all_score_zero() -> None:
    types, counts = entity_counts([["O", "O"]], [["O", "O"]])
    assert types == []
    assert [float(one.f1) for one in (counts.micro(), counts.macro(), counts.weighted())] == [0, 0, 0]
    assert np.shape(counts.by_label().f1) == (0,)


@pytest.mark.parametrize("tag", ["", "PER", "X-PER", "O-PER", "Bob", "b-PER"])
def test_other_tags_are_named(tag: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"entities: {tag!r} is not a tag; tags are O, B-TYPE")):
        entities(["O", tag])


def test_bad_sequences_are_named() -> None:
    with pytest.raises(InputError, match="'E-PER' is not a tag; tags are O, B-TYPE, I-TYPE"):
        entities(["B-PER", "E-PER"], "IOB2")
    with pytest.raises(InputError, match="there are 0 gold and 0 predicted sequences"):
        entity_counts([], [])
    with pytest.raises(InputError, match=r"sequence 1 \(counted from 0\) has 1 gold and 2 predicted tags"):
        entity_counts([["O"], ["O"]], [["O"], ["O", "O"]])
