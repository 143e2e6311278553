"""BERT (Devlin et al. 2019). Defaults of absent keys: `configuration_bert.py` of transformers 5.24."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from neolm.core.errors import InputError, shortened
from neolm.models.families.family import Copy, Family, Key, Preset, Rule

if TYPE_CHECKING:
    from neolm.models.encoder_config import EncoderConfig


ENCODER_KEYS = (
    Key("hidden_size", ("hidden_size",), 768),
    Key("num_layers", ("num_hidden_layers",), 12),
    Key("num_heads", ("num_attention_heads",), 12),
    Key("intermediate_size", ("intermediate_size",), 3072),
    Key("max_position_embeddings", ("max_position_embeddings",), 512),
    Key("type_vocab_size", ("type_vocab_size",), 2),
    Key("norm_epsilon", ("layer_norm_eps",), 1e-12),
    Key("initializer_range", ("initializer_range",), 0.02),
    Key("pad_token_id", ("pad_token_id",), 0),
)
"""Keys that BERT and ALBERT share. The defaults are BERT's."""

ENCODER_DEFAULTS = {"residual_dropout": 0.1, "attention_dropout": 0.1, "max_position_embeddings": 512}


def check_encoder(raw: Mapping[str, Any]) -> None:
    """Refuse options of `config.json` that are not supported."""
    kind = raw.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise InputError(f"position_embedding_type: {shortened(kind)} is not supported, only 'absolute'")
    if raw.get("is_decoder"):
        raise InputError("is_decoder: an encoder with causal attention is not supported")
    if raw.get("tie_word_embeddings", True) is not True:
        raise InputError("tie_word_embeddings: an output layer apart from the embedding is not supported")


def initialisation(config: EncoderConfig) -> dict[str, float]:
    """One standard deviation for all matrices, as in Google's `modeling.py`, where it is 0.02."""
    return {"": config.initializer_range}


def _read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    check_encoder(raw)
    return {}


def _write(config: EncoderConfig) -> dict[str, Any]:
    return {"intermediate_size": config.mlp_size, "position_embedding_type": "absolute"}


def _copies(config: EncoderConfig) -> Iterator[Copy]:
    if config.head in ("pretraining", "masked"):
        yield Copy("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")
        yield Copy("cls.predictions.decoder.bias", "cls.predictions.bias")


def _parameters(layers: int, width: int, vocabulary: int) -> int:
    """Parameters with both pretraining heads."""
    trunk = (vocabulary + 514) * width + 2 * width + layers * (12 * width**2 + 13 * width)
    return trunk + 2 * (width**2 + width) + 2 * width + vocabulary + 2 * width + 2


def _preset(name: str, layers: int, width: int, vocabulary: int = 30522) -> Preset:
    return Preset(name, layers, width, width // 64, _parameters(layers, width, vocabulary), vocab_size=vocabulary)


BERT = Family(
    name="bert",
    title="BERT",
    kind="encoder",
    defaults={**ENCODER_DEFAULTS, "sentence_task": "nsp"},
    presets=(
        _preset("bert-base-uncased", 12, 768),
        _preset("bert-large-uncased", 24, 1024),
        _preset("bert-base-cased", 12, 768, 28996),
        _preset("bert-large-cased", 24, 1024, 28996),
        _preset("bert-base-multilingual-uncased", 12, 768, 105879),
        _preset("bert-base-multilingual-cased", 12, 768, 119547),
        _preset("bert-base-chinese", 12, 768, 21128),
        _preset("bert-tiny", 2, 128),
        _preset("bert-mini", 4, 256),
        _preset("bert-small", 4, 512),
        _preset("bert-medium", 8, 512),
        # the 24 models of Turc et al. 2019, four of which have the names above
        *(
            _preset(f"bert-l{layers}-h{width}", layers, width)
            for layers, width in product(range(2, 13, 2), (128, 256, 512, 768))
        ),
    ),
    initialisation=initialisation,
    truncated=True,
    model_type="bert",
    architecture="Bert",
    keys=(
        Key("vocab_size", ("vocab_size",), 30522),
        *ENCODER_KEYS,
        Key("activation", ("hidden_act",), "gelu"),
        Key("residual_dropout", ("hidden_dropout_prob",), 0.1),
        Key("attention_dropout", ("attention_probs_dropout_prob",), 0.1),
        Key("classifier_dropout", ("classifier_dropout",), None),
    ),
    fixed={"embedding_size": None, "groups": None, "blocks_per_group": 1, "sharing": "all"},
    read=_read,
    write=_write,
    limits=lambda config: (),
    prefix="bert.",
    head="cls.predictions",
    rules=(
        Rule("embedding", ("embeddings.word_embeddings",)),
        Rule("positions", ("embeddings.position_embeddings",)),
        Rule("token_types", ("embeddings.token_type_embeddings",)),
        Rule("embedding_norm", ("embeddings.LayerNorm",)),
        Rule(
            "blocks.#.attention.qkv",
            tuple(f"encoder.layer.#.attention.self.{part}" for part in ("query", "key", "value")),
            "stacked",
        ),
        Rule("blocks.#.attention.output", ("encoder.layer.#.attention.output.dense",)),
        Rule("blocks.#.attention_norm", ("encoder.layer.#.attention.output.LayerNorm",)),
        Rule("blocks.#.mlp.expand", ("encoder.layer.#.intermediate.dense",)),
        Rule("blocks.#.mlp.contract", ("encoder.layer.#.output.dense",)),
        Rule("blocks.#.mlp_norm", ("encoder.layer.#.output.LayerNorm",)),
        Rule("pooler", ("pooler.dense",)),
    ),
    head_rules={
        "masked": (
            Rule("head.transform", ("cls.predictions.transform.dense",)),
            Rule("head.norm", ("cls.predictions.transform.LayerNorm",)),
            Rule("head", ("cls.predictions",)),
        ),
        "sentence": (Rule("sentence_head", ("cls.seq_relationship",)),),
        "classifier": (Rule("head", ("classifier",)),),
        "mean_classifier": (Rule("head", ("mean_classifier",)),),
        "span": (Rule("head", ("qa_outputs",)),),
    },
    copies=_copies,
)
