"""A model directory as one GGUF file, which llama.cpp and the programs built on it load.

Tensors go from file to file one at a time. The file itself is in `gguf_file`, llama.cpp's names in `gguf_names`.
Matrices get the type asked for; norms, biases and positions are float32, as llama.cpp expects them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.gguf_file import ENCODINGS, Item, Value, write_gguf
from neolm.models.gguf_names import hyperparameters, tensor_name, vocabulary
from neolm.models.hf import _Stored, model_directory
from neolm.models.hf_names import Entry
from neolm.models.quantized import check_quantize

GGUF_FILE = "model.gguf"
QUANTIZATION_VERSION = 2  # of ggml's blocks


def export_gguf(
    source: str | Path,
    target: Path,
    tokenizer: Mapping[str, Any],
    eos_token_id: int,
    dtype: str | None = None,
    quantize: str | None = None,
) -> DecoderConfig:
    """Write the model `source` (a directory or a hub id) to the file `target`.

    Args:
        source: Where the weights are; they are not read as a whole.
        target: The file.
        tokenizer: The content of its `tokenizer.json`.
        eos_token_id: The token that ends a text.
        dtype: "float32", "bfloat16" or "float16"; None: as stored.
        quantize: "int8" for Q8_0, "int4" for Q4_0.

    Raises:
        InputError: llama.cpp cannot compute this model, or what is there is not a whole one.
        StorageError: the disk is full.
    """
    stored = _Stored(model_directory(source))
    if stored.bits:
        raise InputError(
            f"{stored.files.directory}: its weights are rounded to {stored.bits} bits already; "
            "give the model that it was made from"
        )
    keys = hyperparameters(stored.config)
    encoding = _encoding(stored.dtype, dtype, quantize)
    about: dict[str, Value] = {"general.type": "model", "general.file_type": ENCODINGS[encoding].file_number}
    if quantize is not None:
        about["general.quantization_version"] = QUANTIZATION_VERSION
    words = vocabulary(tokenizer, stored.config, eos_token_id)
    write_gguf(target, keys | about | words, list(_items(stored, encoding)))
    return stored.config


def _encoding(stored: torch.dtype, dtype: str | None, quantize: str | None) -> str:
    """The type of the matrices."""
    check_quantize(quantize)
    if quantize is not None:
        if dtype is not None:
            raise InputError(f"quantize: what {quantize} does not round is float32 in GGUF; give no dtype with it")
        return quantize
    wide = "float32" if stored == torch.float64 else str(stored).removeprefix("torch.")
    wanted = dtype or wide
    if wanted not in ENCODINGS or wanted in ("int8", "int4"):
        raise InputError(f"dtype: {wanted} is no type of GGUF's weights; there are float32, bfloat16, float16")
    return wanted


def _items(stored: _Stored, encoding: str) -> Iterator[Item]:
    """Every tensor that llama.cpp asks for.

    Raises:
        InputError: a matrix does not divide into blocks.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in stored.skeleton.named_parameters()}
    gguf = FAMILIES[stored.config.family].gguf
    copies_head = stored.config.tie_embeddings and gguf is not None and gguf.needs_head
    for place, names in stored.places:
        shape, read = shapes[place.ours], partial(_read, stored, place, names)
        matrix = len(shape) == 2 and place.ours != "positions.weight"
        if matrix and shape[1] % ENCODINGS[encoding].block:
            raise InputError(
                f"quantize: {place.ours} has rows of {shape[1]} weights, which is no multiple of GGUF's blocks of 32; "
                "write it in float16"
            )
        yield Item(tensor_name(place.ours), shape, encoding if matrix else "float32", read)
        bias = place.ours.replace(".weight", ".bias")
        if ".attention." in place.ours and bias not in shapes:
            yield Item(tensor_name(bias), shape[:1], "float32", partial(torch.zeros, shape[:1]))
        if place.ours == "embedding.weight" and copies_head:
            yield Item(tensor_name("head.weight"), shape, encoding, read)


def _read(stored: _Stored, place: Entry, names: tuple[str, ...]) -> Tensor:
    """One parameter as we hold it, which is how llama.cpp holds it: rows of outputs, [all q | all k | all v]."""
    return place.gather([stored.files.read(name) for name in names], stored.config.num_heads)
