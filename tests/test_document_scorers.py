"""Scores of documents by models: labels, numbers and bits per byte, their limits, and models that cannot be used."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scripted_decoder import write_scripted_decoder
from tiny_encoders import write_classifier, write_encoder
from word_classifier import write_word_classifier

from neolm.core.errors import SettingError
from neolm.corpus.filter_config import ModelScoreConfig
from neolm.document_scorers import scorers
from neolm.evaluation.perplexity import document_scores
from neolm.models.hf import load_model
from neolm.tokenizer.tokenizer import load_tokenizer

Run = Callable[..., tuple[int, str, str]]
SCRIPT = "a day by the water, a clock in the dark and the sound of waves behind the long grey harbour wall"
TEXTS = {"warm": "the sea is a day", "cold": "the sea is cold", "script": SCRIPT}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier `words`, a regression `number`, a decoder `writer` and an encoder without a head, `masked`."""
    place = tmp_path_factory.mktemp("models")
    write_word_classifier(place / "words", {"fine": [], "bad": ["cold"]})
    write_classifier(place / "number", num_labels=1)
    write_encoder(place / "masked", pooling=None)
    write_scripted_decoder(place / "writer", SCRIPT)
    return place


def loaded(**fields: Any) -> tuple[str, Any]:
    return scorers([ModelScoreConfig(name="it", **fields)])["it"].load()


def test_scores_of_each_kind_of_model(models: Path) -> None:
    texts = [*TEXTS.values()]
    reason, score = loaded(model=str(models / "words"), label="bad")
    assert reason == "model_score"
    assert [round(value, 3) for value in score(texts)] == [0.0, 1.0, 0.0]
    reason, score = loaded(model=str(models / "number"))
    assert (reason, len({*score(texts)})) == ("model_score", 3)
    reason, score = loaded(model=str(models / "writer"))
    assert reason == "perplexity"
    bits = score(texts)
    assert bits[2] < 0.1
    assert min(bits[:2]) > 2
    own = document_scores(load_model(models / "writer"), load_tokenizer(models / "writer"), texts[:1])[0]
    assert bits[0] == pytest.approx(own.negative_log_likelihood / math.log(2) / len(texts[0]), rel=1e-6)


def test_models_and_labels_that_cannot_be_used(models: Path) -> None:
    for fields, problem in (
        ({"model": "words", "label": "toxic"}, "has no label 'toxic'; its labels are fine, bad"),
        ({"model": "words"}, "has no label None; its labels are fine, bad"),
        ({"model": "writer", "label": "bad"}, "is a language model, which has no labels"),
        ({"model": "masked"}, "is no language model and no classifier of single texts"),
        ({"model": "nothing"}, "no such model directory"),
    ):
        with pytest.raises(SettingError, match=rf"^scores\.it: .*{problem}"):
            loaded(**{**fields, "model": str(models / fields["model"])})


def test_a_corpus_with_scores(models: Path, tmp_path: Path, neolm_: Run) -> None:
    raw, run = tmp_path / "raw.jsonl", tmp_path / "run"
    raw.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    scores = [
        {"name": "bad", "model": str(models / "words"), "label": "bad", "max_score": 0.5},
        {"name": "bits", "model": str(models / "writer"), "min_score": 0.5},
    ]
    command = ("corpus", "build", "text", f"corpus.path={raw}", f"output={run}", f"corpus.scores={json.dumps(scores)}")
    code, _, err = neolm_(*command)
    assert code == 0, err
    rejected = {row["id"]: row for row in pq.read_table(run / "corpus/rejected").to_pylist()}
    assert {name: row["reason"] for name, row in rejected.items()} == {"cold": "model_score", "script": "perplexity"}
    assert json.loads(rejected["cold"]["metadata"])["why"] == "bad: score 1 is above 0.5"
    assert json.loads(rejected["cold"]["scores"]) == {"scores.bad": 1.0}
    (kept,) = pq.read_table(run / "corpus/documents").to_pylist()
    assert json.loads(kept["scores"])["scores.bits"] > 2
    assert "scores.bits" in neolm_("corpus", "inspect", run, "--id", "warm")[1]
    assert "up to date" in neolm_(*command)[2]
    write_word_classifier(models / "words", {"fine": ["cold"], "bad": ["sea"]})  # another model: the corpus is stale
    assert neolm_(*command)[0] == 0
    assert [row["id"] for row in pq.read_table(run / "corpus/documents").to_pylist()] == ["cold"]
    code, _, err = neolm_(*command[:-1], f"corpus.scores={json.dumps([scores[0], scores[0]])}")
    assert (code, "two scores have the same name" in err) == (2, True), err
    scores[0]["label"] = "toxic"
    other = (*command[:4], f"output={tmp_path / 'other'}", f"corpus.scores={json.dumps(scores)}")
    code, _, err = neolm_(*other)
    assert (code, "corpus.scores.bad: " in err, err.count("\n")) == (2, True, 1), err
