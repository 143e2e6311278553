"""The study of the ALBERT paper's claims, end to end at a tiny size, and its page."""

import json
from pathlib import Path
from typing import Any

import pytest
from encoder_runs import encoder_recipe, wordpiece_vocabulary
from html_page import Page

import neolm
from neolm.core.errors import InputError, NeoLMError
from neolm.core.manifest import read_manifest
from neolm.models.encoder import Encoder
from neolm.recipe import load_recipe
from neolm.report.albert_claims import CLAIMS, TABLES
from neolm.report.albert_page import albert_page, measured
from neolm.report.study_cells import CellRun, loss_at, read_cells
from neolm.report.training_run import TrainingRun
from neolm.study_config import cell_directory

CELLS: dict[str, dict[str, Any]] = {
    "albert": {},
    "bert": {"model": {"family": "bert", "embedding_size": None}},
    "task-none": {"pretrain.segments.task": "none"},
    "dropout": {"pretrain.learning_rate": 1e30},  # it diverges
}


def recipe(output: Path, texts: Path, vocabulary: Path, cells: dict[str, Any]) -> dict[str, Any]:
    made = encoder_recipe(output, texts, vocabulary, "albert", steps=4, warmup_steps=2, validate_every=2)
    made["corpus"]["validation_fraction"] = 0.2
    return made | {"study": {"report": "albert", "seeds": [1, 2], "cells": cells}}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    return wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, text_folder: Path, vocabulary: Path) -> Path:
    output = tmp_path_factory.mktemp("study") / "out"
    with pytest.raises(NeoLMError, match="2 of 8 cells failed, 6 are finished: dropout, seed 1"):
        neolm.run(recipe(output, text_folder, vocabulary, CELLS))
    return output


def test_the_cells_are_measured_on_the_same_text(study: Path) -> None:
    counts = {}
    for name in ("albert", "bert", "task-none"):
        for seed in (1, 2):
            place = study / cell_directory(name, seed)
            manifest = read_manifest(place / "heldout")
            model = neolm.load_model(place)
            assert manifest is not None
            assert isinstance(model, Encoder)
            assert (model.sentence_head is None) == (name == "task-none") == ("sop_accuracy" not in manifest.counts)
            counts[name, seed] = manifest.counts
            scores = json.loads((place / "heldout" / "scores.json").read_text())
            assert scores["masked_loss"]["value"] == manifest.counts["masked_loss"]["value"]
    assert counts["bert", 1]["training_bytes"] == counts["bert", 2]["training_bytes"]
    assert counts["bert", 1]["training_bytes"] > counts["albert", 1]["training_bytes"]
    assert counts["bert", 1]["masked_loss"] != counts["bert", 2]["masked_loss"]


def test_the_page_shows_every_cell_and_every_claim(study: Path) -> None:
    page = Page((study / "report.html").read_text(encoding="utf-8"))
    page.assert_self_contained()
    text = " ".join(page.text.split())
    for name in CELLS:
        assert name in text
    assert "6 of 8" in text
    assert "2 failed" in text
    assert "seed 1: failed: step 2: the loss or its gradient is not finite" in text
    for claim in CLAIMS:
        assert claim.words in text
    assert text.count("not measured") >= sum("task-nsp" in (claim.more, claim.less) for claim in CLAIMS)
    for table in TABLES:
        assert f"Table {table.number}: {table.title}" in text
    assert "Table 7" in text
    sizes = [neolm.load_model(study / cell_directory(name, 1)).parameter_count() for name in ("bert", "albert")]
    row = text[text.index(CLAIMS[0].words) :][:200]
    assert f"table 2 {sizes[0] / sizes[1]:.2f}\u00d7parameters holds" in row
    assert "have learnt little more than how frequent tokens are" in text


def test_a_finished_study_is_not_measured_again(
    study: Path, text_folder: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = {name: CELLS[name] for name in ("albert", "bert", "task-none")}
    neolm.run(recipe(study, text_folder, vocabulary, finished))
    assert capsys.readouterr().err.count("heldout: up to date") == 6


def test_a_study_of_decoders_has_no_such_page(tmp_path: Path, text_folder: Path, vocabulary: Path) -> None:
    other = {"gpt": {"model": {"family": "gpt2", "embedding_size": None}, "pretrain.segments.task": "none"}}
    with pytest.raises(InputError, match=r"^study\.cells\.gpt: tokenizer: gpt2 is a decoder; a WordPiece tokenizer"):
        neolm.run(recipe(tmp_path / "out", text_folder, vocabulary, {"albert": {}, **other}))
    decoders = recipe(tmp_path / "out", text_folder, vocabulary, other)
    decoders["tokenizer"] = {"vocab_size": 300}
    with pytest.raises(InputError, match="albert is about encoders, and the cell gpt is a gpt2"):
        neolm.run(decoders)
    assert not (tmp_path / "out" / "cells").exists()


def made_cell(name: str, seed: int, losses: list[float], speed: float, **values: float) -> CellRun:
    rows: list[dict[str, Any]] = []
    for number, loss in enumerate(losses, 1):
        rows.append({"step": 10 * number, "loss": loss, "tokens": 1000 * number, "tokens_per_second": speed})
        rows.append({"step": 10 * number, "validation_loss": loss + 1, "validation_masked_tokens_loss": loss})
    training = TrainingRun(name, Path(name), {}, rows, None, {})
    usual = {
        "unigram_entropy": 7.0,
        "masked_gain": 7.0 - losses[-1],
        "seconds": 1000 * len(losses) / speed,
        "tokens": 1000.0 * len(losses),
    }
    return CellRun(name, seed, training, {"masked_loss": losses[-1], "speed": speed, **usual, **values}, {})


def test_the_same_time_is_that_of_the_quicker_training() -> None:
    cells = []
    for seed in (1, 2, 3):
        cells.append(made_cell("bert", seed, [6.0, 5.0, 4.0 + seed / 100], 1000))  # three seconds
        cells.append(made_cell("albert-wide-short", seed, [5.5, 3.5], 800))  # two and a half
    times = measured(cells)
    # BERT's loss after 2.5 s, in the middle of its second and third validation
    assert times["bert"]["equal_time_loss"] == pytest.approx({seed: 4.5 + seed / 200 for seed in (1, 2, 3)})
    assert times["albert-wide-short"]["equal_time_loss"] == pytest.approx(dict.fromkeys((1, 2, 3), 3.5))
    page = albert_page(cells, "made", {"bert": "", "albert-wide-short": "", "albert": "waiting"})
    text = " ".join(Page(page).text.split())
    assert (
        "After the same training time, the wider ALBERT is better than BERT 88.7 (32 h) and 87.2 (34 h)table 6" in text
    )
    row = text.split("table 6 ")[1]
    assert row.startswith("-1.010 (-1.022 to -0.998)masked loss after the same time, 3 seeds holds")
    assert "1 holds at this size" in text


def test_the_loss_at_a_time() -> None:
    curve = [(1.0, 5.0), (3.0, 4.0)]
    assert [loss_at(curve, place) for place in (0.5, 1, 2, 3, 9)] == [None, 5.0, 4.5, 4.0, 4.0]


def test_directories_in_any_state_are_read(tmp_path: Path) -> None:
    (tmp_path / "broken" / "pretrain").mkdir(parents=True)
    (tmp_path / "broken" / "pretrain" / "metrics.jsonl").write_text("not JSON\n")
    (tmp_path / "broken" / "failure.json").write_text('{"reason": "out of memory"}')
    cells = read_cells([("missing", 1, tmp_path / "missing"), ("broken", 1, tmp_path / "broken")])
    assert [cell.state for cell in cells] == ["not started", "failed: out of memory"]
    text = Page(albert_page(cells, "any", {"missing": "", "broken": "<b>&"})).text
    assert "<b>&" in text
    assert "21 are not measured yet" in " ".join(text.split())


def test_the_builtin_recipe_has_a_cell_for_every_claim_and_row() -> None:
    study = load_recipe("reproduce-albert").study
    assert study is not None
    sides = [side for claim in CLAIMS for side in (claim.more, claim.less) if isinstance(side, str)]
    rows = [row[0] for table in TABLES for row in table.rows]
    assert set(study.cells) == {*sides, *rows}
    assert study.report == "albert"
    assert len(study.seeds) == 3


def test_the_claims_are_true_of_the_papers_own_figures() -> None:
    """Each claim says something about the paper; where it has figures of both sides, the better one comes first."""
    for claim in CLAIMS:
        figures = [float(word.strip("%()hM\u00d7,:")) for word in claim.paper.split() if word[0].isdigit()]
        if " and " in claim.paper and claim.measure.key in ("masked_loss", "equal_time_loss"):
            first, second = [figure for figure in figures if figure > 50][:2]
            costs = "costs" in claim.words and "nothing" not in claim.words
            assert (first < second) == costs, claim.words
            # of the two cells, the one with the lower loss has the higher score
            assert claim.turned != costs, claim.words
