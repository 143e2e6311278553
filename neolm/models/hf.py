"""Reading and writing model directories in Hugging Face's layout, which `transformers` reads and writes too.

    model = load_model("EleutherAI/pythia-14m")    # a directory, or a hub id where there is a network
    save_model(model, "copy")                      # config.json, generation_config.json, model.safetensors

`hf_config` translates the configuration, `hf_names` tensor names and layouts; `hf_files` reads and writes weight files,
`stored_model` loads them. Weights stay bit-equal in both directions. Tokenizers belong to `neolm.tokenizer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from neolm.core.device import choose_device
from neolm.core.errors import InputError
from neolm.core.files import expanded, storage_errors, write_json
from neolm.core.model_files import CONFIG_FILE, GENERATION_FILE, SMALL_FILES
from neolm.models.adapters import plain_parameters
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.hf_config import hf_config, hint, quantization_config, read_decoder_config
from neolm.models.hf_files import INDEX_SUFFIX, PICKLE, SAFETENSORS, write_weights
from neolm.models.hf_names import published_tensors
from neolm.models.quantized import check_quantize, is_packed, own_tensors
from neolm.models.stored_model import StoredModel, parse_dtype


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    offload: str | None = None,
) -> Decoder | Encoder:
    """Load a model; called on token ids (B, T), a language model or a masked one returns logits (B, T, V).

    Args:
        path: A model directory, the output directory of a run, or a hub id such as `EleutherAI/pythia-14m`.
        device: Device to load it to; None: the GPU if there is one, else the CPU.
        dtype: Such as "bfloat16"; None: as stored, but float32 instead of float16 on a CPU, where float16 is slow.
        quantize: "int8" or "int4": quantise each weight as it is read; memory never holds the unquantised model.
        offload: "disk": leave the weights on disk (CPU only); those that do not fit in memory are read for every token.

    Raises:
        InputError: there is no complete model of a supported family, or it does not fit the free memory.
    """
    if offload not in (None, "disk"):
        raise InputError(f"offload: '{offload}' is not known; the only choice is disk")
    return open_model(path, device, dtype, quantize).load(offload is not None)


def load_decoder(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    offload: str | None = None,
) -> Decoder:
    """`load_model` of a model that writes text. Raises `InputError` also for an encoder or a classifier."""
    directory = model_directory(path)
    read_decoder_config(directory)
    model = load_model(directory, device, dtype, quantize, offload)
    assert isinstance(model, Decoder)
    return model


def load_encoder(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> Encoder:
    """`load_model` of a model that reads text. Raises `InputError` also for a decoder."""
    stored = open_model(path, device, dtype, quantize)
    _ = stored.encoder_config
    model = stored.load()
    assert isinstance(model, Encoder)
    return model


def open_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> StoredModel:
    """The model that `load_model` loads with these arguments; only the files' headers are read."""
    bits = check_quantize(quantize)
    target = torch.device(choose_device("auto" if device is None else str(device)).value)
    return StoredModel(model_directory(path), target, dtype, bits)


def save_model(
    model: Decoder | Encoder,
    directory: str | Path,
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write `model` in its family's published format, which `transformers` and other programs load.

    A quantised model is written with NeoLM's own tensor names, which only `load_model` reads. `dtype` None: as it is.

    Raises:
        InputError: the family's published format cannot express the model, it has adapters that are not merged, or the
            directory cannot be written.
        StorageError: the disk is full.
    """
    target = Path(directory)
    stored_dtype = parse_dtype(dtype) or model.dtype
    name = str(stored_dtype).removeprefix("torch.")
    raw = hf_config(model.config) | {"dtype": name, "torch_dtype": name}
    if model.quantized:
        raw["quantization_config"] = quantization_config(model.quantized)
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    write_weights(target, state_tensors(model, stored_dtype), max_shard_bytes)
    write_json(target / CONFIG_FILE, raw)
    if isinstance(model, Encoder) or model.config.head != "language-model":
        return
    ends = model.config.end_token_ids
    tokens = {
        "bos_token_id": raw["bos_token_id"],
        "eos_token_id": raw["eos_token_id"] if ends is None else ends or None,
    }
    write_json(target / GENERATION_FILE, {"_from_model_config": ends is None, **tokens})


def convert(
    source: str | Path, target: str | Path, dtype: str | torch.dtype | None = None, quantize: str | None = None
) -> StoredModel:
    """`load_model` and `save_model`: copy the model `source` to `target`; dtype None: as stored. Returns the source.

    Raises:
        InputError: also for a weight that is not finite, or not in the requested type.
    """
    stored = StoredModel(model_directory(source), None, dtype, check_quantize(quantize))
    save_model(stored.load(check=True), target)
    return stored


def state_tensors(model: Decoder | Encoder, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Published names and tensors of `model`, one at a time, on the CPU; a tied head once, as the embedding."""
    published = published_tensors(model.config, plain_parameters(model))
    for name, tensor in own_tensors(model) if model.quantized else published:
        yield name, tensor.to("cpu", tensor.dtype if is_packed(name) else dtype or tensor.dtype)


def model_directory(path: str | Path) -> Path:
    """The model directory that `path` names: itself, `model/` in the output of a run, or the download of a hub id.

    Raises:
        InputError: no such directory, or the hub id cannot be fetched.
    """
    directory = expanded(path)
    try:
        if directory.is_dir():
            model = directory / "model"
            is_run = (model / CONFIG_FILE).is_file() and not (directory / CONFIG_FILE).is_file()
            return model if is_run else directory
        if directory.exists():
            raise InputError(f"{path}: this is a file, not a model directory{hint(directory.parent)}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)):
        raise InputError(f"{path}: no such model directory{hint(directory)}")
    return _download(str(path))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(weights: str) -> Path:
        patterns = [weights, weights + INDEX_SUFFIX, weights.replace(".", "-*-of-*.", 1)]
        return Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, *patterns]))

    try:
        directory = fetch(SAFETENSORS)
        return directory if any(directory.glob("model*.safetensors")) else fetch(PICKLE)
    except Exception as error:  # the library and its HTTP client raise many types
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        near = hint(expanded(name))
        raise InputError(
            f"{name}: no such directory, and it cannot be downloaded as a hub id: {reason}{near}"
        ) from None
