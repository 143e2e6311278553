"""`config.json`: published files, refused files, and settings that a family's format cannot express."""

from __future__ import annotations

import json

import pytest

from neolm.core.errors import InputError
from neolm.models.config import decoder_config
from neolm.models.encoder_config import encoder_config
from neolm.models.families import ENCODERS, PRESETS, preset
from neolm.models.hf_config import hf_config, read_config

# The keys of the published files.
GPT2 = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}
GPT_NEO = {
    "model_type": "gpt_neo",
    "activation_function": "gelu_new",
    "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 12,
    "attention_types": [[["global", "local"], 12]],
    "bos_token_id": 50256,
    "embed_dropout": 0,
    "eos_token_id": 50256,
    "hidden_size": 2048,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048,
    "num_heads": 16,
    "num_layers": 24,
    "resid_dropout": 0,
    "vocab_size": 50257,
    "window_size": 256,
}
GPT_NEOX = {
    "model_type": "gpt_neox",
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 64,
    "num_hidden_layers": 44,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50432,
}


def read(tmp_path, raw):
    (tmp_path / "config.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return read_config(tmp_path)


def resolved(name, **fields):
    given = preset(name) | fields
    family = given.pop("family")
    return (encoder_config if family in ENCODERS else decoder_config)(family, **given)


def test_published_files_are_the_presets(tmp_path):
    dropouts = dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), 0.1)
    tokens = {"bos_token_id": 50256, "eos_token_id": 50256}
    assert read(tmp_path, GPT2) == resolved("gpt2", **dropouts, **tokens)
    assert read(tmp_path, GPT_NEO) == resolved("gpt-neo-1.3b", **tokens)
    assert read(tmp_path, GPT_NEOX) == resolved("gpt-neox-20b", bos_token_id=0, eos_token_id=0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_round_trip(name, tmp_path):
    tokens = {} if PRESETS[name][0] == "bert" else {"eos_token_id": 7, "bos_token_id": 2}
    config = resolved(name, **tokens)
    assert read(tmp_path, hf_config(config)) == config


def test_gpt3_is_written_as_gpt2():
    assert hf_config(resolved("gpt3-small"))["model_type"] == "gpt2"


@pytest.mark.parametrize(
    ("layers", "types"), [(4, [[["global", "local"], 2]]), (3, [[["global", "local", "global"], 1]])]
)
def test_attention_types_are_as_long_as_the_model(layers, types):
    raw = hf_config(resolved("gpt-neo-125m", num_layers=layers))
    assert raw["attention_types"] == types
    assert raw["attention_layers"] == ["global", "local", "global", "local"][:layers]


def test_scales_of_gpt2(tmp_path):
    config = read(tmp_path, GPT2 | {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True})
    assert config.scale(0) == 1.0
    assert config.scale(3) == 0.25
    assert read(tmp_path, hf_config(config)) == config


def test_gpt_neox_has_one_dropout_for_embeddings_and_residuals(tmp_path):
    config = read(tmp_path, GPT_NEOX | {"hidden_dropout_prob": 0.1})
    assert (config.embedding_dropout, config.residual_dropout) == (0.1, 0.1)
    assert read(tmp_path, hf_config(config)) == config


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON object is expected"),
        ("", "not valid JSON"),
        ({}, "model_type None is not supported; supported are gpt2, gpt_neo, gpt_neox"),
        (GPT2 | {"model_type": "llama"}, "model_type 'llama' is not supported"),
        (GPT2 | {"model_type": ["gpt2"]}, "is not supported"),
        (GPT2 | {"add_cross_attention": True}, "cross-attention is not supported"),
        (GPT2 | {"quantization_config": {"bits": 4}}, "quantization_config: the method None is not supported"),
        (GPT2 | {"activation_function": "gelu_nwe"}, "activation: must be .*did you mean 'gelu_new'"),
        (GPT2 | {"n_embd": 770}, "hidden_size: 770 is not a multiple of num_heads 12"),
        (GPT2 | {"n_embd": "wide"}, "n_embd, read as hidden_size: must be .*not 'wide'"),
        (GPT2 | {"n_layer": -1}, "n_layer, read as num_layers: must be"),
        (GPT2 | {"vocab_size": None}, "vocab_size: must be"),
        (GPT2 | {"vocab_size": 10**30}, "vocab_size: must be"),
        (GPT2 | {"vocab_size": 2**63}, "vocab_size: must be"),
        (GPT2 | {"n_embd": 2**31}, "hidden_size: must be"),
        (GPT2 | {"n_embd": 12 * 2**20, "n_head": 1}, "hidden_size: must be"),
        (GPT2 | {"n_inner": 1e400}, "intermediate_size: "),
        (GPT2 | {"layer_norm_epsilon": float("nan")}, "norm_epsilon: "),
        (GPT2 | {"model_type": "x" * 10**6}, r"model_type 'x+\.\.\. is not supported"),
        (GPT_NEO | {"num_layers": 23}, "they name 24 layers, num_layers is 23"),
        (GPT_NEO | {"attention_types": [[["local"], 24]]}, "contradict"),
        (GPT_NEO | {"attention_types": [3]}, "attention_types: expected"),
        (GPT_NEO | {"attention_types": 3}, "attention_types: expected"),
        (GPT_NEO | {"attention_types": [[["global"], "24"]]}, "attention_types: expected"),
        (GPT_NEO | {"attention_types": [[["global"], True]]}, "attention_types: expected"),
        (GPT_NEO | {"attention_types": [["global", 24]]}, "attention_types: expected"),
        (
            GPT_NEO | {"attention_types": [[["global"], 3 * 10**8]], "attention_layers": None},
            "they name more than 1000 layers, num_layers is 24",
        ),
        (GPT_NEO | {"attention_types": [[["global"], 10**30]], "num_layers": 10**8}, "num_layers: must be"),
        (GPT_NEO | {"attention_types": [[["global"], 10**30]], "attention_layers": None}, "more than 1000 layers"),
        (GPT_NEO | {"attention_types": [[["global"], -(10**30)]], "attention_layers": None}, "they name 0 layers"),
        (GPT_NEO | {"attention_types": [[[], 10**30]], "attention_layers": None}, "they name 0 layers"),
        (GPT_NEO | {"num_layers": 40_000, "attention_layers": ["global"] * 39_999 + ["local"]}, "num_layers: must be"),
        (GPT_NEO | {"num_layers": "24"}, "num_layers: must be"),
        (GPT_NEO | {"attention_types": None, "attention_layers": "global"}, "they name"),
        (GPT_NEO | {"attention_types": [[["wide"], 24]], "attention_layers": None}, "must be 'global' or 'local'"),
        (GPT_NEOX | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaling of the type 'linear'"),
        (GPT_NEOX | {"rope_parameters": {"rope_type": "yarn"}}, "scaling of the type 'yarn'"),
        (GPT_NEOX | {"rope_parameters": [1]}, "rope_parameters: a mapping is expected"),
        (GPT_NEOX | {"rotary_pct": 0.01}, "rotary_fraction"),
    ],
)
def test_refused_files(raw, match, tmp_path):
    with pytest.raises(InputError, match=match) as caught:
        read(tmp_path, raw)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "fields", "match"),
    [
        ("gpt2", {"attention_layers": ("global", "local")}, "attention_layers: .*only gpt-neo has local layers"),
        ("gpt2", {"position_embedding": "rotary"}, "position_embedding"),
        ("gpt2", {"qkv_bias": False}, "qkv_bias"),
        ("gpt2", {"parallel_residual": True}, "parallel_residual"),
        ("gpt2", {"attention_scale": 0.3}, "attention_scale"),
        ("gpt-neo", {"qkv_bias": True}, "qkv_bias"),
        ("gpt-neo", {"attention_scale": 0.5}, "attention_scale"),
        ("gpt-neo", {"scale_attention_by_layer": True}, "scale_attention_by_layer"),
        ("gpt-neox", {"attention_layers": ("local",)}, "attention_layers"),
        ("gpt-neox", {"position_embedding": "learned"}, "position_embedding"),
        ("gpt-neox", {"output_bias": False}, "output_bias"),
        ("gpt-neox", {"attention_scale": 1.0}, "attention_scale"),
        ("gpt-neox", {"embedding_dropout": 0.1}, "embedding_dropout"),
    ],
)
def test_settings_that_a_format_cannot_express(family, fields, match):
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 16}
    with pytest.raises(InputError, match=rf"^{match}"):
        hf_config(decoder_config(family, **sizes | fields))
    hf_config(decoder_config(family, **sizes))
