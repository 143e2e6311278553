"""Labelled examples, their inventory, and a validation part that is fair."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.tables.examples import Examples, LeftOut, label_name, read_examples
from neolm.tables.inventory import Repeated, find_leakage, take_inventory, text_keys
from neolm.tables.split import split_examples
from neolm.tables.table import open_table


def table_of(folder: Path, content: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(content)
    return folder / name


def made(texts: list[str], labels: list[str], groups: list[str] | None = None) -> Examples:
    return Examples(Path("made.csv"), texts, labels, list(range(1, len(texts) + 1)), groups=groups)


def test_rows_without_an_example_are_counted_by_reason(tmp_path: Path) -> None:
    rows = ["good boat,1", "  ,1", "bad boat,", "old boat,NULL", "grey boat,0", "short", "last boat,nan"]
    examples = read_examples(open_table(table_of(tmp_path, "\n".join(["text,label", *rows]))), "text", "label")
    assert (examples.texts, examples.labels, examples.lines) == (["good boat", "grey boat"], ["1", "0"], [2, 6])
    assert examples.left_out == {
        "the text is empty": LeftOut(1, 3),
        "there is no label": LeftOut(3, 4),
        "it has 1 cell instead of 2": LeftOut(1, 7),
    }
    assert "3 rows left out: there is no label (first: line 4)" in take_inventory(examples).lines()


def test_pairs_and_groups_are_read(tmp_path: Path) -> None:
    content = "a,b,label,who\nx,y,1,ann\nx,,1,ann\nx,z,0,\n"
    examples = read_examples(open_table(table_of(tmp_path, content)), "a", "label", second="b", group="who")
    assert list(examples.inputs()) == [("x", "y"), ("x", "z")]
    assert examples.groups == ["group ann", "line 4"]
    with pytest.raises(InputError, match=r"there is no column 'wh'; .* did you mean 'who'"):
        read_examples(open_table(tmp_path / "a.csv"), "a", "label", group="wh")


def test_a_table_without_an_example_is_one_line(tmp_path: Path) -> None:
    table = open_table(table_of(tmp_path, "text,label\nx,\ny,\n"))
    with pytest.raises(InputError, match="no row is an example; 2 rows left out: there is no label"):
        read_examples(table, "text", "label")
    with pytest.raises(InputError, match="no row is an example; it has no rows"):
        read_examples(open_table(table_of(tmp_path, "text,label\n")), "text", "label")


@pytest.mark.parametrize(
    ("value", "name"),
    [(1, "1"), (1.0, "1"), ("1.0", "1"), ("1", "1"), (-2.0, "-2"), (0.5, "0.5"), ("0.50", "0.50"), (True, "true"),
     ("1.0.0", "1.0.0"), ("a ", "a "), ("none", "none")],
)  # fmt: skip
def test_labels_are_names(value: object, name: str) -> None:
    assert label_name(value) == name


@pytest.mark.parametrize("value", [None, "", " ", "NaN", "NULL", float("nan")])
def test_missing_labels_are_no_names(value: object) -> None:
    with pytest.raises(InputError, match="there is no label"):
        label_name(value)


def test_nested_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"the label is not a name \(list\)"):
        label_name(["a"])


def test_an_inventory_counts_what_is_wrong(tmp_path: Path) -> None:
    rows = ["a boat,good", "a boat,good", "a boat,bad", "A boat,good", "two boats,Good", "rain,good ", "a b c d,bad"]
    path = table_of(tmp_path, "\n".join(["text,label", *rows]))
    inventory = take_inventory(read_examples(open_table(path), "text", "label"))
    assert inventory.labels == {"good": 3, "bad": 2, "Good": 1, "good ": 1}
    assert inventory.imbalance == 3
    assert inventory.similar_labels == [["good", "Good", "good "]]
    assert inventory.duplicates == Repeated(1, 3, 2)
    assert inventory.conflicts == Repeated(1, 4, 2)
    assert (inventory.words.median, inventory.words.high, inventory.words.longest) == (2, 4, 4)
    assert (inventory.characters.longest, inventory.characters.longest_line) == (9, 6)
    lines = inventory.lines()
    assert "labels that differ only in case or white space: 'good' (3), 'Good' (1), 'good ' (1)" in lines
    assert "examples that repeat an earlier text with another label: 1 (first: line 4 that of line 2)" in lines
    assert json.loads(json.dumps(inventory.as_json()))["conflicts"] == {"count": 1, "first_line": 4, "first_of": 2}


def test_one_label_and_rewritten_labels_are_said() -> None:
    assert "only one label, '1' (2)" in take_inventory(made(["a", "b"], ["1", "1"])).lines()[0]


def test_labels_written_as_decimals_are_said(tmp_path: Path) -> None:
    path = table_of(tmp_path, "text,label\na b,1.0\nb c,0\n")
    examples = read_examples(open_table(path), "text", "label")
    assert "labels such as 1.0, read as 1: 1" in take_inventory(examples).lines()


def test_leakage_and_unknown_labels_are_named() -> None:
    training = made(["One boat", "two", "three"], ["a", "b", "c"])
    leakage = find_leakage(training, made(["four", " one  BOAT", "five"], ["a", "b", "new"]))
    assert leakage.shared == Repeated(1, 2, 1)
    assert (leakage.unknown_labels, leakage.untested_labels) == ({"new": 1}, ["c"])
    assert "1 of 3 texts are also in the training part (first: line 2 is line 1 of made.csv)" in leakage.lines()[0]
    assert len(leakage.lines()) == 3
    assert json.dumps(leakage.as_json())
    assert find_leakage(training, made(["x", "y", "z"], ["a", "b", "c"])).lines() == []


def test_the_inventory_of_public_data(shared_data: Path) -> None:
    training, test = (
        read_examples(open_table(shared_data / f"banking77/{part}.csv.zst"), "text", "category")
        for part in ("train", "test")
    )
    inventory = take_inventory(training)
    assert (inventory.examples, len(inventory.labels), inventory.labels["contactless_not_working"]) == (10_003, 77, 35)
    leakage = find_leakage(training, test)
    assert leakage.shared is not None
    assert leakage.shared.count == 7
    jigsaw = take_inventory(read_examples(open_table(shared_data / "jigsaw_balanced/test.csv.zst"), "1", "2"))
    assert dict(jigsaw.labels) == {"0": 6_090, "1": 6_090}


# --- splits ---------------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["boat", "Boat ", "river", "rain", "stones", "light", "bread", "old men", "OLD  men", "town"])
MADE = st.lists(
    st.tuples(TEXTS, st.sampled_from("abc"), st.sampled_from(["g1", "g2", "g3", "g4", "g5", "g6"])),
    min_size=2,
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(MADE, st.floats(0.05, 0.6), st.integers(0, 5), st.booleans(), st.randoms(use_true_random=False))
def test_a_split_divides_no_text_and_no_group_and_ignores_the_order(
    rows: list[tuple[str, str, str]], share: float, seed: int, grouped: bool, shuffler: random.Random
) -> None:
    def split(given: list[tuple[str, str, str]]) -> tuple[Examples, Examples]:
        texts, labels, groups = (list(column) for column in zip(*given, strict=True))
        return split_examples(made(texts, labels, groups if grouped else None), share, seed)

    try:
        training, validation = split(rows)
    except InputError:
        training = validation = None
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    if training is None or validation is None:
        with pytest.raises(InputError, match="no validation part can be drawn"):
            split(shuffled)
        return
    assert len(training) + len(validation) == len(rows)
    assert training.lines == sorted(training.lines)
    assert not set(text_keys(training)) & set(text_keys(validation))
    if grouped:
        assert not set(training.groups or []) & set(validation.groups or [])
    again = split(shuffled)[1]
    assert sorted(zip(again.texts, again.labels, strict=True)) == sorted(
        zip(validation.texts, validation.labels, strict=True)
    )


def test_a_split_is_stratified_and_follows_the_seed() -> None:
    texts = [f"text {n}" for n in range(1110)]
    labels = ["often"] * 1000 + ["seldom"] * 100 + ["rare"] * 8 + ["two", "two"]
    examples = made(texts, labels)
    training, validation = split_examples(examples, 0.1, 0)
    assert {name: validation.labels.count(name) for name in set(labels)} == {
        "often": 100, "seldom": 10, "rare": 1, "two": 1
    }  # fmt: skip
    assert split_examples(examples, 0.1, 0) == (training, validation)
    assert split_examples(examples, 0.1, 1)[1].texts != validation.texts
    more = split_examples(made([*texts, "new 1"], [*labels, "often"]), 0.1, 0)[1]
    assert len(set(more.texts) ^ set(validation.texts)) <= 2  # a new row moves hardly any


def test_a_split_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(InputError, match="no validation part can be drawn from 2 examples"):
        split_examples(made(["a", "b"], ["x", "y"]), 0.1, 0)
    with pytest.raises(InputError, match="validation: the share 1 is not between 0 and 1"):
        split_examples(made(["a", "b"], ["x", "x"]), 1, 0)
