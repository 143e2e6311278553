"""llama.cpp's names and keys for a decoder and its tokenizer.

llama.cpp has one fixed graph for each architecture. `gpt2` and `gptneox` scale attention by 1/sqrt(head size) and
compute GELU by tanh (Hendrycks & Gimpel 2016, section 2), which differs from the exact one by at most 0.0005. Other
activations, other scales and GPT-Neo, which has local layers, are refused. A bias that a GPT-NeoX lacks is written as
zeros, and a tied head is written twice, because the graph needs them.

The tokenizer is a `tokenizer.json` of byte-level BPE. llama.cpp selects its pre-tokenizer by name: `gpt-2`, and for
GPT-NeoX's tokenizer `mpt`, a model with the same one; both split text by GPT-2's expression. Left out: the
normalisation to NFC of GPT-NeoX's tokenizer, so text that is not in NFC gets other tokens in llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from neolm.core.errors import InputError
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.gguf_file import Value

GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
NEEDS_HEAD = ("gptneox",)  # architectures for which a tied head is written as well
# Our module and llama.cpp's; `#` is the layer's number.
NAMES = {
    "embedding": "token_embd",
    "positions": "position_embd",
    "blocks.#.attention_norm": "blk.#.attn_norm",
    "blocks.#.attention.qkv": "blk.#.attn_qkv",
    "blocks.#.attention.output": "blk.#.attn_output",
    "blocks.#.mlp_norm": "blk.#.ffn_norm",
    "blocks.#.mlp.expand": "blk.#.ffn_up",
    "blocks.#.mlp.contract": "blk.#.ffn_down",
    "norm": "output_norm",
    "head": "output",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # token types


def tensor_name(ours: str) -> str:
    """llama.cpp's name of our parameter `ours`; for `blocks.3.mlp.expand.bias`, `blk.3.ffn_up.bias`."""
    module, _, kind = ours.rpartition(".")
    layer = "".join(re.findall(r"^blocks\.(\d+)\.", module))
    return f"{NAMES[re.sub(r'[.][0-9]+[.]', '.#.', module)].replace('#', layer)}.{kind}"


def hyperparameters(config: DecoderConfig) -> dict[str, Value]:
    """Hyperparameters of `config` under llama.cpp's keys.

    Raises:
        InputError: llama.cpp's graph of the family cannot compute this decoder.
    """
    family = FAMILIES[config.family]
    if family.gguf is None:
        known = " and ".join(dict.fromkeys(other.name for other in FAMILIES.values() if other.gguf))
        raise InputError(f"gguf: llama.cpp has no {family.name}; only {known} can be exported")
    _check_expressible(config)
    keys: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.mlp_size,
        "attention.head_count": config.num_heads,
        "attention.layer_norm_epsilon": config.norm_epsilon,
    }
    if config.position_embedding == "rotary":
        keys["use_parallel_residual"] = config.parallel_residual
        keys["rope.dimension_count"] = config.rotary_size
        keys["rope.freq_base"] = config.rotary_base
    return {"general.architecture": family.gguf} | {f"{family.gguf}.{key}": value for key, value in keys.items()}


def _check_expressible(config: DecoderConfig) -> None:
    def refuse(field: str, reason: str) -> InputError:
        return InputError(f"gguf: llama.cpp's {config.family} has no {field} of {getattr(config, field)}; {reason}")

    if config.activation not in GELU:
        raise refuse("activation", "it always computes gelu")
    if config.scale_attention_by_layer:
        raise refuse("scale_attention_by_layer", "it scales all layers alike")
    if not config.has_standard_scale:
        raise refuse("attention_scale", "it always scales by 1/sqrt(head size)")
    if config.position_embedding == "rotary" and config.rotary_size % 2:
        raise refuse("rotary_fraction", f"it rotates pairs of channels, and this is {config.rotary_size} channels")


def vocabulary(tokenizer: Mapping[str, Any], config: DecoderConfig, eos_token_id: int) -> dict[str, Value]:
    """Content of a `tokenizer.json` under llama.cpp's keys; ids without a token are suppressed.

    Args:
        tokenizer: Content of the file.
        config: Configuration of the model, whose embedding may have more rows than there are tokens.
        eos_token_id: The token that ends a text.

    Raises:
        InputError: llama.cpp does not support this tokenizer, or it has more tokens than the embedding has rows.
    """
    model, added = tokenizer["model"], {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    _check_tokenizer(tokenizer, model, list(added.values()))
    texts = {number: text for text, number in model["vocab"].items()}
    texts |= {number: token["content"] for number, token in added.items()}
    size = config.vocab_size
    if max(texts) >= size:
        raise InputError(f"tokenizer: it has {max(texts) + 1} tokens, the model {size}; it belongs to another model")
    types = [_UNUSED if number not in texts else _NORMAL for number in range(size)]
    for number, token in added.items():
        types[number] = _CONTROL if token["special"] else _USER_DEFINED
    unused = [number for number in range(size) if number not in texts]
    bos = config.bos_token_id
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    result: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "mpt" if tokenizer.get("normalizer") else "gpt-2",
        "tokenizer.ggml.tokens": [texts.get(number, f"[PAD{number}]") for number in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": bos if bos is not None and 0 <= bos < size else eos_token_id,
        "tokenizer.ggml.eos_token_id": eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    return result | ({"tokenizer.ggml.suppress_tokens": unused} if unused else {})


def _check_tokenizer(tokenizer: Mapping[str, Any], model: Mapping[str, Any], added: list[dict[str, Any]]) -> None:
    split, normalizer = tokenizer.get("pre_tokenizer") or {}, tokenizer.get("normalizer") or {"type": "NFC"}
    unsupported = {
        f"model {model.get('type')}": model.get("type") != "BPE",
        f"pre_tokenizer {split.get('type')}": split.get("type") != "ByteLevel",
        "pre_tokenizer without use_regex": not split.get("use_regex", True),
        "pre_tokenizer with add_prefix_space": split.get("add_prefix_space"),
        f"normalizer {normalizer['type']}": normalizer["type"] != "NFC",
        **{key: model.get(key) for key in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")},
        **{f"a token with {key}": any(token[key] for token in added) for key in ("single_word", "lstrip", "rstrip")},
    }
    for option, present in unsupported.items():
        if present:
            raise InputError(f"tokenizer: {option}: llama.cpp supports the byte-level BPE of GPT-2 and GPT-NeoX only")
