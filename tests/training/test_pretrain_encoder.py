"""Encoders through the real pipeline: from text to a model directory that transformers loads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import transformers
from encoder_runs import encoder_recipe, wordpiece_vocabulary
from tiny_encoders import padded_batch, tiny_encoder

import neolm
from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.metrics import read_metrics
from neolm.data.batch import IGNORED, Batch
from neolm.models.encoder import Encoder
from neolm.training.objective import MaskedLanguageModelling, gradient_factors
from neolm.training.passes import weighted_loss


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A WordPiece vocabulary of the sample texts, as BERT publishes it."""
    return wordpiece_vocabulary(tmp_path_factory.mktemp("vocabulary"), text_folder)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_an_encoder_is_trained_from_text(tmp_path: Path, text_folder: Path, vocabulary: Path, family: str) -> None:
    output = neolm.run(
        encoder_recipe(tmp_path / "out", text_folder, vocabulary, family, short_length=24, short_steps=10)
    )
    rows = read_metrics(output / "pretrain" / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 31))
    assert steps[-1]["masked_tokens_loss"] < steps[0]["masked_tokens_loss"] - 0.5
    first = steps[0]
    assert first["loss"] == pytest.approx(first["masked_tokens_loss"] + first["sentence_loss"], rel=1e-5)
    assert 0 <= first["sentence_accuracy"] <= 1
    # sequences have 24 tokens in the first ten steps, then 48
    tokens = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(steps)]
    assert max(tokens[:9]) <= 8 * 24 < min(tokens[10:])
    validations = [row for row in rows if "validation_loss" in row]
    assert {row["step"] for row in validations} == {10, 20, 30}

    model = neolm.load_model(output)
    assert isinstance(model, Encoder)
    assert model.config.sentence_task == "sop"
    theirs = transformers.AutoModelForPreTraining.from_pretrained(output / "model").eval()
    batch = padded_batch(model.config.vocab_size, [12, 7], 12)
    with torch.no_grad():
        found, expected = model(**batch), theirs(**batch).prediction_logits
    real = batch["attention_mask"].bool()
    assert torch.allclose(found[real], expected[real], rtol=0, atol=1e-5)


def test_informed_weights_begin_at_the_unigram_entropy(tmp_path: Path, text_folder: Path, vocabulary: Path) -> None:
    losses = {}
    for initialisation in ("published", "informed"):
        recipe = encoder_recipe(tmp_path / initialisation, text_folder, vocabulary, "albert", steps=1)
        output = neolm.run(recipe, [f"model.initialisation={initialisation}"])
        first, *_ = read_metrics(output / "pretrain" / "metrics.jsonl")
        losses[initialisation] = first["masked_tokens_loss"]
        entropy = read_json(output / "pretrain" / "manifest.json")["counts"]["unigram_entropy"]
    assert losses["informed"] == pytest.approx(entropy, abs=0.5)
    assert losses["published"] > entropy + 0.7


def test_a_pretraining_goes_on_from_a_model(tmp_path: Path, text_folder: Path, vocabulary: Path) -> None:
    first = neolm.run(encoder_recipe(tmp_path / "first", text_folder, vocabulary, "bert"))
    again = encoder_recipe(tmp_path / "again", text_folder, vocabulary, "bert", steps=2, learning_rate=1e-6)
    del again["model"], again["tokenizer"]
    second = neolm.run({**again, "base": str(first / "model")})
    before, after = (read_metrics(place / "pretrain" / "metrics.jsonl") for place in (first, second))
    ends = [row["validation_loss"] for row in before if "validation_loss" in row]
    assert after[-1]["validation_loss"] == pytest.approx(min(ends), abs=0.05)
    with pytest.raises(InputError, match=r"segments\.task: nsp needs a sentence head"):
        masked = neolm.run(encoder_recipe(tmp_path / "masked", text_folder, vocabulary, "bert", segments={}, steps=2))
        again["pretrain"]["segments"] = {"task": "nsp"}
        neolm.run({**again, "base": str(masked / "model"), "output": str(tmp_path / "third")})


def test_a_decoder_ignores_settings_of_encoders_aloud(
    tmp_path: Path, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = encoder_recipe(tmp_path / "out", text_folder, Path(), "gpt2", steps=1)
    neolm.run({**settings, "tokenizer": {"vocab_size": 300}})
    assert "pretrain.segments has no effect here, because gpt2 is a decoder" in capsys.readouterr().err


def test_an_encoder_needs_an_encoder_s_tokenizer(tmp_path: Path, text_folder: Path) -> None:
    settings = encoder_recipe(tmp_path / "out", text_folder, Path(), "bert")
    with pytest.raises(InputError, match=r"tokenizer: bert needs a tokenizer with \[CLS\], \[SEP\] and \[MASK\]"):
        neolm.run({**settings, "tokenizer": {"vocab_size": 300}})


@pytest.mark.parametrize("family", ["bert", "albert"])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_micro_batches_with_uneven_counts_equal_one_batch(family: str, weight: float) -> None:
    """mean(MLM) + weight x mean(sentence task), each over the whole step."""
    model = tiny_encoder(family)
    tensors = padded_batch(97, [12, 3, 7, 12, 5, 11], 14)
    labels = torch.where(
        torch.rand(6, 14, generator=torch.Generator().manual_seed(2)) < 0.3, tensors["input_ids"], -100
    )
    labels[tensors["attention_mask"] == 0] = IGNORED
    labels[1] = IGNORED
    sentence = torch.tensor([0, IGNORED, 1, 0, IGNORED, 0])
    batch = Batch({**tensors, "labels": labels, "sentence_labels": sentence}, list(range(6)))
    objective = MaskedLanguageModelling(weight)
    counts = objective.targets(batch)
    assert counts == {"masked_tokens": int((labels >= 0).sum()), "sentence": 4}
    factors, divisor = gradient_factors(counts, objective.weights)
    gradients = []
    for size in (6, 2, 1):
        model.zero_grad()
        for part in batch.split(size):
            weighted_loss(objective(model, part), factors).backward()
        gradients.append({name: p.grad / divisor for name, p in model.named_parameters() if p.grad is not None})
    logits, pairs = model(**tensors), model.sentence_logits(**tensors)
    model.zero_grad()
    masked = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    (masked + weight * torch.nn.functional.cross_entropy(pairs, sentence, ignore_index=IGNORED)).backward()
    for name, parameter in model.named_parameters():
        for found in gradients:
            assert parameter.grad is not None
            assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=4e-6), name
