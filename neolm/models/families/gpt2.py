"""GPT-2 (Radford et al. 2019). Defaults of absent keys: `configuration_gpt2.py` of transformers 5.23."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from neolm.models.families.family import DECODER_HEADS, TOKEN_KEYS, Family, Key, Preset, Rule

if TYPE_CHECKING:
    from neolm.models.config import DecoderConfig


def _initialisation(config: DecoderConfig) -> dict[str, float]:
    """N(0, 0.02), positions N(0, 0.01) (openai/gpt-2 src/model.py); residual layers 0.02/sqrt(2L) (section 2.3)."""
    residual = 0.02 / math.sqrt(2 * config.num_layers)
    return {"positions.": 0.01, "attention.output.": residual, "mlp.contract.": residual, "": 0.02}


def _read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_scale": 1.0} if raw.get("scale_attn_weights", True) is False else {}


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "n_ctx": config.max_position_embeddings,
        "reorder_and_upcast_attn": False,
        "scale_attn_weights": not _unscaled(config),
    }


def _limits(config: DecoderConfig) -> Iterator[tuple[str, str]]:
    if config.windows != {None}:
        yield "attention_layers", "only gpt-neo has local layers"
    if not (config.has_standard_scale or _unscaled(config)):
        yield "attention_scale", "leave it null (1/sqrt(head size))"


def _unscaled(config: DecoderConfig) -> bool:
    return config.attention_scale == 1.0 and config.head_size != 1


GPT2 = Family(
    name="gpt2",
    title="GPT-2",
    defaults={"max_position_embeddings": 1024},
    presets=(
        Preset("gpt2", 12, 768, 12, 124_439_808),
        Preset("gpt2-medium", 24, 1024, 16, 354_823_168),
        Preset("gpt2-large", 36, 1280, 20, 774_030_080),
        Preset("gpt2-xl", 48, 1600, 25, 1_557_611_200),
    ),
    initialisation=_initialisation,
    model_type="gpt2",
    architecture="GPT2",
    language_model="LMHeadModel",
    keys=(
        Key("vocab_size", ("vocab_size",), 50257),
        Key("max_position_embeddings", ("n_positions", "max_position_embeddings", "n_ctx"), 1024),
        Key("hidden_size", ("n_embd", "hidden_size"), 768),
        Key("num_layers", ("n_layer", "num_hidden_layers"), 12),
        Key("num_heads", ("n_head", "num_attention_heads"), 12),
        Key("intermediate_size", ("n_inner",), None),
        Key("activation", ("activation_function",), "gelu_new"),
        Key("residual_dropout", ("resid_pdrop",), 0.1),
        Key("embedding_dropout", ("embd_pdrop",), 0.1),
        Key("attention_dropout", ("attn_pdrop",), 0.1),
        Key("norm_epsilon", ("layer_norm_epsilon", "layer_norm_eps"), 1e-5),
        Key("scale_attention_by_layer", ("scale_attn_by_inverse_layer_idx",), False),
        Key("tie_embeddings", ("tie_word_embeddings",), True),
        *TOKEN_KEYS,
    ),
    fixed={"position_embedding": "learned", "parallel_residual": False, "qkv_bias": True, "output_bias": True},
    read=_read,
    write=_write,
    limits=_limits,
    prefix="transformer.",
    head="lm_head",
    rules=(
        Rule("embedding", ("wte",)),
        Rule("positions", ("wpe",)),
        Rule("blocks.#.attention_norm", ("h.#.ln_1",)),
        Rule("blocks.#.attention.qkv", ("h.#.attn.c_attn",), "transposed"),
        Rule("blocks.#.attention.output", ("h.#.attn.c_proj",), "transposed"),
        Rule("blocks.#.mlp_norm", ("h.#.ln_2",)),
        Rule("blocks.#.mlp.expand", ("h.#.mlp.c_fc",), "transposed"),
        Rule("blocks.#.mlp.contract", ("h.#.mlp.c_proj",), "transposed"),
        Rule("norm", ("ln_f",)),
    ),
    head_rules=DECODER_HEADS,
    gguf="gpt2",
)
