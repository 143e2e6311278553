"""GPT-Neo (Black et al. 2021). Defaults of absent keys: `configuration_gpt_neo.py` of transformers 5.23."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from neolm.core.errors import InputError, shortened
from neolm.models.families.family import DECODER_HEADS, MAX_LAYERS, TOKEN_KEYS, Family, Key, Preset, Rule

if TYPE_CHECKING:
    from neolm.models.config import DecoderConfig


def _initialisation(config: DecoderConfig) -> dict[str, float]:
    """GPT-2's, but only the MLP's output is scaled, by 1/sqrt(L).

    Source: models/layers.py of EleutherAI/gpt-neo with scale_by_depth, as in the released configurations.
    """
    return {"positions.": 0.01, "mlp.contract.": 0.02 / math.sqrt(config.num_layers), "": 0.02}


def _read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The kinds of the layers: the shortest pattern that gives them all when it is repeated."""
    types, layers, num_layers = raw.get("attention_types"), raw.get("attention_layers"), fields["num_layers"]
    if type(num_layers) is not int or not 0 < num_layers <= MAX_LAYERS:
        return {}  # the check of num_layers refuses it
    if types is None and layers is None:
        types = [[["global", "local"], 12]]
    expanded: Any = layers if types is None else list(islice(_expanded(types), MAX_LAYERS + 1))
    if types is not None and layers is not None and layers != expanded:
        raise InputError("attention_layers and attention_types contradict each other")
    count = len(expanded) if isinstance(expanded, list) else None
    if count != num_layers:
        shown = "no list of" if count is None else f"more than {MAX_LAYERS}" if count > MAX_LAYERS else count
        raise InputError(f"attention_types: they name {shown} layers, num_layers is {num_layers}")
    return {"attention_layers": next(_patterns(expanded), expanded)}


def _expanded(types: Any) -> Iterator[Any]:
    """The kinds of all layers in `attention_types`, which may have repeats beyond any memory."""
    for item in types if isinstance(types, list) else [types]:
        kinds, repeats = item if isinstance(item, list) and len(item) == 2 else (None, None)
        if not isinstance(kinds, list) or type(repeats) is not int:
            raise InputError(f"attention_types: expected [[[kinds], repeats], ...], not {shortened(types)}")
        yield from chain.from_iterable(kinds for _ in range(repeats if kinds else 0))


def _write(config: DecoderConfig) -> dict[str, Any]:
    layers = _repeat(config.attention_layers, config.num_layers)
    pattern = next(pattern for pattern in _patterns(layers) if len(layers) % len(pattern) == 0)
    return {"attention_types": [[pattern, len(layers) // len(pattern)]], "attention_layers": layers}


def _patterns(layers: list[str]) -> Iterator[list[str]]:
    """The beginnings of `layers` that give all of it when they are repeated, the shortest first."""
    prefixes = (layers[:length] for length in range(1, len(layers) + 1))
    return (prefix for prefix in prefixes if _repeat(prefix, len(layers)) == layers)


def _repeat(pattern: Sequence[str], length: int) -> list[str]:
    return [pattern[i % len(pattern)] for i in range(length)]


GPT_NEO = Family(
    name="gpt-neo",
    title="GPT-Neo",
    defaults={
        "max_position_embeddings": 2048,
        "attention_layers": ("global", "local"),
        "attention_scale": 1.0,
        "qkv_bias": False,
    },
    presets=(
        Preset("gpt-neo-125m", 12, 768, 12, 125_198_592),
        Preset("gpt-neo-350m", 24, 1024, 16, 355_798_016),
        Preset("gpt-neo-1.3b", 24, 2048, 16, 1_315_575_808),
        Preset("gpt-neo-2.7b", 32, 2560, 20, 2_651_307_520),
    ),
    initialisation=_initialisation,
    model_type="gpt_neo",
    architecture="GPTNeo",
    keys=(
        Key("vocab_size", ("vocab_size",), 50257),
        Key("max_position_embeddings", ("max_position_embeddings",), 2048),
        Key("hidden_size", ("hidden_size",), 2048),
        Key("num_layers", ("num_layers", "num_hidden_layers"), 24),
        Key("num_heads", ("num_heads", "num_attention_heads"), 16),
        Key("intermediate_size", ("intermediate_size",), None),
        Key("window_size", ("window_size",), 256),
        Key("activation", ("activation_function",), "gelu_new"),
        Key("residual_dropout", ("resid_dropout",), 0.0),
        Key("embedding_dropout", ("embed_dropout",), 0.0),
        Key("attention_dropout", ("attention_dropout",), 0.0),
        Key("norm_epsilon", ("layer_norm_epsilon", "layer_norm_eps"), 1e-5),
        Key("tie_embeddings", ("tie_word_embeddings",), True),
        *TOKEN_KEYS,
    ),
    fixed={
        "position_embedding": "learned",
        "parallel_residual": False,
        "qkv_bias": False,
        "output_bias": True,
        "attention_scale": 1.0,
        "scale_attention_by_layer": False,
    },
    read=_read,
    write=_write,
    limits=lambda config: (),
    prefix="transformer.",
    head="lm_head",
    rules=(
        Rule("embedding", ("wte",)),
        Rule("positions", ("wpe",)),
        Rule("blocks.#.attention_norm", ("h.#.ln_1",)),
        Rule("blocks.#.attention.qkv", tuple(f"h.#.attn.attention.{x}_proj" for x in "qkv"), "stacked"),
        Rule("blocks.#.attention.output", ("h.#.attn.attention.out_proj",)),
        Rule("blocks.#.mlp_norm", ("h.#.ln_2",)),
        Rule("blocks.#.mlp.expand", ("h.#.mlp.c_fc",)),
        Rule("blocks.#.mlp.contract", ("h.#.mlp.c_proj",)),
        Rule("norm", ("ln_f",)),
    ),
    head_rules=DECODER_HEADS,
)
