"""ALBERT (Lan et al. 2020). Defaults of absent keys: `configuration_albert.py` of transformers 5.24.

Its format shares all parameters of a group of layers. A model that shares only the attention or only the feed-forward
part is written with one group a layer, in which the shared tensors are repeated, and with the key `shared_parameters`;
transformers, which ignores the key, computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neolm.core.errors import InputError, shortened
from neolm.models.families.bert import ENCODER_DEFAULTS, ENCODER_KEYS, check_encoder, initialisation
from neolm.models.families.family import Copy, Family, Key, Preset, Rule

if TYPE_CHECKING:
    from neolm.models.encoder_config import EncoderConfig

_DEFAULTS = {"hidden_size": 4096, "num_heads": 64, "intermediate_size": 16384}
_PARTS = {
    "attention": tuple(f"attention.{part}" for part in ("query", "key", "value", "dense", "LayerNorm")),
    "feed-forward": ("ffn", "ffn_output", "full_layer_layer_norm"),
}


def _read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    check_encoder(raw)
    shared = raw.get("shared_parameters", "all")
    if shared == "all":
        return {}
    if shared not in _PARTS:
        raise InputError(f"shared_parameters: {shortened(shared)} is not one of {', '.join(_PARTS)}")
    if fields["groups"] != fields["num_layers"] or fields["blocks_per_group"] != 1:
        raise InputError("shared_parameters: there must be one group a layer, with one block")
    return {"groups": 1, "sharing": shared}


def _write(config: EncoderConfig) -> dict[str, Any]:
    groups = {} if config.sharing == "all" else {"num_hidden_groups": config.num_layers}
    shared = {"shared_parameters": config.sharing} if config.sharing in _PARTS else {}
    return {"intermediate_size": config.mlp_size, **groups, **shared}


def _limits(config: EncoderConfig) -> Iterator[tuple[str, str]]:
    if config.embedding_size is None:
        yield "embedding_size", "give the width of the embeddings"
    if config.groups is None:
        yield "groups", "give the number of groups"


def _copies(config: EncoderConfig) -> Iterator[Copy]:
    if config.head in ("pretraining", "masked"):
        yield Copy("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight")
        yield Copy("predictions.decoder.bias", "predictions.bias")
    for part in _PARTS.get(config.sharing, ()):
        for kind in ("weight", "bias"):
            first, *others = (
                f"albert.encoder.{_place(config, layer)}.{part}.{kind}" for layer in range(config.num_layers)
            )
            yield from (Copy(name, first, written=True) for name in others)


def _place(config: EncoderConfig, block: int) -> str:
    group, inner = divmod(block, config.blocks_per_group)
    return f"albert_layer_groups.{group}.albert_layers.{inner}"


def _parameters(width: int) -> int:
    """Parameters with both pretraining heads."""
    trunk = (30000 + 514) * 128 + 2 * 128 + 128 * width + width + 12 * width**2 + 13 * width + width**2 + width
    return trunk + width * 128 + 128 + 2 * 128 + 30000 + 2 * width + 2


def _presets(version: str) -> Iterator[Preset]:
    """v1 was trained with dropout, but for xxlarge, and its files name erf-GELU; v2 has neither."""
    for size, layers, width, heads in (
        ("base", 12, 768, 12),
        ("large", 24, 1024, 16),
        ("xlarge", 24, 2048, 16),
        ("xxlarge", 12, 4096, 64),
    ):
        dropout = 0.1 if version == "v1" and size != "xxlarge" else 0.0
        other = {
            "residual_dropout": dropout,
            "attention_dropout": dropout,
            "activation": "gelu" if version == "v1" else "gelu_new",
        }
        name = f"albert-{size}-{version}"
        yield Preset(name, layers, width, heads, _parameters(width), vocab_size=30000, other=other)


ALBERT = Family(
    name="albert",
    title="ALBERT",
    kind="encoder",
    defaults={
        **ENCODER_DEFAULTS,
        "residual_dropout": 0.0,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.1,
        "activation": "gelu_new",
        "embedding_size": 128,
        "groups": 1,
        "sentence_task": "sop",
    },
    presets=(*_presets("v1"), *_presets("v2")),
    initialisation=initialisation,
    truncated=True,
    model_type="albert",
    architecture="Albert",
    keys=(
        Key("vocab_size", ("vocab_size",), 30000),
        *(replace(key, default=_DEFAULTS.get(key.field, key.default)) for key in ENCODER_KEYS),
        Key("embedding_size", ("embedding_size",), 128),
        Key("groups", ("num_hidden_groups",), 1),
        Key("blocks_per_group", ("inner_group_num",), 1),
        Key("activation", ("hidden_act",), "gelu_new"),
        Key("residual_dropout", ("hidden_dropout_prob",), 0.0),
        Key("attention_dropout", ("attention_probs_dropout_prob",), 0.0),
        Key("classifier_dropout", ("classifier_dropout_prob",), 0.1),
        Key("bos_token_id", ("bos_token_id",), 2),
        Key("eos_token_id", ("eos_token_id",), 3),
    ),
    fixed={},
    read=_read,
    write=_write,
    limits=_limits,
    prefix="albert.",
    head="predictions",
    rules=(
        Rule("embedding", ("embeddings.word_embeddings",)),
        Rule("positions", ("embeddings.position_embeddings",)),
        Rule("token_types", ("embeddings.token_type_embeddings",)),
        Rule("embedding_norm", ("embeddings.LayerNorm",)),
        Rule("projection", ("encoder.embedding_hidden_mapping_in",)),
        Rule(
            "blocks.#.attention.qkv",
            tuple(f"encoder.#.attention.{part}" for part in ("query", "key", "value")),
            "stacked",
        ),
        Rule("blocks.#.attention.output", ("encoder.#.attention.dense",)),
        Rule("blocks.#.attention_norm", ("encoder.#.attention.LayerNorm",)),
        Rule("blocks.#.mlp.expand", ("encoder.#.ffn",)),
        Rule("blocks.#.mlp.contract", ("encoder.#.ffn_output",)),
        Rule("blocks.#.mlp_norm", ("encoder.#.full_layer_layer_norm",)),
        Rule("pooler", ("pooler",)),
    ),
    head_rules={
        "masked": (
            Rule("head.transform", ("predictions.dense",)),
            Rule("head.norm", ("predictions.LayerNorm",)),
            Rule("head", ("predictions",)),
        ),
        "sentence": (Rule("sentence_head", ("sop_classifier.classifier",)),),
        "classifier": (Rule("head", ("classifier",)),),
        "mean_classifier": (Rule("head", ("mean_classifier",)),),
        "span": (Rule("head", ("qa_outputs",)),),
    },
    copies=_copies,
    place=_place,
)
