"""Mean-pooled classifiers: logits from transformers' hidden states, and what transformers makes of our files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tiny_encoders import padded_batch, tiny_encoder

from neolm.models.families import ENCODERS
from neolm.models.hf import load_model, save_model

MEAN = {"head": "sequence", "pooling": "mean", "pooler": False, "num_labels": 3}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", ENCODERS)
def test_logits_are_the_head_on_the_mean_of_the_hidden_states_of_transformers(
    family: str, left: bool, tmp_path: Path
) -> None:
    model = tiny_encoder(family, **MEAN)
    save_model(model, tmp_path)
    trunk, notes = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert all("pooler" in name for name in notes["missing_keys"])
    assert {*notes["unexpected_keys"]} == {"mean_classifier.weight", "mean_classifier.bias"}
    batch = padded_batch(97, [1, 17, 30, 8, 30], 33)
    if left:
        batch["attention_mask"] = batch["attention_mask"].flip(1)
    with torch.no_grad():
        hidden = trunk.eval()(**batch).last_hidden_state
        real = batch["attention_mask"].unsqueeze(2)
        assert torch.allclose(model.hidden_states(**batch), hidden * real, rtol=0, atol=1e-5)
        expected = (hidden * real).sum(dim=1) / real.sum(dim=1) @ model.head.weight.t() + model.head.bias
        assert torch.allclose(load_model(tmp_path, device="cpu")(**batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_transformers_reports_a_new_classifier_instead_of_misreading_ours(family: str, tmp_path: Path) -> None:
    save_model(tiny_encoder(family, **MEAN, labels=("a", "b", "c")), tmp_path)
    theirs, notes = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {"classifier.weight", "classifier.bias"} <= {*notes["missing_keys"]}
    assert {*notes["unexpected_keys"]} == {"mean_classifier.weight", "mean_classifier.bias"}
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    theirs.save_pretrained(tmp_path / "theirs")  # the key classifier_pooling stays in their config.json
    again = load_model(tmp_path / "theirs", device="cpu")
    assert again.config.pooling == "first"
    batch = padded_batch(97, [9, 4], 9)
    with torch.no_grad():
        assert torch.allclose(again(**batch), theirs.eval()(**batch).logits, rtol=0, atol=1e-5)
