"""Export of a model directory to one GGUF file, which llama.cpp and programs based on it load.

Tensors are read and written one at a time. Matrices are written in the requested type; norms, biases and positions in
float32, as llama.cpp expects them.

llama.cpp has one fixed graph for each architecture. `gpt2` and `gptneox` scale attention by 1/sqrt(head size) and
compute GELU by tanh (Hendrycks & Gimpel 2016, section 2), which differs from the exact one by at most 0.0005. Other
activations, other scales and GPT-Neo, which has local layers, are refused. A bias that a GPT-NeoX lacks is written as
zeros, and a tied head is written twice, because the graph needs them.

The tokenizer is a `tokenizer.json` of byte-level BPE. llama.cpp selects its pre-tokenizer by name: `gpt-2`, and for
GPT-NeoX's tokenizer `mpt`, a model with the same one; both split text by GPT-2's expression. Left out: the
normalisation to NFC of GPT-NeoX's tokenizer, so text that is not in NFC gets other tokens in llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.gguf_file import ENCODINGS, Item, Value, write_gguf
from neolm.models.hf import model_directory
from neolm.models.quantized import check_quantize
from neolm.models.stored_model import StoredModel

GGUF_FILE = "model.gguf"
QUANTIZATION_VERSION = 2  # of ggml's quantised blocks
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
_FURTHER_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # token types


def export_gguf(
    source: str | Path,
    target: Path,
    tokenizer: Mapping[str, Any],
    eos_token_id: int,
    dtype: str | None = None,
    quantize: str | None = None,
    chat_template: str | None = None,
) -> StoredModel:
    """Write the model `source` (a directory or a hub id) to the file `target`.

    Args:
        source: The model; its weights are never in memory as a whole.
        target: The file.
        tokenizer: Content of the model's `tokenizer.json`.
        eos_token_id: The token that ends a text.
        dtype: "float32", "bfloat16" or "float16"; None: as stored.
        quantize: "int8" for Q8_0, "int4" for Q4_0.
        chat_template: The model's own chat template.

    Raises:
        InputError: the model is not complete, or llama.cpp does not support it or its tokenizer.
        StorageError: the disk is full.
    """
    stored = StoredModel(model_directory(source))
    config = stored.decoder_config
    if stored.bits:
        raise InputError(
            f"{stored.directory}: the weights are quantised to {stored.bits} bits already; "
            "give the model that they were quantised from"
        )
    keys = _hyperparameters(config)
    encoding = _encoding(stored.dtype, dtype, quantize)
    about: dict[str, Value] = {"general.type": "model", "general.file_type": ENCODINGS[encoding].file_number}
    if quantize is not None:
        about["general.quantization_version"] = QUANTIZATION_VERSION
    words = _vocabulary(tokenizer, config, eos_token_id)
    if chat_template is not None:
        words["tokenizer.chat_template"] = chat_template
    write_gguf(target, keys | about | words, list(_items(stored, encoding)))
    return stored


def _encoding(stored: torch.dtype, dtype: str | None, quantize: str | None) -> str:
    """Encoding of the matrices, a key of `ENCODINGS`."""
    check_quantize(quantize)
    if quantize is not None:
        if dtype is not None:
            raise InputError(f"quantize: in GGUF all other tensors are float32; do not give a dtype with {quantize}")
        return quantize
    wanted = dtype or ("float32" if stored == torch.float64 else str(stored).removeprefix("torch."))
    if wanted not in ENCODINGS or wanted in ("int8", "int4"):
        raise InputError(f"dtype: {wanted} is not supported in GGUF; use float32, bfloat16 or float16")
    return wanted


def _items(stored: StoredModel, encoding: str) -> Iterator[Item]:
    """All tensors that llama.cpp needs."""
    shapes = {name: tuple(parameter.shape) for name, parameter in stored.skeleton.named_parameters()}
    copies_head = stored.decoder_config.tie_embeddings and FAMILIES[stored.config.family].gguf in NEEDS_HEAD
    for rule in stored.rules:
        ours, shape = rule.ours, shapes[rule.ours]
        read = partial(
            stored.read, rule, math.inf
        )  # finite; our layout is llama.cpp's: rows of outputs, [all q | all k | all v]
        matrix = len(shape) == 2 and ours != "positions.weight"
        if matrix and shape[1] % ENCODINGS[encoding].block:
            raise InputError(
                f"quantize: {ours} has rows of {shape[1]} weights, not a multiple of GGUF's blocks of 32; "
                "write the model in float16"
            )
        yield Item(tensor_name(ours), shape, encoding if matrix else "float32", read)
        bias = ours.replace(".weight", ".bias")
        if ".attention." in ours and bias not in shapes:
            yield Item(tensor_name(bias), shape[:1], "float32", partial(torch.zeros, shape[:1]))
        if ours == "embedding.weight" and copies_head:
            yield Item(tensor_name("head.weight"), shape, encoding, read)


def tensor_name(ours: str) -> str:
    """llama.cpp's name of our parameter `ours`; for `blocks.3.mlp.expand.bias`, `blk.3.ffn_up.bias`."""
    module, _, kind = ours.rpartition(".")
    layer = "".join(re.findall(r"^blocks\.(\d+)\.", module))
    return f"{NAMES[re.sub(r'[.][0-9]+[.]', '.#.', module)].replace('#', layer)}.{kind}"


def _hyperparameters(config: DecoderConfig) -> dict[str, Value]:
    """Hyperparameters of `config` under llama.cpp's keys."""
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


def _vocabulary(tokenizer: Mapping[str, Any], config: DecoderConfig, eos_token_id: int) -> dict[str, Value]:
    """Content of a `tokenizer.json` under llama.cpp's keys; ids without a token are suppressed."""
    size = config.vocab_size
    model, added = tokenizer["model"], {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    added = {number: token for number, token in added.items() if number < size or not token["special"]}
    _check_tokenizer(tokenizer, model, list(added.values()))
    texts = {number: text for text, number in model["vocab"].items()}
    texts |= {number: token["content"] for number, token in added.items()}
    if (largest := max(*texts, eos_token_id)) >= size:
        raise InputError(f"tokenizer: it has {largest + 1} tokens, the model {size}; it belongs to another model")
    types = [_UNUSED if number not in texts else _NORMAL for number in range(size)]
    for number, token in added.items():
        types[number] = _CONTROL if token["special"] else _USER_DEFINED
    unused = [number for number in range(size) if number not in texts]
    bos = config.bos_token_id
    result: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "mpt" if tokenizer.get("normalizer") else "gpt-2",
        "tokenizer.ggml.tokens": [texts.get(number, f"[PAD{number}]") for number in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": bos if bos is not None and 0 <= bos < size else eos_token_id,
        "tokenizer.ggml.eos_token_id": eos_token_id,
        **_further_ends(config, eos_token_id, texts),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    return result | ({"tokenizer.ggml.suppress_tokens": unused} if unused else {})


def _further_ends(config: DecoderConfig, eos_token_id: int, texts: Mapping[int, str]) -> dict[str, Value]:
    """Keys for end tokens besides the first; GGUF has two, for the end of a turn and of a message."""
    ends = [number for number in config.end_tokens if number != eos_token_id and number in texts]
    if len(ends) > len(_FURTHER_ENDS):
        say(f"gguf: there is no key for the end tokens {', '.join(texts[end] for end in ends[len(_FURTHER_ENDS) :])}")
    return dict(zip(_FURTHER_ENDS, ends, strict=False))


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
