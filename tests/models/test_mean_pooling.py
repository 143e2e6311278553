"""Classifiers of sequences on the mean of the hidden states: pooling, gradients, files and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_encoders import padded_batch, tiny_encoder

from neolm.core.errors import InputError, SettingError
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.models.families import ENCODERS
from neolm.models.hf import convert, load_model, save_model
from neolm.models.token_layout import TokenLayout

MEAN = {"head": "sequence", "pooling": "mean", "pooler": False, "num_labels": 3}


def change_config(directory: Path, **keys: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6),
    gradient=st.booleans(),
)
def test_the_mean_is_that_of_the_real_tokens(rows: list[list[bool]], gradient: bool) -> None:
    mask = torch.tensor(rows)
    x = torch.randn(*mask.shape, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.set_grad_enabled(gradient):
        layout = TokenLayout((len(rows), 7), mask.long(), torch.device("cpu"))
        found = layout.mean(layout.flatten(x))
    for row, real in enumerate(mask):
        expected = x[row, real].mean(dim=0) if real.any() else torch.zeros(5, dtype=torch.float64)
        assert torch.allclose(found[row], expected, rtol=0, atol=1e-12)


def test_a_mean_of_half_precision_is_computed_in_float32() -> None:
    layout = TokenLayout((1, 4096), None, torch.device("cpu"))
    x = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)  # a running sum in bfloat16 would stop at 256
    assert layout.mean(x).tolist() == [[1.0]]
    assert layout.mean(x).dtype == torch.bfloat16


@pytest.mark.parametrize("head", ["sequence", "choice"])
@pytest.mark.parametrize("family", ENCODERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_text_has_the_same_logits_in_any_batch(family: str, head: str, data: st.DataObject) -> None:
    model = tiny_encoder(family, **{**MEAN, "head": head})
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    batch = padded_batch(97, lengths, max(lengths) + data.draw(st.integers(0, 9)), seed=data.draw(st.integers(0, 9)))
    with torch.no_grad():
        together = model(**batch)
        assert together.shape == (len(lengths), 1 if head == "choice" else 3)
        assert torch.equal(model.head(model.pooled(**batch)), together)
        for row, length in enumerate(lengths):
            alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
            assert torch.allclose(model(**alone)[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_gradients_are_those_of_the_texts_one_by_one(family: str) -> None:
    model, lengths = tiny_encoder(family, **MEAN), [30, 39, 1, 25, 38, 32]
    batch, labels = padded_batch(97, lengths, 40), torch.tensor([0, 1, 2, 1, 0, 2])
    torch.nn.functional.cross_entropy(model(**batch), labels, reduction="sum").backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        logits = model.head(model.hidden_states(**alone).mean(dim=1))
        torch.nn.functional.cross_entropy(logits, labels[row : row + 1]).backward()
    for name, parameter in model.named_parameters():
        assert found[name].abs().max() > 0, name
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-5 * max(1, parameter.grad.abs().max()))


def test_the_mean_has_its_dropout_in_training_only() -> None:
    model = tiny_encoder("bert", **MEAN, classifier_dropout=0.5)
    batch = padded_batch(97, [9, 4], 9)
    mean = model.hidden_states(**batch).sum(dim=1) / batch["attention_mask"].sum(dim=1, keepdim=True)
    assert torch.allclose(model.pooled(**batch), mean, atol=1e-6)
    dropped = model.train().pooled(**batch)
    kept = dropped != 0
    assert 0.2 < kept.float().mean() < 0.8
    assert torch.allclose(dropped[kept], 2 * mean[kept], atol=1e-5)


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize("head", ["sequence", "choice"])
@pytest.mark.parametrize("family", ENCODERS)
def test_a_saved_model_loads_bit_for_bit(family: str, head: str, quantize: str | None, tmp_path: Path) -> None:
    labels = {} if head == "choice" else {"labels": ("bad", "so-so", "good"), "problem": "multi_label_classification"}
    model = tiny_encoder(family, **{**MEAN, "head": head, **labels})
    save_model(model, tmp_path / "wide")
    if quantize:
        convert(tmp_path / "wide", tmp_path / "narrow", quantize=quantize)
    again = load_model(tmp_path / ("narrow" if quantize else "wide"), device="cpu")
    expected = load_model(tmp_path / "wide", device="cpu", quantize=quantize)
    assert isinstance(again, Encoder)
    fields = {"num_labels", "labels"} if head == "choice" else set()  # of no meaning there
    assert again.config.model_dump(exclude=fields) == model.config.model_dump(exclude=fields)
    assert again.quantized == ({"int8": 8, "int4": 4}[quantize] if quantize else None)
    a, b = again.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(again.head.weight, model.head.weight)
    if not quantize:
        assert all(torch.equal(a[name], tensor) for name, tensor in model.state_dict().items())


def test_the_names_in_the_files(tmp_path: Path) -> None:
    save_model(tiny_encoder("bert", **MEAN), tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {name for name in names if not name.startswith("bert.")} == {
        "mean_classifier.weight",
        "mean_classifier.bias",
    }
    assert not any("pooler" in name for name in names)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == ["BertForMeanPooledSequenceClassification"]
    assert raw["classifier_pooling"] == "mean"


@pytest.mark.parametrize(
    ("architectures", "head", "said"),
    [
        (["BertForMeanPooledMultipleChoice"], "choice", ""),
        (["BertForMultipleChoice"], "choice", ""),
        (["BertForSequenceClassification"], "sequence", ""),
        (["BertModel"], "sequence", "taken for one of sequences"),
        (["BertForTokenClassification"], "sequence", "taken for one of sequences"),
        (["BertForSomething"], "sequence", "taken for one of sequences"),
    ],
)
def test_the_tensors_decide_between_mean_and_first_token(
    architectures: list[str], head: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_encoder("bert", **{**MEAN, "head": head})
    save_model(model, tmp_path)
    change_config(tmp_path, architectures=architectures)
    again = load_model(tmp_path, device="cpu")
    assert (again.config.head, again.config.pooling, again.config.pooler) == (head, "mean", False)
    assert torch.equal(again(torch.tensor([[3, 4]])), model(torch.tensor([[3, 4]])))
    assert said in (err := capsys.readouterr().err)
    assert said or "classifier" not in err


def test_a_published_classifier_is_not_taken_for_a_mean_pooled_one(tmp_path: Path) -> None:
    model = tiny_encoder("bert", head="sequence", num_labels=3)
    save_model(model, tmp_path)
    change_config(tmp_path, classifier_pooling="mean", architectures=["BertForMeanPooledSequenceClassification"])
    again = load_model(tmp_path, device="cpu")
    assert (again.config.pooling, again.config.pooler) == ("first", True)
    assert torch.equal(again(torch.tensor([[3, 4]])), model(torch.tensor([[3, 4]])))


def test_the_number_of_labels_is_that_of_the_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tiny_encoder("albert", **MEAN), tmp_path)
    change_config(tmp_path, id2label={"0": "no", "1": "yes"})
    assert load_model(tmp_path, device="cpu").config.num_labels == 3
    assert "the classifier has 3 outputs, but config.json says 2 labels" in capsys.readouterr().err


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    save_model(tiny_encoder("bert", **MEAN), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "mean" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"2 tensors are missing: mean_classifier\.weight, mean_classifier\.bias"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "token", "pooling": "mean", "pooler": False}, "pooling: 'mean' is for the heads sequence and choice"),
        ({"head": "none", "pooling": "mean"}, "pooling: 'mean' is for the heads sequence and choice, not for 'none'"),
        ({"head": "sequence", "pooling": "mean"}, "pooler: the pooling 'mean' has none; set it to false"),
        ({"head": "sequence", "pooler": False}, "pooler: the head 'sequence' needs it"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 97}
    with pytest.raises(SettingError, match=message):
        encoder_config("bert", **sizes, **fields)
