"""Directories are bit-equal in both directions between NeoLM and `transformers`, with all known names."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from neolm.core.errors import InputError
from neolm.models.hf import convert, load_model, save_model

FAMILIES = ["gpt2", "gpt-neo", "gpt-neox"]
PREFIX = {"gpt2": "transformer.", "gpt-neo": "transformer.", "gpt-neox": "gpt_neox."}


def _same(ours, theirs, dtype=torch.float32):
    """Whether the weights of two models are bit-equal."""
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    return all(a[name].dtype == dtype and torch.equal(a[name], b[name]) for name in a)


def _edit_config(directory, remove=(), **keys):
    path = directory / "config.json"
    raw = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in raw.items() if key not in remove}))


def _rewrite(directory, change):
    """Replace the tensors in a directory's file by `change(tensors)`."""
    tensors = change(load_file(directory / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_survive_the_round_trip_bit_for_bit(family, tied, tmp_path, oracle):
    theirs = oracle(family, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    save_model(ours, tmp_path / "ours")
    back = type(theirs).from_pretrained(tmp_path / "ours")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert back.config.tie_word_embeddings is tied
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert ("embed_out.weight" in written) == (family == "gpt-neox" and not tied)
    assert ("lm_head.weight" in written) == (family != "gpt-neox" and not tied)
    assert _same(ours, load_model(tmp_path / "ours", device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_our_configuration_as_its_own(family, tmp_path, oracle, random_keys):
    for seed in range(8):
        theirs = oracle(family, seed, **random_keys(family, seed))
        theirs.save_pretrained(tmp_path / "theirs")
        convert(tmp_path / "theirs", tmp_path / "ours")
        got = transformers.AutoConfig.from_pretrained(tmp_path / "ours").to_dict()
        expected = transformers.AutoConfig.from_pretrained(tmp_path / "theirs").to_dict()
        spelled_otherwise = ("_name_or_path", "n_inner", "intermediate_size", "attention_types")
        without_effect = ("transformers_version", "reorder_and_upcast_attn")
        for key, value in expected.items():
            if key not in spelled_otherwise + without_effect:
                assert got.get(key) == value, key
        generation = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
        assert (generation.bos_token_id, generation.eos_token_id) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_kept(family, dtype, tmp_path, oracle):
    theirs = oracle(family).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert back.dtype == dtype
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    narrow = load_model(tmp_path / "theirs", device="cpu", dtype=dtype)
    assert _same(narrow, load_model(tmp_path / "ours", device="cpu", dtype=str(dtype).removeprefix("torch.")), dtype)
    save_model(narrow, tmp_path / "wide", dtype="float32")
    assert _same(narrow.float(), load_model(tmp_path / "wide"))


@pytest.mark.parametrize("family", FAMILIES)
def test_shards(family, tmp_path, oracle):
    theirs = oracle(family, tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="6KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole = load_model(tmp_path / "whole", device="cpu")
    assert _same(whole, load_model(tmp_path / "shards", device="cpu"))
    save_model(whole, tmp_path / "ours", max_shard_bytes=6000)
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size < 8000 for path in (tmp_path / "ours").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    back = type(theirs).from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert _same(whole, load_model(tmp_path / "ours", device="cpu"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_bin(family, sharded, legacy, tmp_path, oracle):
    theirs = oracle(family, tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    expected = load_model(tmp_path, device="cpu")
    (tmp_path / "model.safetensors").unlink()
    tensors = theirs.state_dict()
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"] if sharded else []
    places = {name: names[number % 2] for number, name in enumerate(tensors)} if sharded else {}
    for file in names or ["pytorch_model.bin"]:
        part = {name: tensor for name, tensor in tensors.items() if places.get(name, file) == file}
        torch.save(part, tmp_path / file, _use_new_zipfile_serialization=not legacy)
    if sharded:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert _same(expected, load_model(tmp_path, device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_without_the_prefix_and_buffers_of_old_files(family, tmp_path, oracle):
    oracle(family).save_pretrained(tmp_path)
    expected = load_model(tmp_path, device="cpu")
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
    buffers = {
        "gpt2": ("h.0.attn.bias", "h.1.attn.masked_bias", "h.0.crossattention.bias"),
        "gpt-neo": ("h.0.attn.attention.bias", "h.0.attn.attention.masked_bias"),
        "gpt-neox": (
            "layers.0.attention.bias",
            "layers.0.attention.masked_bias",
            "layers.1.attention.rotary_emb.inv_freq",
        ),
    }[family]
    _rewrite(tmp_path, lambda tensors: tensors | {PREFIX[family] + name: mask for name in buffers})
    assert _same(expected, load_model(tmp_path, device="cpu"))
    _rewrite(tmp_path, lambda tensors: {name.removeprefix(PREFIX[family]): tensor for name, tensor in tensors.items()})
    assert _same(expected, load_model(tmp_path, device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_file_that_also_has_the_head(family, tmp_path, oracle):
    oracle(family, tie_word_embeddings=True).save_pretrained(tmp_path)
    expected = load_model(tmp_path, device="cpu")
    table = next(
        name for name in load_file(tmp_path / "model.safetensors") if name.endswith(("wte.weight", "_in.weight"))
    )
    _rewrite(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors[table]})
    assert _same(expected, load_model(tmp_path, device="cpu"))
    _rewrite(tmp_path, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != table})
    assert _same(expected, load_model(tmp_path, device="cpu"))
    _rewrite(tmp_path, lambda tensors: tensors | {table: tensors["lm_head.weight"] + 1})
    with pytest.raises(InputError, match=r"lm_head\.weight differs from .*tie_word_embeddings"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("head", ["lm_head.weight", "embed_out.weight"])
def test_both_names_of_the_neox_head_and_rotary_keys(head, tmp_path, oracle, difference):
    theirs = oracle("gpt-neox", rotary_pct=0.25, rotary_emb_base=500)
    theirs.save_pretrained(tmp_path)
    _rewrite(
        tmp_path,
        lambda tensors: {head if "embed_out" in name or "lm_head" in name else name: tensors[name] for name in tensors},
    )
    ids = torch.arange(32).unsqueeze(0)
    assert difference(load_model(tmp_path, device="cpu"), theirs, ids) <= 1e-5
    _edit_config(tmp_path, remove=["rope_parameters"], rotary_pct=0.25, rotary_emb_base=500)
    assert difference(load_model(tmp_path, device="cpu"), theirs, ids) <= 1e-5
    _edit_config(tmp_path, rope_scaling=None, rope_parameters={"type": "default", "rope_theta": 500.0})
    assert difference(load_model(tmp_path, device="cpu"), theirs, ids) <= 1e-5
    again = type(theirs).from_pretrained(tmp_path, attn_implementation="eager")
    assert difference(load_model(tmp_path, device="cpu"), again, ids) <= 1e-5


def test_gpt_neo_aliases_and_layers(tmp_path, oracle):
    oracle("gpt-neo", num_layers=3, attention_types=[[["global", "local"], 1], [["global"], 1]]).save_pretrained(
        tmp_path
    )
    expected = load_model(tmp_path, device="cpu")
    assert expected.config.attention_layers == ("global", "local")
    _edit_config(tmp_path, remove=["num_layers", "num_heads"], num_hidden_layers=3, num_attention_heads=2)
    assert load_model(tmp_path, device="cpu").config == expected.config
    _edit_config(tmp_path, remove=["attention_types"])
    assert load_model(tmp_path, device="cpu").config == expected.config


def test_newly_initialised_models_of_transformers_load(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8, eos_token_id=[3, 4])
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").config.end_tokens == (3, 4)
