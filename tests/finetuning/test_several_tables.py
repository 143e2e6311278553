"""One training from several labelled tables, each with its own columns and its own labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_encoders import LETTERS
from topic_tables import QUICK, write_csv

from neolm.finetuning.config import FinetuneConfig

Command = Callable[..., tuple[int, str, str]]
PROBE = (*QUICK, "finetune.method=probe", "finetune.tfidf=false")
COAST = {"path": "a/train.csv", "text_column": "1", "label_column": "2", "labels": {"1": "coast", "0": "time"}}
TIME = {"path": "b/train.tsv", "text_column": "tweet", "label_column": "class", "group_column": "author"}
TIME["labels"] = {"SEA": "coast", "DAY": "time", "?": None}
PLAIN = {"path": "c.jsonl"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tables: without a header, with names of its own and a group, and with the labels that are trained on."""
    place = tmp_path / "tables"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
    rows = [(f"the sea {letter}", 1) for letter in LETTERS[:20]] + [(f"the day {letter}", 0) for letter in LETTERS[:20]]
    write_csv(place / "a" / "train.csv", rows[0], rows[1:])
    lines = ["author\tclass\ttweet"]
    lines += [f"{n // 4}\tSEA\tcold {letter} water" for n, letter in enumerate(LETTERS[:12])]
    lines += [f"{n // 4}\tDAY\tcold {letter} clock" for n, letter in enumerate(LETTERS[:12], start=12)]
    lines += ["x\t?\tcold", "x\tSEA\t", "y\tSEA\tthe sea a", "y\tDAY\tthe sea b"]
    (place / "b" / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    objects = [{"text": f"in {letter} the clock", "label": "time"} for letter in LETTERS[:8]]
    (place / "c.jsonl").write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    return place


def recipe(path: Path, base: Path, folder: Path, tables: Any, **finetune: Any) -> Path:
    section = {"task": "classification", "train": str(folder), "tables": tables, **finetune}
    path.write_text(yaml.safe_dump({"base": str(base), "output": str(path.with_suffix("")), "finetune": section}))
    return path


def test_one_classifier_from_three_tables(base: Path, folder: Path, tmp_path: Path, neolm_: Command) -> None:
    path = recipe(tmp_path / "run.yaml", base, folder, [COAST, TIME, PLAIN])
    code, _, said = neolm_("run", path, *PROBE)
    assert code == 0, said
    assert f"{folder / 'a/train.csv'}: 40 examples; '0' (20) is 'time', '1' (20) is 'coast'" in said
    assert f"{folder / 'b/train.tsv'}: 26 examples; '?' (1) is left out, 'DAY' (13) is 'time', 'SEA' (13)" in said
    assert "8 examples; 'time' (8) is 'time'" in said
    assert f"{folder}: 74 examples, 2 labels: 'time' (41), 'coast' (33)" in said
    assert "1 row left out: the label '?' is mapped to null (first: line b/train.tsv:26)" in said
    assert "earlier text and its label: 1 (first: line b/train.tsv:28 that of line a/train.csv:1)" in said
    assert "earlier text with another label: 1 (first: line b/train.tsv:29 that of line a/train.csv:2)" in said
    output = tmp_path / "run"
    found = json.loads((output / "finetune" / "results.json").read_text())
    assert found["names"] == ["coast", "time"]
    assert [table["path"] for table in found["inventory"]["tables"]] == ["a/train.csv", "b/train.tsv", "c.jsonl"]
    assert found["inventory"]["train"]["examples"] == 74
    manifest = json.loads((output / "finetune" / "manifest.json").read_text())
    assert sum(manifest["counts"]["examples"].values()) == 74
    assert {*manifest["inputs"]} == {"base", "train", "train 2", "train 3"}
    card = (output / "model" / "README.md").read_text()
    for part in (
        "| training | `train.tsv` |",
        "- `b/train.tsv`: ? (1) is left out, DAY (13) is time, SEA (13) is coast",
    ):
        assert part in card
    page = (output / "report.html").read_text()
    assert "? (1) is left out, DAY (13) is time, SEA (13) is coast" in page
    code, _, said = neolm_("run", path, *PROBE)
    assert "finetune: up to date" in said
    moved = folder.rename(tmp_path / "moved")
    code, _, said = neolm_("run", path, *PROBE, f"finetune.train={moved}")
    assert (code, "finetune: up to date" in said) == (0, True)
    (moved / "b" / "train.tsv").write_text("author\tclass\ttweet\n1\tSEA\tnew\n")
    code, _, said = neolm_("run", path, *PROBE, f"finetune.train={moved}")
    assert (code, "train 2 changed" in said) == (2, True)


def test_groups_are_not_divided_and_texts_of_two_tables_stay_together(
    base: Path, folder: Path, tmp_path: Path, neolm_: Command
) -> None:
    path = recipe(tmp_path / "run.yaml", base, folder, [COAST, TIME], validation_share=0.4)
    assert neolm_("run", path, *PROBE)[0] == 0
    from neolm.finetuning.finetune_data import read_data

    config = FinetuneConfig(task="classification", train=str(folder), tables=(COAST, TIME), validation_share=0.4)
    data = read_data(config, 1)
    assert data.training.groups is not None
    assert data.validation.groups is not None
    assert not {*data.training.groups} & {*data.validation.groups}
    assert not {*data.training.texts} & {*data.validation.texts}
    assert {"1 group 0", "1 group 3"} & {*data.training.groups, *data.validation.groups}


def test_a_validation_table_has_the_labels_that_are_trained_on(
    base: Path, folder: Path, tmp_path: Path, neolm_: Command
) -> None:
    rows = [("the sea a", "coast"), ("the water", "coast"), ("the clock", "time")]
    given = write_csv(tmp_path / "v.csv", ("comment", "label"), rows)
    path = recipe(tmp_path / "r.yaml", base, folder, [COAST, TIME], validation=str(given), text_column="comment")
    code, _, said = neolm_("run", path, *PROBE)
    assert code == 0, said
    assert f"line 2 is line b/train.tsv:28 of {folder}" in said
    assert "1 of 3 texts are also in the training part" in said


def changed(table: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**table, **fields}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([COAST, changed(TIME, path="b/no.tsv")], "finetune.tables.1: {}/b/no.tsv: there is no such file"),
        ([changed(TIME, text_column="twet")], "finetune.tables.0: {}/b/train.tsv: there is no column 'twet'"),
        ([changed(TIME, label_column="kind")], "there is no column 'kind'; the columns are author, class, tweet"),
        ([changed(TIME, group_column="who")], "there is no column 'who'"),
        (
            [COAST, changed(TIME, labels={"SEA": "coast"})],
            "finetune.tables.1.labels: {}/b/train.tsv: labels that are not mapped: 'DAY' (13), '?' (1); give each the "
            "label that is trained on, or null to leave its examples out",
        ),
        ([changed(COAST, labels={"1": "a", "0": "b", "2": "c"})], "no example has the label '2', only '1', '0'"),
        ([changed(COAST, labels={"1": None, "0": None})], "finetune.tables.0.labels: {}/a/train.csv: every label is"),
        ([changed(COAST, labels={"1": "a", "0": "a"})], "every training example has the label 'a'"),
        ([changed(COAST, labels={})], "finetune.tables.0.labels: must have at least 1 item"),
        ([changed(COAST, labels={"1": 1, "0": "b"})], "finetune.tables.0.labels.1: must be text, not 1; write it in"),
        ([changed(COAST, mapping={"1": "a"})], "finetune.tables.0.mapping: unknown key"),
        ([{"labels": {"1": "a"}}], "finetune.tables.0.path: this key must be given"),
    ],
)
def test_mistakes(base: Path, folder: Path, tmp_path: Path, neolm_: Command, tables: Any, message: str) -> None:
    code, _, err = neolm_("run", recipe(tmp_path / "run.yaml", base, folder, tables), *PROBE)
    assert code == 2, err
    assert message.format(folder) in err.splitlines()[-1]
    assert not (tmp_path / "run" / "finetune").exists()


def test_only_texts_with_one_label_and_settings_without_effect(
    base: Path, folder: Path, tmp_path: Path, neolm_: Command
) -> None:
    for fields in ({"task": "regression"}, {"label_column": ["one", "two"]}):
        code, _, err = neolm_("run", recipe(tmp_path / "run.yaml", base, folder, [COAST], **fields), *PROBE)
        assert (code, "several tables are for task classification with one label" in err) == (2, True)
    path = recipe(tmp_path / "said.yaml", base, folder, [COAST], text_column="x", group_column="y")
    _, _, said = neolm_("run", path, *PROBE)
    for name in ("text_column", "group_column"):
        assert f"finetune.{name} has no effect here, because each of the tables has its own columns" in said
