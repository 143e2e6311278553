"""The report and the model card of an encoder's run."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from encoder_runs import encoder_recipe, wordpiece_vocabulary
from html_page import Page
from huggingface_hub import ModelCard
from tiny_encoders import tiny_encoder

import neolm
from neolm.core.manifest import read_manifest
from neolm.exchange import import_directory
from neolm.models.hf import save_model
from neolm.report.compare import compare_runs
from neolm.report.encoder import MARGIN, EncoderReport
from neolm.report.run_files import Run, read_run
from neolm.report.run_report import build_report
from neolm.tokenizer.tokenizer import copy_tokenizer

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    return wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text_folder: Path, vocabulary: Path) -> Path:
    output = tmp_path_factory.mktemp("run") / "my encoder"
    return neolm.run(encoder_recipe(output, text_folder, vocabulary, evaluate={"bootstrap_samples": 100}))


def page_of(output: Path) -> tuple[str, Page]:
    html = build_report(output).read_text(encoding="utf-8")
    page = Page(html)
    page.assert_self_contained()
    page.text = " ".join(page.text.split())
    return html, page


def test_the_page_of_an_encoder(whole: Path) -> None:
    html, page = page_of(whole)
    scores = json.loads((whole / "evaluation" / "scores.json").read_text())
    for words in (
        f"It predicts {100 * scores['masked_accuracy']['value']:.1f}% of the masked tokens",
        "tokens are. Its answer to the sentence task",
        f"(SOP) is right for {100 * scores['sentence_accuracy']['value']:.1f}% of the pairs",
        "What it fills in",
        "Unigram entropy, nats",
        f"{scores['masked_gain']['value']:.3f} (",
        "whether two consecutive segments are swapped",
        "What the heads learnt when",
        "What it was trained on",
        "Label 1 means that the segments are swapped",
        "neolm predict",
        "neolm serve",
    ):
        assert words in page.text, words
    assert "neolm generate" not in page.text
    assert "Bits per byte" not in page.text
    for label in ("masked loss, nats per token", "SOP loss, nats per pair", "SOP accuracy", "masked accuracy"):
        assert label in html
    assert "unigram entropy ends at" in html


def test_the_examples_mark_the_original(whole: Path) -> None:
    html, _ = page_of(whole)
    examples = json.loads((whole / "evaluation" / "examples.json").read_text())
    masks = [mask for example in examples for mask in example["masks"]]
    assert html.count('<tr class="right">') == sum(mask["rank"] <= 5 for mask in masks)
    assert html.count(", at rank ") == sum(mask["rank"] > 5 for mask in masks)


def test_the_audit_is_what_was_trained_on(whole: Path) -> None:
    rows = json.loads((whole / "pretrain" / "examples.json").read_text())
    manifest = read_manifest(whole / "pretrain")
    assert manifest is not None
    assert "examples.json" in manifest.outputs
    for row in rows:
        predicted = [token for token in row["tokens"] if token[1] is not None]
        assert len(predicted) == max(1, round(0.15 * len(row["tokens"])))
        assert row["tokens"][0] == ["[CLS]", None]
        assert row["sentence_label"] in (0, 1)
        assert row["documents"]


def test_hostile_tokens_are_text(tmp_path: Path, whole: Path) -> None:
    output = shutil.copytree(whole, tmp_path / "run")
    mask: dict[str, Any] = {"token": HOSTILE, "rank": 1, "probability": 0.5}
    mask["alternatives"] = [{"token": HOSTILE, "id": 3, "probability": 0.5}]
    examples = [{"document": HOSTILE, "parts": [HOSTILE, HOSTILE], "masks": [mask]}]
    (output / "evaluation" / "examples.json").write_text(json.dumps(examples))
    audit = [{"tokens": [[HOSTILE, HOSTILE], [HOSTILE, None]], "sentence_label": None, "documents": [HOSTILE]}]
    (output / "pretrain" / "examples.json").write_text(json.dumps(audit))
    html, page = page_of(output)
    assert HOSTILE not in html
    assert page.text.count(HOSTILE) >= 8


def test_what_is_missing_is_named(tmp_path: Path, whole: Path) -> None:
    output = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(output / "evaluation")
    (output / "pretrain" / "examples.json").unlink()
    (output / "pretrain" / "metrics.jsonl").write_text("")
    _, page = page_of(output)
    for words in (
        "It has not been measured on held-out text yet",
        "This run has no examples",
        "it has not been evaluated",
        "No training step was logged",
    ):
        assert words in page.text
    assert "What it was trained on" not in page.text


def report_of(run: Run, rows: list[dict[str, Any]], task: str = "sop", entropy: float = 6.0) -> EncoderReport:
    """The report of `run` with other metrics."""
    manifest = run.manifests["pretrain"]
    settings = {**manifest.config, "pretrain": {**manifest.config["pretrain"], "segments": {"task": task}}}
    counts = {**manifest.counts, "unigram_entropy": entropy}
    changed = type(manifest)(**{**vars(manifest), "config": settings, "counts": counts})
    return EncoderReport(Run(run.output, {**run.manifests, "pretrain": changed}, rows, {}, []))


def test_the_first_step_below_the_trivial_loss(whole: Path) -> None:
    bound, chance = 6.0 * (1 - MARGIN), math.log(2) * (1 - MARGIN)

    def row(step: int, masked: float, sentence: float, prefix: str = "") -> dict[str, Any]:
        return {"step": step, f"{prefix}masked_tokens_loss": masked, f"{prefix}sentence_loss": sentence}

    training = [row(step, 9 - step / 10, 0.7) for step in range(1, 50)]
    validation = [row(10, bound + 0.01, 0.6, "validation_"), row(20, bound - 0.01, chance, "validation_")]
    run = read_run(whole)
    masked, sentence = report_of(run, training + validation).learnt
    assert (masked.step, sentence.step) == (20, 10)
    masked, sentence = report_of(run, training).learnt  # without validations: the moving average
    assert masked.step is not None
    assert 31 <= masked.step <= 40
    assert sentence.step is None
    alone = [{"step": 1, "loss": 7.0, "accuracy": 0.1}, {"step": 2, "loss": 5.0, "accuracy": 0.2}]
    (only,) = report_of(run, alone, task="none").learnt
    assert only.term == "masked tokens"
    assert len(report_of(run, alone, task="none").figures) == 1


def test_the_card_of_an_encoder(whole: Path) -> None:
    card = ModelCard.load(whole / "model" / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    assert {result.metric_type for result in card.data.eval_results} >= {"masked_loss", "sentence_accuracy"}
    assert "A BERT encoder with" in card.text
    assert re.search(r"\| Masked accuracy \| \d+\.\d% \(\d+\.\d% to \d+\.\d%\) \|", card.text)
    assert "in sequences of at most 48 tokens" in card.text
    assert "neolm predict DIRECTORY" in card.text
    assert "generate" not in card.text
    assert "It continues text" not in card.text
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:  # the card tells the truth
        values: dict[str, Any] = {}
        exec(block.replace("DIRECTORY", str(whole / "model")), values)
        assert callable(values["model"])
    assert isinstance(values["model"], transformers.BertForMaskedLM)


@pytest.mark.parametrize(
    ("head", "task", "loader"),
    [
        ("sequence", "text-classification", "AutoModelForSequenceClassification"),
        ("token", "token-classification", "AutoModelForTokenClassification"),
        ("none", "feature-extraction", "AutoModel"),
        ("mean", "text-classification", "AutoModel"),  # transformers has no such head
        ("masked", "fill-mask", "AutoModelForMaskedLM"),
    ],
)
def test_the_card_of_an_imported_encoder(tmp_path: Path, vocabulary: Path, head: str, task: str, loader: str) -> None:
    fields = {"head": "sequence", "pooling": "mean", "pooler": False} if head == "mean" else {"head": head}
    save_model(tiny_encoder("albert", vocab_size=300, **fields), tmp_path / "source")
    copy_tokenizer(vocabulary, tmp_path / "source")
    import_directory(str(tmp_path / "source"), tmp_path / "copy", None)
    card = ModelCard.load(tmp_path / "copy" / "README.md")
    assert card.data.pipeline_tag == task
    assert "An ALBERT encoder" in card.text
    assert f"{loader}.from_pretrained" in card.text
    assert ("neolm predict" in card.text) == (head == "masked")


def test_encoders_are_compared_by_the_loss_of_masked_tokens(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole / "pretrain", other / "pretrain")
    (other / "pretrain" / "manifest.json").unlink()  # not finished: parameters are counted from the settings
    text = compare_runs([whole, other], tmp_path / "compare.html")
    rows = [json.loads(line) for line in (whole / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "validation_masked_tokens_loss" in row)
    for term, name in (("masked_tokens", "loss of masked tokens"), ("sentence", "loss of the sentence task")):
        loss, share = last[f"validation_{term}_loss"], last[f"validation_{term}_accuracy"]
        assert re.search(rf"Final {name} +({loss:.4f} {share:.1%} right *){{2}}", text), text
    (parameters,) = re.findall(r"^Parameters +(\S+) +(\S+)", text, re.MULTILINE)
    assert parameters[0] == parameters[1] != "\u2013"
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert "validation loss of masked tokens, nats per token" in page.html
    assert "training loss, nats per token" not in page.html
