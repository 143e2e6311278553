"""Encoders asked on sequences of all kinds: equal to a count by hand, one sequence at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from encoder_runs import wordpiece_vocabulary
from samples import sample_text
from tiny_encoders import tiny_encoder
from torch.nn import functional as F

from neolm.data.batch import IGNORED
from neolm.evaluation.crossed_tasks import TASKS, crossed_scores
from neolm.evaluation.held_out_segments import HeldOutSegments
from neolm.models.encoder import Encoder
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    parent: str = ""


DOCUMENTS = [Text(f"d{number}", sample_text(number, 150)) for number in range(5)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Tokenizer:
    return load_tokenizer(wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder))


def counted(model: Encoder, tokenizer: Tokenizer, task: str) -> tuple[list[float], list[bool], list[bool]]:
    """Nats and hits of the masked tokens, and hits of the sentence labels."""
    nats, hits, right = [], [], []
    for batch, _ in HeldOutSegments(DOCUMENTS, tokenizer, 32, task).batches(1):  # type: ignore[arg-type]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        predicted = batch["labels"] != IGNORED
        with torch.no_grad():
            logits = model(**inputs)[predicted]
            nats += F.cross_entropy(logits, batch["labels"][predicted], reduction="none").tolist()
            hits += (logits.argmax(-1) == batch["labels"][predicted]).tolist()
            if task != "none" and int(batch["sentence_labels"]) != IGNORED and model.sentence_head is not None:
                right.append(bool(model.sentence_logits(**inputs).argmax(-1) == batch["sentence_labels"]))
    return nats, hits, right


@pytest.mark.parametrize("trained_on", ["nsp", "sop"])
def test_scores_are_those_of_a_count_by_hand(trained_on: str, tokenizer: Tokenizer) -> None:
    model = tiny_encoder("albert", vocab_size=tokenizer.size, sentence_task=trained_on)
    scores = crossed_scores(model, tokenizer, DOCUMENTS, 32)
    found = {task: counted(model, tokenizer, task) for task in TASKS}
    nats = [value for task in TASKS for value in found[task][0]]
    assert scores["masked_loss"]["value"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert scores["masked_loss"]["low"] < scores["masked_loss"]["value"] < scores["masked_loss"]["high"]
    gain = scores["unigram_entropy"]["value"] - scores["masked_loss"]["value"]
    assert scores["masked_gain"]["value"] == pytest.approx(gain)
    hits = [value for task in TASKS for value in found[task][1]]
    assert scores["masked_accuracy"]["value"] == pytest.approx(sum(hits) / len(hits))
    for task in TASKS:
        kind = found[task][1]
        assert scores[f"masked_accuracy_{task}"]["value"] == pytest.approx(sum(kind) / len(kind))
    for task in ("nsp", "sop"):  # also the one that the model was not trained on
        answers = found[task][2]
        assert len(answers) > 20
        assert scores[f"{task}_accuracy"]["value"] == pytest.approx(sum(answers) / len(answers))


def test_a_model_without_a_sentence_head_is_not_asked(tokenizer: Tokenizer) -> None:
    model = tiny_encoder("albert", vocab_size=tokenizer.size, head="masked", pooler=False, sentence_task=None)
    scores = crossed_scores(model, tokenizer, DOCUMENTS, 32)
    assert not {"nsp_accuracy", "sop_accuracy"} & scores.keys()
    assert {f"masked_accuracy_{task}" for task in TASKS} < scores.keys()


def test_parts_of_one_document_make_no_random_pairs(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_encoder("bert", vocab_size=tokenizer.size, sentence_task="nsp")
    parts = [Text(f"part {n}", sample_text(n, 150), "the book") for n in range(3)]
    scores = crossed_scores(model, tokenizer, parts, 32)
    assert "nsp_accuracy" not in scores
    assert "sop_accuracy" in scores
    assert "there is one document, so nsp" in capsys.readouterr().err
