"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023), which has the same architecture.

Defaults of absent keys: `configuration_gpt_neox.py` of transformers 5.23. Left out: rotary scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from neolm.core.errors import InputError, shortened
from neolm.models.families.family import DECODER_HEADS, Family, Key, Preset, Rule

if TYPE_CHECKING:
    from neolm.models.config import DecoderConfig


def _initialisation(config: DecoderConfig) -> dict[str, float]:
    """N(0, sqrt(2/(5C))), residual layers N(0, 2/(L sqrt(C))) (section 3).

    Sources of the two: Nguyen & Salazar 2019; Wang & Komatsuzaki 2021.
    """
    residual = 2 / (config.num_layers * math.sqrt(config.hidden_size))
    return {"attention.output.": residual, "mlp.contract.": residual, "": math.sqrt(2 / (5 * config.hidden_size))}


def _read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """One switch for both biases and one dropout; rotary settings of `rope_parameters` (transformers 5)."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise InputError(f"rope_parameters: a mapping is expected, not {shortened(rope)}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InputError(f"rotary scaling of the type {shortened(kind)} is not supported, only 'default'")
    names = {"rope_theta": "rotary_base", "partial_rotary_factor": "rotary_fraction"}
    rotary = {ours: rope[theirs] for theirs, ours in names.items() if rope.get(theirs) is not None}
    return {"output_bias": fields["qkv_bias"], "embedding_dropout": fields["residual_dropout"], **rotary}


def _write(config: DecoderConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": config.rotary_base, "partial_rotary_factor": config.rotary_fraction}
    return {"intermediate_size": config.mlp_size, "rope_parameters": rope}


def _limits(config: DecoderConfig) -> Iterator[tuple[str, str]]:
    if config.windows != {None}:
        yield "attention_layers", "only gpt-neo has local layers"
    if not config.has_standard_scale:
        yield "attention_scale", "leave it null (1/sqrt(head size))"
    if config.qkv_bias != config.output_bias:
        yield "output_bias", "it has one switch for both: make qkv_bias and output_bias equal"
    if config.embedding_dropout != config.residual_dropout:
        yield "embedding_dropout", f"it must equal residual_dropout ({config.residual_dropout})"


# Pythia pads its vocabulary to a multiple of 128 x its tensor-parallel degree.
GPT_NEOX = Family(
    name="gpt-neox",
    title="GPT-NeoX",
    defaults={
        "max_position_embeddings": 2048,
        "position_embedding": "rotary",
        "parallel_residual": True,
        "tie_embeddings": False,
        "activation": "gelu",
    },
    presets=(
        Preset("pythia-14m", 6, 128, 4, 14_067_712, vocab_size=50304),
        Preset("pythia-31m", 6, 256, 8, 30_494_720, vocab_size=50304),
        Preset("pythia-70m", 6, 512, 8, 70_426_624, vocab_size=50304),
        Preset("pythia-160m", 12, 768, 12, 162_322_944, vocab_size=50304),
        Preset("pythia-410m", 24, 1024, 16, 405_334_016, vocab_size=50304),
        Preset("pythia-1b", 16, 2048, 8, 1_011_781_632, vocab_size=50304),
        Preset("pythia-1.4b", 24, 2048, 16, 1_414_647_808, vocab_size=50304),
        Preset("pythia-2.8b", 32, 2560, 32, 2_775_208_960, vocab_size=50304),
        Preset("pythia-6.9b", 32, 4096, 32, 6_857_302_016, vocab_size=50432),
        Preset("pythia-12b", 36, 5120, 40, 11_846_072_320, vocab_size=50688),
        Preset("gpt-neox-20b", 44, 6144, 64, 20_554_567_680, vocab_size=50432, other={"activation": "gelu_fast"}),
    ),
    initialisation=_initialisation,
    model_type="gpt_neox",
    architecture="GPTNeoX",
    keys=(
        Key("vocab_size", ("vocab_size",), 50432),
        Key("max_position_embeddings", ("max_position_embeddings",), 2048),
        Key("hidden_size", ("hidden_size",), 6144),
        Key("num_layers", ("num_hidden_layers",), 44),
        Key("num_heads", ("num_attention_heads",), 64),
        Key("intermediate_size", ("intermediate_size",), 24576),
        Key("activation", ("hidden_act",), "gelu"),
        Key("residual_dropout", ("hidden_dropout", "hidden_dropout_prob"), 0.0),
        Key("attention_dropout", ("attention_dropout", "attention_probs_dropout_prob"), 0.0),
        Key("norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon"), 1e-5),
        Key("rotary_fraction", ("rotary_pct", "partial_rotary_factor"), 0.25),
        Key("rotary_base", ("rotary_emb_base", "rope_theta"), 10000.0),
        Key("parallel_residual", ("use_parallel_residual",), True),
        Key("qkv_bias", ("attention_bias",), True),
        Key("tie_embeddings", ("tie_word_embeddings",), False),
        Key("bos_token_id", ("bos_token_id",), 0),
        Key("eos_token_id", ("eos_token_id",), 2),
    ),
    fixed={"position_embedding": "rotary", "scale_attention_by_layer": False},
    read=_read,
    write=_write,
    limits=_limits,
    prefix="gpt_neox.",
    head="embed_out",
    rules=(
        Rule("embedding", ("embed_in",)),
        Rule("blocks.#.attention_norm", ("layers.#.input_layernorm",)),
        Rule("blocks.#.attention.qkv", ("layers.#.attention.query_key_value",), "interleaved"),
        Rule("blocks.#.attention.output", ("layers.#.attention.dense",)),
        Rule("blocks.#.mlp_norm", ("layers.#.post_attention_layernorm",)),
        Rule("blocks.#.mlp.expand", ("layers.#.mlp.dense_h_to_4h",)),
        Rule("blocks.#.mlp.contract", ("layers.#.mlp.dense_4h_to_h",)),
        Rule("norm", ("final_layer_norm",)),
    ),
    head_rules=DECODER_HEADS,
    gguf="gptneox",
)
