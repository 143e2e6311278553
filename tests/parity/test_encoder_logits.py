"""Every head of BERT and ALBERT computes the same as in transformers, and its weights survive both conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_encoders import padded_batch, tiny_encoder

from neolm.models.encoder import Encoder
from neolm.models.hf import load_model, save_model

HEADS = {
    "none": "Model",
    "pretraining": "ForPreTraining",
    "masked": "ForMaskedLM",
    "sentence": "ForNextSentencePrediction",
    "sequence": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "choice": "ForMultipleChoice",
    "span": "ForQuestionAnswering",
}


@st.composite
def oracles(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A family and the settings of one of its models in transformers."""
    family = draw(st.sampled_from(["Bert", "Albert"]))
    # At least 16 channels: a layer norm over a handful blows up rounding by itself.
    heads, head_size = draw(st.sampled_from([(1, 16), (2, 8), (2, 10), (3, 6), (3, 16), (4, 4), (4, 16)]))
    layers = draw(st.integers(1, 5))
    config: dict[str, Any] = {
        "vocab_size": draw(st.integers(20, 120)),
        "hidden_size": heads * head_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": draw(st.sampled_from([8, 24, 50])),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu", "tanh"])),
        "max_position_embeddings": draw(st.integers(24, 40)),
        "type_vocab_size": draw(st.integers(2, 3)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5])),
        "num_labels": draw(st.integers(2, 6)),
    }
    if family == "Albert":
        config |= {
            "embedding_size": draw(st.integers(8, config["hidden_size"])),
            "num_hidden_groups": draw(st.integers(1, layers)),
            "inner_group_num": draw(st.integers(1, 2)),
        }
    return family, config


def reference(family: str, end: str, config: dict[str, Any]) -> Any:
    """A model of transformers with random numbers in all of its parameters."""
    torch.manual_seed(len(str(config)))
    model = getattr(transformers, family + end)(getattr(transformers, f"{family}Config")(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(mean=1.0 if norm else 0.0, std=0.2)
    return model


def expected_logits(model: Any, head: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if head == "choice":
        result: torch.Tensor = model(**{name: value.unsqueeze(1) for name, value in batch.items()}).logits
        return result
    out = model(**batch)
    if head == "span":
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    name = {"none": "last_hidden_state", "pretraining": "prediction_logits"}.get(head, "logits")
    found: torch.Tensor = out[name]
    return found


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(oracle=oracles(), data=st.data())
def test_logits_and_weights_equal_those_of_transformers(
    tmp_path_factory: pytest.TempPathFactory, head: str, oracle: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    family, config = oracle
    if head == "sentence":
        family = "Bert"  # transformers has no ALBERT with this head alone
        config = {
            k: v for k, v in config.items() if k not in ("embedding_size", "num_hidden_groups", "inner_group_num")
        }
    if head not in ("sequence", "token"):
        config = {**config, "num_labels": 2}  # in transformers, it is the width of other heads too
    model = reference(family, HEADS[head], config)
    directory = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(directory)
    ours = load_model(directory)
    assert isinstance(ours, Encoder)
    assert ours.config.head == head
    assert ours.parameter_count() == sum(p.numel() for p in model.parameters())

    B, T = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 24))
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    mask = (torch.arange(T) < lengths.unsqueeze(1)).long()
    if data.draw(st.booleans()):
        mask = mask.flip(1)  # padding on the left
    batch = {
        "input_ids": torch.randint(config["vocab_size"], (B, T)),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, (B, T)),
    }
    if head in ("pretraining", "sentence", "sequence", "choice"):
        batch["attention_mask"][:, 0] = 1  # the first token is pooled, so it is never padding
    with torch.no_grad():
        found, expected = ours(**batch), expected_logits(model, head, batch)
        if head == "pretraining":
            theirs = model(**batch)
            sentence = theirs["sop_logits"] if family == "Albert" else theirs["seq_relationship_logits"]
            assert torch.allclose(ours.sentence_logits(**batch), sentence, rtol=0, atol=1e-5)
    if expected.dim() == 3:
        real = batch["attention_mask"].bool()
        found, expected = found[real], expected[real]
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)

    again = tmp_path_factory.mktemp("ours")
    save_model(ours, again)
    back, info = type(model).from_pretrained(again, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


@pytest.mark.parametrize("sharing", ["attention", "feed-forward", "none"])
def test_partly_shared_parameters_are_written_for_transformers_and_read_again(tmp_path: Path, sharing: str) -> None:
    model = tiny_encoder("albert", num_layers=3, sharing=sharing)
    save_model(model, tmp_path)
    batch = padded_batch(97, [9, 4, 6], 9)
    theirs = transformers.AlbertForPreTraining.from_pretrained(tmp_path).eval()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = theirs(**batch).prediction_logits
        assert torch.allclose(model(**batch)[real], expected[real], rtol=0, atol=1e-5)
        again = load_model(tmp_path)
        assert torch.equal(again(**batch), model(**batch))
    assert again.parameter_count() == model.parameter_count()
    distinct = sum(p.numel() for p in theirs.parameters())
    assert (again.parameter_count() < distinct) is (sharing != "none")
