"""Export of a model directory to one GGUF file, which llama.cpp and programs based on it load.

Tensors are read and written one at a time. `gguf_file` writes the file, `gguf_names` has llama.cpp's names. Matrices
are written in the requested type; norms, biases and positions in float32, as llama.cpp expects them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neolm.core.errors import InputError
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES
from neolm.models.gguf_file import ENCODINGS, Item, Value, write_gguf
from neolm.models.gguf_names import NEEDS_HEAD, hyperparameters, tensor_name, vocabulary
from neolm.models.hf import model_directory
from neolm.models.quantized import check_quantize
from neolm.models.stored_model import StoredModel

GGUF_FILE = "model.gguf"
QUANTIZATION_VERSION = 2  # of ggml's quantised blocks


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
        source: The model; its weights are never in memory as a whole.
        target: The file.
        tokenizer: Content of the model's `tokenizer.json`.
        eos_token_id: The token that ends a text.
        dtype: "float32", "bfloat16" or "float16"; None: as stored.
        quantize: "int8" for Q8_0, "int4" for Q4_0.

    Raises:
        InputError: llama.cpp cannot compute this model, or it is not complete.
        StorageError: the disk is full.
    """
    stored = StoredModel(model_directory(source))
    if stored.bits:
        raise InputError(
            f"{stored.files.directory}: the weights are quantised to {stored.bits} bits already; "
            "give the model that they were quantised from"
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
    """Encoding of the matrices, a key of `ENCODINGS`."""
    check_quantize(quantize)
    if quantize is not None:
        if dtype is not None:
            raise InputError(f"quantize: in GGUF all other tensors are float32; do not give a dtype with {quantize}")
        return quantize
    wide = "float32" if stored == torch.float64 else str(stored).removeprefix("torch.")
    wanted = dtype or wide
    if wanted not in ENCODINGS or wanted in ("int8", "int4"):
        raise InputError(f"dtype: {wanted} is not supported in GGUF; use float32, bfloat16 or float16")
    return wanted


def _items(stored: StoredModel, encoding: str) -> Iterator[Item]:
    """All tensors that llama.cpp needs."""
    shapes = {name: tuple(parameter.shape) for name, parameter in stored.skeleton.named_parameters()}
    copies_head = stored.config.tie_embeddings and FAMILIES[stored.config.family].gguf in NEEDS_HEAD
    for rule, names in stored.entries:
        ours, shape = rule.ours, shapes[rule.ours]
        read = partial(stored.read, rule, names)  # our layout is llama.cpp's: rows of outputs, [all q | all k | all v]
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
