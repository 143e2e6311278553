"""The quality classifier: its minimum, its draws, the command that trains it, and a corpus that uses it."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from neolm.core.files import read_json
from neolm.corpus.quality import PLACES, Features, fit, keeps, quality_scores

Run = Callable[..., tuple[int, str, str]]
GOOD = "the river rose in the night and people of the town went up to an old church on a hill before winter"
BAD = "buy cheap click here free offer win login now best price casino pills order sale deal shop cart"


def document(words: str, others: str, seed: int, own: float = 0.8) -> str:
    """Sixty words, most of them of one list."""
    draw = random.Random(seed)
    return (
        " ".join(draw.choice((words if draw.random() < own else others).split()) for _ in range(60)).capitalize() + "."
    )


def write(path: Path, words: str, others: str, first: int, number: int) -> Path:
    rows = [{"id": f"{path.stem}{n}", "text": document(words, others, n)} for n in range(first, first + number)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_weights_are_those_of_scikit_learn() -> None:
    texts = [document(GOOD, BAD, n, 0.6) for n in range(40)] + [document(BAD, GOOD, n, 0.6) for n in range(25)]
    positive = np.repeat([True, False], [40, 25])
    found = Features.of(texts)
    dense = np.zeros((65, PLACES + 1))
    dense[found.row, found.place] = found.value
    used = np.flatnonzero(dense[:, :-1].any(axis=0))
    oracle = LogisticRegression(C=1 / 0.3, class_weight="balanced", tol=1e-10, max_iter=10_000)
    oracle.fit(dense[:, used], positive)
    weights = fit(found, positive, 0.3)
    np.testing.assert_allclose(weights[used], oracle.coef_[0], atol=1e-5)
    np.testing.assert_allclose(weights[-1], oracle.intercept_[0], atol=1e-5)
    assert np.count_nonzero(weights) == len(used) + 1
    scores = quality_scores(weights, texts)
    np.testing.assert_allclose(scores, oracle.predict_proba(dense[:, used])[:, 1], atol=1e-6)


def test_features_are_logarithms_of_counts_of_unit_length() -> None:
    found = Features.of(["a A, b", "", "b"])
    assert sorted(found.value[found.row == 0].round(4)) == [0.5085, 0.861, 1.0]  # 1 and 1 + ln 2, and the intercept
    assert [*found.value[found.row == 1]] == [1.0]
    assert found.texts == 3


@pytest.mark.parametrize(("score", "alpha"), [(0.5, 3.0), (0.9, 9.0), (0.0, 1.0)])
def test_a_text_is_kept_as_often_as_numpys_pareto_says(score: float, alpha: float) -> None:
    drawn = np.random.default_rng(0).pareto(alpha, 20_000) > 1 - score
    kept = [keeps(score, f"text {n}", alpha, 0) for n in range(20_000)]
    assert np.mean(kept) == pytest.approx(np.mean(drawn), abs=0.015)
    assert np.mean(kept) == pytest.approx((2 - score) ** -alpha, abs=0.012)
    assert kept == [keeps(score, f"text {n}", alpha, 0) for n in range(20_000)]
    assert kept != [keeps(score, f"text {n}", alpha, 1) for n in range(20_000)]


def test_a_score_of_one_is_always_kept() -> None:
    assert all(keeps(1.0, f"text {n}", 9.0, 0) for n in range(1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `good` and `bad` of sixty documents, and `crawl.jsonl` with twenty others of each kind."""
    place = tmp_path_factory.mktemp("quality")
    write(place / "good/a.jsonl", GOOD, BAD, 0, 60)
    write(place / "bad/b.jsonl", BAD, GOOD, 100, 60)
    lines = [write(place / f"{name}.jsonl", *words, 200, 20).read_text() for name, words in KINDS.items()]
    (place / "crawl.jsonl").write_text("".join(lines))
    return place


KINDS = {"fine": (GOOD, BAD), "spam": (BAD, GOOD)}


def test_a_corpus_with_a_trained_filter(folder: Path, tmp_path: Path, neolm_: Run) -> None:
    train = ("corpus", "train-filter", folder / "good", folder / "bad", "--output", tmp_path / "filter")
    code, out, err = neolm_(*train)
    assert (code, out.strip()) == (0, str(tmp_path / "filter")), err
    assert "60 of 60 positive and 60 of 60 negative documents" in err
    assert "12 of each held out: AUROC 1.000" in err
    counts = read_json(tmp_path / "filter/manifest.json")["counts"]
    assert counts["auroc"]["low"] == 1.0
    assert counts["calibration_error"]["low"] <= counts["calibration_error"]["value"] <= 0.3
    assert sum(row["documents"] for row in counts["reliability"]) == 24
    assert counts["kept_at_alpha_9"]["positive"] > 3 * counts["kept_at_alpha_9"]["negative"]
    assert "filter: up to date" in neolm_(*train)[2]

    # Other file names and orders of the same documents give the same bytes.
    for side, name in (("good", "a"), ("bad", "b")):
        rows = (folder / side / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / side).mkdir()
        (tmp_path / side / "z.jsonl").write_text("".join(rows[:7]))
        (tmp_path / side / "c.jsonl").write_text("".join(reversed(rows[7:])))
    assert neolm_(*train[:2], tmp_path / "good", tmp_path / "bad", "--output", tmp_path / "again")[0] == 0
    weights = [(tmp_path / name / "filter.safetensors").read_bytes() for name in ("filter", "again")]
    assert weights[0] == weights[1]

    run, model = tmp_path / "run", f"corpus.quality.model={tmp_path / 'filter'}"
    build = ("corpus", "build", "text", f"corpus.path={folder / 'crawl.jsonl'}", f"output={run}", model)
    code, _, err = neolm_(*build, "corpus.quality.alpha=null", "corpus.quality.min_score=0.5")
    assert code == 0, err
    rejected = pq.read_table(run / "corpus/rejected").to_pylist()
    assert {row["reason"] for row in rejected} == {"quality"}
    assert {row["id"] for row in rejected} == {f"spam{n}" for n in range(200, 220)}
    assert "is below 0.5" in json.loads(rejected[0]["metadata"])["why"]
    code, out, _ = neolm_("corpus", "inspect", run, "--id", "fine201")
    assert code == 0
    assert "quality.score  0." in out
    assert neolm_("corpus", "inspect", run, "--reason", "quality")[0] == 0

    # With the draw, some of the worse documents stay; another model makes the corpus stale.
    code, _, err = neolm_(*build, "corpus.quality.alpha=1")
    assert code == 0, err
    kept = {row["id"] for row in pq.read_table(run / "corpus/documents").to_pylist()}
    assert any(name.startswith("spam") for name in kept)
    assert len(kept) < 40
    assert "up to date" in neolm_(*build, "corpus.quality.alpha=1")[2]
    assert neolm_(*train, "--l2", "5")[0] == 0
    assert "up to date" not in neolm_(*build, "corpus.quality.alpha=1")[2]

    # A model that is missing, something else or damaged is one line.
    other = ("corpus", "build", "text", f"corpus.path={folder / 'crawl.jsonl'}", f"output={tmp_path / 'b'}")
    code, _, err = neolm_(*other, f"corpus.quality.model={tmp_path / 'nothing'}")
    assert code == 2
    assert "corpus.quality.model: " in err
    assert "nothing has no classifier; train one with `neolm corpus train-filter" in err
    assert neolm_(*other, f"corpus.quality.model={run / 'corpus'}")[0] == 2
    with (tmp_path / "filter/filter.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    code, _, err = neolm_(*other, model)
    assert code == 2
    assert "filter.safetensors is missing, or differs from what was written" in err
    assert err.count("\n") == 1
    for preset in ("gpt3", "pile-cc"):
        code, _, err = neolm_(*other, f"corpus.preset={preset}")
        assert (code, "corpus.quality.model: name the folder of a classifier" in err) == (2, True), err


def test_files_that_no_filter_can_be_trained_on(folder: Path, tmp_path: Path, neolm_: Run) -> None:
    few = write(tmp_path / "few.jsonl", GOOD, BAD, 300, 5)

    def refused(positive: Path, negative: Path, output: Path = tmp_path / "filter") -> str:
        code, _, err = neolm_("corpus", "train-filter", positive, negative, "--output", output)
        assert code == 2
        return err

    assert "NEGATIVE: 5 different documents are too few; give 25 or more" in refused(folder / "good", few)
    assert "POSITIVE: 0 different documents" in refused(folder / "good", folder / "good")
    assert "POSITIVE: " in refused(tmp_path / "nothing", few)
    assert "is no filter; choose another --output" in refused(folder / "good", folder / "bad", folder)
    assert not (tmp_path / "filter").exists()
