"""Decoders that classify texts by their last token: padding, gradients, files, and commands that write refuse them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import tiny_decoder
from typer.testing import CliRunner

import neolm
from neolm.cli import app
from neolm.core.errors import InputError, SettingError
from neolm.evaluation.evaluate import evaluate_model
from neolm.evaluation.language_model import DecoderLanguageModel
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder, without_gaps
from neolm.models.gguf import export_gguf
from neolm.models.hf import convert, load_decoder, load_model, save_model
from neolm.tokenizer.tokenizer import train_tokenizer
from neolm.training.pretrain import resolve_architecture
from neolm.training.pretrain_config import PretrainConfig

FAMILIES = ["gpt2", "gpt-neo", "gpt-neox"]
TEXT = "The sea is water, and more water under it. It was a bright cold day in April, and the clocks were striking."


def classifier(family: str = "gpt-neo", **fields: object) -> Decoder:
    window = {"window_size": 4} if family == "gpt-neo" else {}
    return tiny_decoder(family, 32, **{"head": "sequence", "num_labels": 3, **window, **fields})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(classifier(), tmp_path / "model")
    train_tokenizer(iter([TEXT] * 3), 310).save(tmp_path / "model")
    return tmp_path / "model"


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5))
def test_real_tokens_are_moved_to_the_left_in_their_order(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    ids = torch.arange(mask.numel()).view(mask.shape)
    found, lengths = without_gaps(ids, mask.long())
    assert found.shape == (len(rows), max(1, *map(sum, rows), 0))
    for row, real in enumerate(mask):
        assert found[row, : lengths[row]].tolist() == ids[row, real].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_text_has_the_same_logits_in_any_batch_with_padding_anywhere(family: str, data: st.DataObject) -> None:
    model = classifier(family)
    texts = data.draw(st.lists(st.lists(st.integers(0, 329), min_size=1, max_size=30), min_size=1, max_size=5))
    T = max(map(len, texts)) + data.draw(st.integers(0, 8))  # may be wider than the context
    pad = data.draw(st.sampled_from([0, texts[0][-1]]))  # also a token that ends a text
    ids, mask = torch.full((len(texts), T), pad), torch.zeros(len(texts), T, dtype=torch.long)
    for row, text in enumerate(texts):
        start = data.draw(st.integers(0, T - len(text)))
        ids[row, start : start + len(text)], mask[row, start : start + len(text)] = torch.tensor(text), 1
    with torch.no_grad():
        together = model(ids, mask)
        assert together.shape == (len(texts), 3)
        for row, text in enumerate(texts):
            alone = torch.tensor([text])
            assert torch.allclose(model(alone)[0], together[row], rtol=0, atol=1e-5)
            last = model(alone, logits=False)[:, -1]
            assert torch.allclose(model.head(last)[0], together[row], rtol=0, atol=1e-5)


def test_the_last_token_is_read_and_earlier_ones_too() -> None:
    model, ids = classifier("gpt2"), torch.tensor([[1, 2, 3, 4]])
    for place in range(4):
        changed = ids.clone()
        changed[0, place] = 9
        assert not torch.allclose(model(changed), model(ids))
    assert torch.equal(model(ids, torch.tensor([[1, 1, 0, 0]])), model(ids[:, :2]))


def test_a_language_model_has_pooled_states_too() -> None:
    model, ids = tiny_decoder("gpt2", 32), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(model.pooled(ids), model(ids, logits=False)[:, -1])


def test_an_empty_text_has_the_logits_of_zeros() -> None:
    model = classifier()
    logits = model(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0, 0], [1, 1]]))
    assert logits[0].tolist() == [0, 0, 0]
    assert torch.allclose(logits[1], model(torch.tensor([[3, 4]]))[0], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_the_gradient_of_the_texts_one_by_one(family: str) -> None:
    model, lengths = classifier(family, tie_embeddings=True), [7, 20, 1, 12]
    ids = torch.randint(330, (4, 20), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(20) < torch.tensor(lengths).unsqueeze(1)).long()
    labels = torch.tensor([0, 2, 1, 1])
    torch.nn.functional.cross_entropy(model(ids, mask), labels, reduction="sum").backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, length in enumerate(lengths):
        torch.nn.functional.cross_entropy(model(ids[row : row + 1, :length]), labels[row : row + 1]).backward()
    assert {"embedding.weight", "head.weight"} <= found.keys()  # the head is not tied
    for name, parameter in model.named_parameters():
        assert found[name].abs().max() > 0, name
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-5 * max(1, parameter.grad.abs().max()))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_classifier_keeps_its_head_and_survives_saving(family: str, quantize: str, tmp_path: Path) -> None:
    model = classifier(family, labels=("a", "b", "c"))
    save_model(model, tmp_path / "wide")
    convert(tmp_path / "wide", tmp_path / "narrow", quantize=quantize)
    expected = load_model(tmp_path / "wide", device="cpu", quantize=quantize)
    again = load_model(tmp_path / "narrow", device="cpu")
    assert again.config == model.config
    assert again.quantized
    assert torch.equal(again.head.weight, model.head.weight)
    assert torch.equal(again.embedding.weight, model.embedding.weight)
    ids = torch.randint(330, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(ids), expected(ids))


def test_misuse_is_refused() -> None:
    model, ids = classifier(), torch.zeros(1, 33, dtype=torch.long)
    with pytest.raises(ValueError, match="33 tokens are more than the 32 positions of the model"):
        model(ids)
    assert model(ids, (torch.arange(33) < 32).long().unsqueeze(0)).shape == (1, 3)
    for keys in ({"labels": ids[:, :4]}, {"positions": torch.arange(4)}):
        with pytest.raises(ValueError, match="takes input_ids and attention_mask only"):
            model(ids[:, :4], **keys)
    with pytest.raises(SettingError, match="labels: there are 1 names for 2 outputs"):
        decoder_config("gpt2", vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, head="sequence", labels=("a",))


def test_the_number_of_labels_is_that_of_the_tensor(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = json.loads((directory / "config.json").read_text()) | {"id2label": {"0": "no", "1": "yes"}}
    (directory / "config.json").write_text(json.dumps(raw))
    assert load_model(directory, device="cpu").config.num_labels == 3
    assert "the classifier has 3 outputs, but config.json says 2 labels" in capsys.readouterr().err


def test_a_missing_head_is_named(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors.pop("score.weight")
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(InputError, match=r"1 tensor is missing: score\.weight"):
        load_model(directory, device="cpu")


def test_what_writes_text_refuses_a_classifier(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some text.")
    for arguments in (
        ["generate", str(directory), "a"],
        ["chat", str(directory)],
        ["evaluate", str(directory), "--text", str(tmp_path / "text.txt")],
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, InputError), done.output
        assert str(done.exception).startswith(f"{directory}: this GPT-Neo is a classifier: it reads text and cannot")
    refused = "this GPT-Neo is a classifier: it reads text and cannot write it"
    with pytest.raises(InputError, match=refused):
        load_decoder(directory)
    with pytest.raises(InputError, match=refused):
        evaluate_model(directory, tmp_path / "text.txt")
    with pytest.raises(InputError, match=refused):
        export_gguf(directory, tmp_path / "model.gguf", {}, 0)
    model, tokenizer = load_model(directory, device="cpu"), neolm.load_tokenizer(directory)
    with pytest.raises(InputError, match=f"generation: {refused}"):
        neolm.generate(model, tokenizer, "a")
    with pytest.raises(InputError, match=f"evaluation: {refused}"):
        DecoderLanguageModel(model, tokenizer)
    with pytest.raises(InputError, match=f"generation: {refused}"):
        neolm.generate(tiny_decoder("gpt2", 32), tokenizer, "a", draft=model)
    with pytest.raises(InputError, match=refused):
        resolve_architecture(directory, PretrainConfig(steps=1, sequence_length=8), 310, {}, tmp_path / "run")


def test_the_card_says_what_it_does(directory: Path, tmp_path: Path) -> None:
    from neolm.exchange import import_directory

    import_directory(str(directory), tmp_path / "copy", None)
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "A GPT-Neo classifier" in card
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert "neolm generate" not in card


def test_its_description_and_size() -> None:
    model = classifier("gpt2")
    assert "head sequence" in repr(model)
    assert model.parameter_count() == tiny_decoder("gpt2", 32).parameter_count() + 3 * 32  # the other's head is tied
    language_model = tiny_decoder("gpt2", 32).config
    assert model.config.flops_per_token(8) == language_model.flops_per_token(8) - 6 * 32 * 330
