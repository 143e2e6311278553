"""Decoders that classify: logits, config.json and weights are those of transformers, in both directions."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from neolm.models.hf import load_model, save_model

FAMILIES = ["gpt2", "gpt-neo", "gpt-neox"]
LABELS = {0: "praise", 1: "blame", 2: "neither"}


def batch_of(model, lengths, left=False, pad=30):
    """Random tokens without the token `pad`, which fills them up: transformers finds the last token by it."""
    T = max(lengths) + 2
    mask = (torch.arange(T) < torch.tensor(lengths).unsqueeze(1)).long()
    if left:
        mask = mask.flip(1)
    ids = torch.randint(pad, mask.shape, generator=torch.Generator().manual_seed(sum(lengths)))
    return ids.masked_fill(mask == 0, pad), mask


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(family, seed, left, tmp_path, oracle, random_keys):
    theirs = oracle(
        family, seed, classifier=True, num_labels=1 + seed % 4, pad_token_id=30, **random_keys(family, seed)
    )
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, device="cpu")
    context = theirs.config.max_position_embeddings
    ids, mask = batch_of(theirs, [context - 2, 1, 5, 9], left)
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
        assert expected.shape == (4, 1 + seed % 4)
        assert torch.allclose(ours(ids, mask), expected, rtol=0, atol=1e-5)
        whole = torch.randint(30, (2, context), generator=torch.Generator().manual_seed(seed))
        expected = theirs(whole, attention_mask=torch.ones_like(whole)).logits
        assert torch.allclose(ours(whole), expected, rtol=0, atol=1e-5)  # no mask: no padding


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_configuration_survive_the_round_trip(family, tmp_path, oracle):
    keys = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}, "pad_token_id": 7}
    theirs = oracle(family, classifier=True, problem_type="multi_label_classification", **keys)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    config = ours.config
    assert (config.head, config.num_labels, config.labels) == ("sequence", 3, tuple(LABELS.values()))
    assert (config.problem, config.pad_token_id) == ("multi_label_classification", 7)
    save_model(ours, tmp_path / "ours")
    back, notes = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(notes.values()), notes
    assert type(back) is type(theirs)
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    expected, got = (transformers.AutoConfig.from_pretrained(tmp_path / name) for name in ("theirs", "ours"))
    for key in ("num_labels", "id2label", "label2id", "problem_type", "pad_token_id", "architectures", "model_type"):
        assert getattr(got, key) == getattr(expected, key), key
    assert "score.weight" in load_file(tmp_path / "ours" / "model.safetensors")
    assert not (tmp_path / "ours" / "generation_config.json").exists()
    again = load_model(tmp_path / "ours", device="cpu")
    assert again.config == config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_output_is_read_as_such_and_files_with_few_keys_load(family, tmp_path, oracle):
    oracle(family, classifier=True, num_labels=1).save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").config.num_labels == 1
    path = tmp_path / "config.json"
    raw = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("id2label", "label2id", "pad_token_id")}
    path.write_text(json.dumps(raw))
    config = load_model(tmp_path, device="cpu").config  # the number of outputs is that of the tensor
    assert (config.num_labels, config.labels, config.pad_token_id) == (1, None, None)
