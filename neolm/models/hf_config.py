"""`config.json` as Hugging Face's model directories hold it, to and from a `DecoderConfig`.

The keys are data: for each family, our field, the published key with its other spellings, and what an absent key
means (the defaults of `transformers` 5.23, `configuration_{gpt2,gpt_neo,gpt_neox}.py`). What a family's format has no
place for is refused when reading and, by name, when writing. GPT-3 sizes are written as GPT-2, whose architecture
they are. Left out: rotary scaling, cross-attention, quantised weights.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neolm.core.config import validate
from neolm.core.errors import InputError
from neolm.kernels.packing import GROUP
from neolm.models.config import DecoderConfig

CONFIG_FILE = "config.json"
MODEL_TYPES = {"gpt2": "gpt2", "gpt_neo": "gpt-neo", "gpt_neox": "gpt-neox"}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "gpt-neo": "GPTNeoForCausalLM", "gpt-neox": "GPTNeoXForCausalLM"}


@dataclass(frozen=True)
class Key:
    """One key of `config.json`: the first of `names` is written, all are read; `default` is what its absence means."""

    field: str
    names: tuple[str, ...]
    default: Any

    def read(self, raw: dict[str, Any]) -> Any:
        """The value of the first spelling that is there."""
        return next((raw[name] for name in self.names if name in raw), self.default)


_NORM, _TOKENS = ("layer_norm_epsilon", "layer_norm_eps"), ("bos_token_id", "eos_token_id")
_KEYS: dict[str, tuple[Key, ...]] = {
    "gpt2": (
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
        Key("norm_epsilon", _NORM, 1e-5),
        Key("scale_attention_by_layer", ("scale_attn_by_inverse_layer_idx",), False),
        Key("tie_embeddings", ("tie_word_embeddings",), True),
        *(Key(name, (name,), 50256) for name in _TOKENS),
    ),
    "gpt-neo": (
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
        Key("norm_epsilon", _NORM, 1e-5),
        Key("tie_embeddings", ("tie_word_embeddings",), True),
        *(Key(name, (name,), 50256) for name in _TOKENS),
    ),
    "gpt-neox": (
        Key("vocab_size", ("vocab_size",), 50432),
        Key("max_position_embeddings", ("max_position_embeddings",), 2048),
        Key("hidden_size", ("hidden_size",), 6144),
        Key("num_layers", ("num_hidden_layers",), 44),
        Key("num_heads", ("num_attention_heads",), 64),
        Key("intermediate_size", ("intermediate_size",), 24576),
        Key("activation", ("hidden_act",), "gelu"),
        Key("residual_dropout", ("hidden_dropout", "hidden_dropout_prob"), 0.0),
        Key("attention_dropout", ("attention_dropout", "attention_probs_dropout_prob"), 0.0),
        Key("norm_epsilon", _NORM[::-1], 1e-5),
        Key("rotary_fraction", ("rotary_pct", "partial_rotary_factor"), 0.25),
        Key("rotary_base", ("rotary_emb_base", "rope_theta"), 10000.0),
        Key("parallel_residual", ("use_parallel_residual",), True),
        Key("qkv_bias", ("attention_bias",), True),
        Key("tie_embeddings", ("tie_word_embeddings",), False),
        Key("bos_token_id", ("bos_token_id",), 0),
        Key("eos_token_id", ("eos_token_id",), 2),
    ),
}
# What the format takes for granted: read as such, and refused when it is otherwise.
_FIXED: dict[str, dict[str, Any]] = {
    "gpt2": {"position_embedding": "learned", "parallel_residual": False, "qkv_bias": True, "output_bias": True},
    "gpt-neo": {
        "position_embedding": "learned",
        "parallel_residual": False,
        "qkv_bias": False,
        "output_bias": True,
        "attention_scale": 1.0,
        "scale_attention_by_layer": False,
    },
    "gpt-neox": {"position_embedding": "rotary", "scale_attention_by_layer": False},
}


def read_config(directory: str | Path) -> DecoderConfig:
    """The decoder that `config.json` in `directory` describes.

    Raises:
        InputError: no such file, not JSON, a model type or an option that is not supported, a value that cannot be.
    """
    path = Path(directory) / CONFIG_FILE
    raw = _read_json(path)
    family = MODEL_TYPES.get(str(raw.get("model_type")))
    if family is None:
        raise InputError(
            f"{path}: model_type {raw.get('model_type')!r} is not supported; supported are {', '.join(MODEL_TYPES)}"
        )
    if raw.get("add_cross_attention"):
        raise InputError(f"{path}: add_cross_attention: cross-attention is not supported")
    _read_bits(raw, path)
    rope = _rope(raw, path) if family == "gpt-neox" else {}
    fields = {"family": family, **_FIXED[family], **{key.field: key.read(raw | rope) for key in _KEYS[family]}}
    if family == "gpt2" and raw.get("scale_attn_weights", True) is False:
        fields["attention_scale"] = 1.0
    if family == "gpt-neo":
        fields["attention_layers"] = _read_attention_layers(raw, fields["num_layers"], path)
    if family == "gpt-neox":
        fields |= {"output_bias": fields["qkv_bias"], "embedding_dropout": fields["residual_dropout"]}
    if isinstance(fields["eos_token_id"], list):  # some files name several; the first is the text's end
        fields["eos_token_id"] = next(iter(fields["eos_token_id"]), None)
    config = validate(DecoderConfig, fields, {}, str(path))
    if config.intermediate_size == 4 * config.hidden_size:
        config = config.model_copy(update={"intermediate_size": None})
    return config


def read_bits(directory: str | Path) -> int | None:
    """The bits of the weights in `directory` if they are quantised (`neolm.models.quantized`), else None."""
    path = Path(directory) / CONFIG_FILE
    return _read_bits(_read_json(path), path)


def quantization_config(bits: int) -> dict[str, Any]:
    """The entry of `config.json` that says how weights are rounded; keys as other methods' entries have them."""
    return {"quant_method": "neolm", "bits": bits, "group_size": GROUP, "sym": True}


def _read_bits(raw: dict[str, Any], path: Path) -> int | None:
    entry = raw.get("quantization_config")
    if not entry:
        return None
    method = entry.get("quant_method") if isinstance(entry, dict) else entry
    if method != "neolm":
        raise InputError(f"{path}: quantization_config: quantised weights of the kind {method!r} are not supported")
    if entry not in (quantization_config(8), quantization_config(4)):
        raise InputError(f"{path}: quantization_config: {entry} is not what this version writes")
    return int(entry["bits"])


def hf_config(config: DecoderConfig) -> dict[str, Any]:
    """What `config.json` holds for `config`, in the spellings that old and new readers know.

    Raises:
        InputError: the family's published format cannot express `config`.
    """
    _check_expressible(config)
    family = config.family
    model_type = next(theirs for theirs, ours in MODEL_TYPES.items() if ours == family)
    raw: dict[str, Any] = {"model_type": model_type, "architectures": [ARCHITECTURES[family]]}
    raw |= {key.names[0]: getattr(config, key.field) for key in _KEYS[family]}
    raw |= {"initializer_range": 0.02, "use_cache": True}  # of no effect here; readers expect them
    if family == "gpt2":
        raw |= {"n_ctx": config.max_position_embeddings, "reorder_and_upcast_attn": False}
        raw["scale_attn_weights"] = not _unscaled(config)
    elif family == "gpt-neo":
        raw |= _write_attention_layers(config)
    else:
        raw["intermediate_size"] = config.mlp_size
        raw["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.rotary_fraction,
        }
    return raw


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model directory.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a JSON object is expected here, this is a {type(raw).__name__}")
    return raw


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent}: no {CONFIG_FILE} here, so this is not a model directory")
    return read_json(path)


def _rope(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary settings of `rope_parameters` (transformers 5) or `rope_scaling`, under their old names."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters: a mapping is expected, not {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InputError(f"{path}: rotary scaling of the type {kind!r} is not supported, only 'default'")
    spellings = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    return {old: rope[new] for new, old in spellings.items() if rope.get(new) is not None}


def _read_attention_layers(raw: dict[str, Any], num_layers: Any, path: Path) -> list[str]:
    """The kinds of a GPT-Neo's layers: the shortest pattern that, repeated, gives them all."""
    types, layers = raw.get("attention_types"), raw.get("attention_layers")
    if types is None and layers is None:
        types = [[["global", "local"], 12]]
    try:
        expanded = [kind for kinds, repeats in types or [] for _ in range(repeats) for kind in kinds]
    except (TypeError, ValueError):
        raise InputError(f"{path}: attention_types: expected [[[kinds], repeats], ...], not {types!r}") from None
    if types is None:
        expanded = layers  # type: ignore[assignment]
    elif layers is not None and layers != expanded:
        raise InputError(f"{path}: attention_layers and attention_types contradict each other")
    if not isinstance(expanded, list) or len(expanded) != num_layers:
        count = len(expanded) if isinstance(expanded, list) else repr(expanded)
        raise InputError(f"{path}: attention_types: they name {count} layers, num_layers is {num_layers}")
    return next((p for p in _prefixes(expanded) if _repeat(p, len(expanded)) == expanded), expanded)


def _write_attention_layers(config: DecoderConfig) -> dict[str, Any]:
    layers = _repeat(list(config.attention_layers), config.num_layers)
    whole = (p for p in _prefixes(layers) if len(layers) % len(p) == 0 and _repeat(p, len(layers)) == layers)
    pattern = next(whole)
    return {"attention_types": [[pattern, len(layers) // len(pattern)]], "attention_layers": layers}


def _prefixes(layers: list[str]) -> list[list[str]]:
    return [layers[:length] for length in range(1, len(layers) + 1)]


def _repeat(pattern: list[str], length: int) -> list[str]:
    return (pattern * -(-length // len(pattern)))[:length]


def _unscaled(config: DecoderConfig) -> bool:
    return config.attention_scale == 1.0 and config.head_size != 1


def _check_expressible(config: DecoderConfig) -> None:
    def refuse(field: str, reason: str) -> InputError:
        value = getattr(config, field)
        shown = list(value) if isinstance(value, tuple) else value
        return InputError(f"model.{field}: {shown} has no place in the published format of {config.family}; {reason}")

    for field, value in _FIXED[config.family].items():
        if getattr(config, field) != value:
            raise refuse(field, f"it must be {value}")
    if config.family != "gpt-neo":
        if any(config.window(layer) is not None for layer in range(config.num_layers)):
            raise refuse("attention_layers", "only gpt-neo has local layers")
        scale = config.attention_scale
        default = scale is None or math.isclose(scale, config.head_size**-0.5)
        if not default and (config.family == "gpt-neox" or not _unscaled(config)):
            raise refuse("attention_scale", "leave it null (1/sqrt(head size))")
    if config.family == "gpt-neox":
        if config.qkv_bias != config.output_bias:
            raise refuse("output_bias", "it has one switch for both: make qkv_bias and output_bias equal")
        if config.embedding_dropout != config.residual_dropout:
            raise refuse("embedding_dropout", f"it must equal model.residual_dropout ({config.residual_dropout})")
