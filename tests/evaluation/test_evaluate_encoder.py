"""Masked tokens, the sentence task and pseudo-perplexity of encoders: equal to naive passes, whatever the batch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_runs import encoder_recipe, wordpiece_vocabulary
from samples import sample_text
from tiny_encoders import tiny_encoder
from tiny_models import tiny_decoder
from torch.nn import functional as F

import neolm
from neolm.core.errors import InputError, NonFiniteError
from neolm.corpus.documents import read_documents
from neolm.data.batch import IGNORED
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.documents import choose_documents
from neolm.evaluation.evaluate_encoder import evaluate_encoder
from neolm.evaluation.held_out_segments import HeldOutSegments
from neolm.evaluation.masked_examples import EXAMPLES, masked_examples
from neolm.evaluation.masked_tokens import MaskedTokens, SentenceTask, Unigram, masked_accuracy, sentence_accuracy
from neolm.evaluation.pseudo_likelihood import one_at_a_time
from neolm.evaluation.scores_table import scores_table
from neolm.models.encoder import Encoder
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer, train_tokenizer

Call = Callable[..., tuple[int, str, str]]
QUICK = {"bootstrap_samples": 100}


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    parent: str = ""


DOCUMENTS = [Text(f"d{n}", sample_text(n, 100 + 20 * n)) for n in range(6)] + [Text("one", "A single sentence here.")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    return wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder)


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return load_tokenizer(vocabulary)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    return tiny_encoder("bert", vocab_size=tokenizer.size, sentence_task="sop")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text_folder: Path, vocabulary: Path) -> Path:
    settings = encoder_recipe(tmp_path_factory.mktemp("run") / "bert", text_folder, vocabulary, evaluate=QUICK)
    return neolm.run(settings)


def test_scores_equal_a_naive_pass(encoder: Encoder, tokenizer: Tokenizer) -> None:
    config = EvaluateConfig(batch_size=3, bootstrap_samples=100)
    segments = HeldOutSegments(choose_documents(DOCUMENTS, None)[0], tokenizer, 40, "sop")
    found = evaluate_encoder(encoder, tokenizer, DOCUMENTS, config)
    nats, hits, answers, tokens = [], [], [], []
    for batch, _ in segments.batches(1):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        labels = batch["labels"][0]
        with torch.no_grad():
            logits, pair = encoder(**inputs)[0], encoder.sentence_logits(**inputs)[0]
        assert (labels != IGNORED).sum() == max(1, round(0.15 * int(batch["attention_mask"].sum())))
        for place in (labels != IGNORED).nonzero().flatten().tolist():
            nats.append(F.cross_entropy(logits[place], labels[place]).item())
            hits.append(int(logits[place].argmax()) == int(labels[place]))
            tokens.append(int(labels[place]))
        if batch["sentence_labels"][0] != IGNORED:
            answers.append(int(pair.argmax()) == int(batch["sentence_labels"][0]))
    assert found["masked_loss"]["value"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["masked_accuracy"]["value"] == pytest.approx(np.mean(hits))
    assert found["sentence_accuracy"]["value"] == pytest.approx(np.mean(answers))
    # the frequencies of all tokens of the measured text, without special tokens
    ids = [i for document in DOCUMENTS for i in tokenizer.encode(document.text)]
    counts, total = Counter(ids), len(ids)
    expected = np.mean([-math.log(counts[token] / total) for token in tokens])
    assert found["unigram_entropy"]["value"] == pytest.approx(expected)
    assert found["masked_gain"]["value"] == pytest.approx(expected - np.mean(nats), abs=1e-5)
    protocol = found["protocols"][found["sentence_accuracy"]["protocol"]]
    assert protocol["pairs"] == len(answers)
    assert protocol["without_label"] == len(segments) - len(answers) >= 1
    assert found["protocols"][found["masked_loss"]["protocol"]]["unigram"] == {"text": "measured text", "tokens": total}
    for name in ("masked_loss", "masked_accuracy", "sentence_accuracy", "unigram_entropy", "masked_gain"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_masks_and_scores_do_not_depend_on_the_batch(encoder: Encoder, tokenizer: Tokenizer) -> None:
    segments = HeldOutSegments(DOCUMENTS, tokenizer, 40, "sop")

    def rows(size: int) -> list[list[int]]:
        found = []
        for batch, _ in segments.batches(size):
            width = int(batch["attention_mask"].sum(dim=1).max())
            for ids, labels, real in zip(
                batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True
            ):
                found.append([*ids[:width][real].tolist(), *labels[:width][real].tolist()])
        return found

    assert rows(1) == rows(7)
    one, other = (
        MaskedTokens(HeldOutSegments(DOCUMENTS, tokenizer, 40, "sop"), size).measure(encoder)["masked_loss"]
        for size in (1, 7)
    )
    assert np.allclose(one.amounts, other.amounts, rtol=1e-5)
    assert list(one.groups) == list(other.groups)


def test_parts_of_a_document_are_one_group(encoder: Encoder, tokenizer: Tokenizer) -> None:
    parts = [Text(f"p{n}", sample_text(n, 60), "whole" if n < 2 else "other") for n in range(3)]
    values = MaskedTokens(HeldOutSegments(parts, tokenizer, 40)).measure(encoder)["masked_loss"]
    assert set(values.groups) == {"whole", "other"}


def test_the_unigram_of_a_training_text_is_smoothed_and_has_no_special_tokens() -> None:
    found = Unigram(np.array([100, 3, 0, 5]), np.array([0]), "training text", smoothed=True)
    assert found.nats[1:].tolist() == pytest.approx([-math.log(p / 11) for p in (4, 1, 6)])
    assert found.record() == {"text": "training text", "tokens": 8}


@pytest.mark.parametrize(("trained", "asked"), [("nsp", "sop"), ("sop", "nsp"), ("sop", "sop")])
def test_a_model_can_be_asked_the_other_task(encoder: Encoder, tokenizer: Tokenizer, trained: str, asked: Any) -> None:
    model = tiny_encoder("bert", vocab_size=tokenizer.size, sentence_task=trained)
    segments = HeldOutSegments(DOCUMENTS, tokenizer, 40, asked)
    found = sentence_accuracy(model, segments, EvaluateConfig(bootstrap_samples=100))
    assert (found["task"], found["trained_on"]) == (asked, trained)
    assert found["protocol"].startswith("sentence-task-")
    assert found["details"]["segments"]["task"] == asked
    with torch.no_grad():
        model.sentence_head.weight.zero_()  # type: ignore[union-attr]
        model.sentence_head.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]
    labels = torch.cat([batch["sentence_labels"] for batch, _ in segments.batches()])
    share = (labels == 1).sum() / (labels >= 0).sum()
    assert sentence_accuracy(model, segments)["value"] == pytest.approx(float(share))  # it always answers 1
    other = masked_accuracy(model, segments)
    assert other["protocol"].startswith("masked-tokens-")
    assert other["details"]["masking"]["share"] == 0.15


def test_pseudo_perplexity_equals_a_naive_loop(encoder: Encoder, tokenizer: Tokenizer) -> None:
    config = EvaluateConfig(pseudo_perplexity_documents=2, bootstrap_samples=100, window=24, max_bytes=None)
    found = evaluate_encoder(encoder, tokenizer, DOCUMENTS, config)
    protocol = found["protocols"][found["pseudo_perplexity"]["protocol"]]
    assert protocol["data"]["documents"] == 2
    nats, tokens = 0.0, 0
    naive = {}
    for document in DOCUMENTS:
        ids = tokenizer.with_special(tokenizer.encode(document.text)[:22])[0]
        own = 0.0
        for place in range(1, len(ids) - 1):
            masked = torch.tensor([ids])
            masked[0, place] = tokenizer.mask_token_id or 0
            with torch.no_grad():
                own += F.cross_entropy(encoder(masked)[0, place], torch.tensor(ids[place])).item()
        naive[len(ids), round(own, 2)] = own
        found_nats, hits = one_at_a_time(encoder, ids, tokenizer.require_token("mask"), batch_size=5)
        assert found_nats.sum() == pytest.approx(own, rel=1e-4)
        assert len(hits) == len(ids) - 2
        nats, tokens = nats + own, tokens + len(ids) - 2
    everything = EvaluateConfig(pseudo_perplexity_documents=99, bootstrap_samples=100, window=24, max_bytes=None)
    whole = evaluate_encoder(encoder, tokenizer, DOCUMENTS, everything)["pseudo_perplexity"]
    assert whole["value"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert one_at_a_time(encoder, [2, 3], 4)[0].shape == (0,)


def test_a_run_is_measured_and_its_table_shows_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert scores["masked_gain"]["value"] == pytest.approx(
        scores["unigram_entropy"]["value"] - scores["masked_loss"]["value"]
    )
    unigram = scores["protocols"][scores["masked_loss"]["protocol"]]["unigram"]
    assert unigram["text"] == "training text"
    table = scores_table(scores)
    for words in ("masked loss", "unigram entropy", "masked accuracy", "sentence accuracy", "sop: "):
        assert words in table
    examples = json.loads((run / "evaluation" / "examples.json").read_text())
    assert 0 < len(examples) <= EXAMPLES
    again = neolm.evaluate(run, **QUICK)
    assert {name: again[name]["value"] for name in scores if name != "protocols"} == pytest.approx(
        {name: scores[name]["value"] for name in scores if name != "protocols"}
    )
    assert again["protocols"] == scores["protocols"]


def test_examples_are_reproducible_and_their_ranks_right(run: Path) -> None:
    model, tokenizer = neolm.load_model(run), neolm.load_tokenizer(run)
    assert isinstance(model, Encoder)
    examples = masked_examples(model, tokenizer, read_documents(run / "corpus", "validation"), 1)
    assert examples == masked_examples(model, tokenizer, read_documents(run / "corpus", "validation"), 1)
    for example in examples:
        assert len(example["parts"]) == len(example["masks"]) + 1
        for mask in example["masks"]:
            assert len(mask["alternatives"]) == 5
            shown = [alternative["token"] for alternative in mask["alternatives"]]
            assert (mask["token"] in shown) == (mask["rank"] <= 5)
            if mask["rank"] <= 5:
                assert mask["alternatives"][mask["rank"] - 1]["probability"] == pytest.approx(mask["probability"])


def test_settings_of_the_other_kind_are_named(neolm_: Call, run: Path, tmp_path: Path, vocabulary: Path) -> None:
    arguments = [
        "--set",
        "stride=8",
        "--set",
        "prompts=[a]",
        "--set",
        "max_bytes=2000",
        "--output",
        tmp_path / "s.json",
    ]
    code, out, err = neolm_("evaluate", run, *arguments)
    assert code == 0, err
    assert "evaluate.stride has no effect here, because bert is an encoder" in err
    assert "evaluate.prompts has no effect here, because bert is an encoder" in err
    assert "masked loss, nats per token" in out
    assert "masked_loss" in json.loads((tmp_path / "s.json").read_text())
    again = neolm_("evaluate", run, *arguments)  # the file of scores may be replaced
    assert again[0] == 0
    train_tokenizer(iter([sample_text(1)] * 3), 300).save(tmp_path / "gpt2")
    save_model(tiny_decoder("gpt2", 32, num_heads=2), tmp_path / "gpt2")
    (tmp_path / "a.txt").write_text(sample_text(2))
    code, _, err = neolm_(
        "evaluate", tmp_path / "gpt2", "--text", tmp_path / "a.txt", "--set", "pseudo_perplexity_documents=1"
    )
    assert code == 0, err
    assert "evaluate.pseudo_perplexity_documents has no effect here, because gpt2 is a decoder" in err


@pytest.mark.parametrize("head", ["sequence", "none"])
def test_a_head_that_text_alone_cannot_measure_is_one_line(
    neolm_: Call, tmp_path: Path, vocabulary: Path, text_folder: Path, head: str
) -> None:
    save_model(tiny_encoder("bert", vocab_size=300, head=head), tmp_path)
    copy_tokenizer(vocabulary, tmp_path)
    code, _, err = neolm_("evaluate", tmp_path, "--text", text_folder)
    assert code == 2
    assert f"an encoder with the head '{head}' cannot be measured on text alone" in err


def test_one_document_under_nsp_is_said_and_masks_are_measured(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_encoder("bert", vocab_size=tokenizer.size, sentence_task="nsp")
    found = evaluate_encoder(model, tokenizer, DOCUMENTS[:1], EvaluateConfig(bootstrap_samples=100))
    assert "sentence_accuracy" not in found
    assert found["masked_loss"]["low"] is None  # a single document has no interval
    assert "nsp needs several documents, and there is one" in capsys.readouterr().err
    with pytest.raises(InputError, match="there is only one"):
        HeldOutSegments(DOCUMENTS[:1], tokenizer, 40, "nsp")


def test_mistakes_are_named(encoder: Encoder, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"evaluate\.window: 41 is not between 5 and the model's context of 40"):
        evaluate_encoder(encoder, tokenizer, DOCUMENTS, EvaluateConfig(window=41))
    with pytest.raises(InputError, match="the documents to measure on have no sentence"):
        HeldOutSegments([Text("a", "\u200d\x01")], tokenizer, 40)
    with pytest.raises(InputError, match="they do not belong together"):
        evaluate_encoder(tiny_encoder("bert", vocab_size=20), tokenizer, DOCUMENTS)
    with pytest.raises(InputError, match="the sequences have no pairs"):
        SentenceTask(HeldOutSegments(DOCUMENTS, tokenizer, 40)).measure(encoder)
    masked = tiny_encoder("bert", vocab_size=tokenizer.size, head="masked", pooler=False)
    segments = HeldOutSegments(DOCUMENTS, tokenizer, 40, "sop")
    with pytest.raises(InputError, match="the head 'masked' has no sentence task"):
        SentenceTask(segments).measure(masked)
    with torch.no_grad():
        masked.blocks[0].mlp_norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the weights are damaged"):
        MaskedTokens(segments).measure(masked)


def test_rounded_weights_are_near(run: Path) -> None:
    plain, rounded = (neolm.evaluate(run, quantize=bits, **QUICK) for bits in (None, "int8"))
    assert rounded["masked_loss"]["value"] == pytest.approx(plain["masked_loss"]["value"], rel=0.02)
    assert rounded["masked_loss"]["value"] != plain["masked_loss"]["value"]
    assert rounded["protocols"].keys() != plain["protocols"].keys()
