"""Model directories in Hugging Face's layout, read and written: `transformers` loads ours, and we load its.

    model = load_model("EleutherAI/pythia-14m")    # a directory, or a hub id where there is a network
    save_model(model, "copy")                      # config.json, generation_config.json, model.safetensors

The configuration is in `hf_config`, tensor names and layouts in `hf_names`, the weight files in `hf_files`. Weights
survive both ways bit for bit. Tokenizers are not the models' business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neolm.core.device import choose_device, free_memory
from neolm.core.errors import InputError
from neolm.core.files import storage_errors, write_json
from neolm.core.progress import gibibytes, say, task
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder, count_parameters
from neolm.models.hf_config import CONFIG_FILE, hf_config, quantization_config, read_bits, read_config
from neolm.models.hf_files import INDEX_SUFFIX, PICKLE, SAFETENSORS, WeightFiles, listing, write_weights
from neolm.models.hf_names import Entry, canonical_name, entry, published_tensors
from neolm.models.large_pages import LargePages
from neolm.models.offload import DiskPlace
from neolm.models.quantized import check_quantize, is_packed, loaded_bytes, prepare_quantized, put

__all__ = [
    "convert",
    "hf_config",
    "load_model",
    "model_directory",
    "model_facts",
    "published_tensors",
    "read_config",
    "save_model",
    "state_tensors",
]

GENERATION_FILE = "generation_config.json"
_LONG = 1e9  # weights whose loading is worth a progress bar
DTYPE_NAMES = ("float32", "bfloat16", "float16", "float64")
# What a hub repository is asked for, without its weights.
_SMALL_FILES = [CONFIG_FILE, GENERATION_FILE, "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt"]


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    offload: str | None = None,
) -> Decoder:
    """The model in a directory, or of a hub id such as `EleutherAI/pythia-14m`; called on ids (B, T): logits (B, T, V).

    Args:
        path: A directory with `config.json` and weights, or a hub id.
        device: Where to put it; None: the GPU if there is one, else the CPU.
        dtype: Such as "bfloat16"; None: as stored, but float16 becomes float32 on a CPU, where it would crawl.
        quantize: "int8" or "int4": round the weights as they are read, so that memory never holds them whole.
        offload: "disk": leave the weights on disk (CPU only); what memory has no room for is read for every token.

    Raises:
        InputError: what is there is not a whole model of a supported family, or it does not fit the memory that is
            free; the message says what is amiss.
    """
    bits = check_quantize(quantize)
    if offload not in (None, "disk"):
        raise InputError(f"offload: '{offload}' is not known; there is disk")
    stored = _Stored(model_directory(path))
    place = torch.device(choose_device("auto" if device is None else str(device)).value)
    return stored.build(place, stored.wanted(dtype, place), bits, offload is not None)


@dataclass(frozen=True)
class ModelFacts:
    """A model that is not loaded yet."""

    directory: Path
    config: DecoderConfig
    dtype: torch.dtype  # that it would have
    bits: int | None  # of rounded weights
    size: int  # bytes that it would take
    parameters: int


def model_facts(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> ModelFacts:
    """What `load_model` with the same arguments would load; only the headers of the files are read.

    Raises:
        InputError: as `load_model`, but for memory.
    """
    bits = check_quantize(quantize)
    stored = _Stored(model_directory(path))
    place = torch.device(choose_device("auto" if device is None else str(device)).value)
    stored.round_to(bits)
    wanted, bits = stored.wanted(dtype, place), stored.bits or bits
    size = loaded_bytes(stored.skeleton, wanted)
    return ModelFacts(stored.files.directory, stored.config, wanted, bits, size, count_parameters(stored.config))


def save_model(
    model: Decoder,
    directory: str | Path,
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write `model` so that `transformers` and other readers of the family load it; dtype None: as it is.

    A quantised model is written as it is in memory, under this package's names, which only `load_model` reads.

    Raises:
        InputError: the family's published format cannot express the model, or the directory cannot be written.
        StorageError: the disk is full.
    """
    target = Path(directory)
    wanted = _dtype(dtype) or model.dtype
    name = str(wanted).removeprefix("torch.")
    raw = hf_config(model.config) | {"dtype": name, "torch_dtype": name}
    if model.quantized:
        raw["quantization_config"] = quantization_config(model.quantized)
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    write_weights(target, state_tensors(model, wanted), max_shard_bytes)
    write_json(target / CONFIG_FILE, raw)
    tokens = {key: raw[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(target / GENERATION_FILE, {"_from_model_config": True, **tokens})


def convert(
    source: str | Path, target: str | Path, dtype: str | torch.dtype | None = None, quantize: str | None = None
) -> DecoderConfig:
    """Read the model `source` (a directory or a hub id) and write it to `target`; dtype None: as stored.

    Raises:
        InputError: as `load_model` and `save_model`.
    """
    bits = check_quantize(quantize)
    stored = _Stored(model_directory(source))
    save_model(stored.build(torch.device("cpu"), _dtype(dtype) or stored.dtype, bits), target)
    return stored.config


def state_tensors(model: Decoder, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Published names and tensors of `model`, one at a time, in main memory; a tied head once, as the embedding."""
    if model.quantized:
        for name, tensor in model.state_dict().items():
            yield name, tensor.to("cpu", tensor.dtype if is_packed(name) else dtype or tensor.dtype)
        return
    for name, tensor in published_tensors(model.config, dict(model.named_parameters())):
        yield name, tensor.to("cpu", dtype or tensor.dtype)


def model_directory(path: str | Path) -> Path:
    """The model directory that `path` names.

    Args:
        path: A model directory, the output directory of a run (its `model/` is used), or a hub id (it is downloaded).

    Raises:
        InputError: no such directory, or the hub id cannot be fetched.
    """
    directory = Path(path)
    if directory.is_dir():
        model = directory / "model"
        is_run = (model / CONFIG_FILE).is_file() and not (directory / CONFIG_FILE).is_file()
        return model if is_run else directory
    if directory.exists():
        raise InputError(f"{path}: this is a file; give the model's directory")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)):
        raise InputError(f"{path}: no such model directory")
    return _download(str(path))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(weights: str) -> Path:
        patterns = [weights, weights + INDEX_SUFFIX, weights.replace(".", "-*-of-*.", 1)]
        return Path(snapshot_download(name, allow_patterns=_SMALL_FILES + patterns))

    try:
        directory = fetch(SAFETENSORS)
        return directory if any(directory.glob("model*.safetensors")) else fetch(PICKLE)
    except Exception as error:  # the library and its HTTP client raise many kinds
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise InputError(f"{name}: no such directory, and as a hub id it cannot be fetched: {reason}") from None


class _Stored:
    """A model in files: every parameter has its tensors, in the right shapes; none is read yet."""

    def __init__(self, directory: Path) -> None:
        self.config, self.bits, self.files = read_config(directory), read_bits(directory), WeightFiles(directory)
        with torch.device("meta"):
            self.skeleton = Decoder(self.config)
        if self.bits:
            prepare_quantized(self.skeleton, self.bits)
            self.places = _own(self.skeleton, self.files)
        else:
            shapes = {name: parameter.shape for name, parameter in self.skeleton.named_parameters()}
            self.places = _match(self.config, shapes, self.files)
        self.dtype = _widest(self.files, [name for _, names in self.places for name in names if not is_packed(name)])

    def wanted(self, dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
        """The type asked for, or the one that suits the device."""
        slow = self.dtype == torch.float16 and device.type == "cpu"
        return _dtype(dtype) or (torch.float32 if slow else self.dtype)

    def round_to(self, bits: int | None) -> None:
        """Make places for weights of so many bits.

        Raises:
            InputError: they are stored with another number.
        """
        if bits and self.bits and bits != self.bits:
            raise InputError(f"{self.files.directory}: its weights are rounded to {self.bits} bits already, not {bits}")
        if bits and not self.bits:
            prepare_quantized(self.skeleton, bits)

    def build(
        self, device: torch.device, dtype: torch.dtype, bits: int | None = None, offload: bool = False
    ) -> Decoder:
        """The decoder; each parameter is put into its place as it is read, so that memory holds the weights once.

        Raises:
            InputError: it does not fit, or it is stored quantised already and `bits` asks for something else.
        """
        directory, model = self.files.directory, self.skeleton
        self.round_to(bits)
        keep = self._disk(model, device, dtype) if offload else LargePages().keep
        if not offload:
            _require_room(directory, loaded_bytes(model, dtype), device)
        sizes = [sum(math.prod(self.files.shapes[name]) for name in names) for _, names in self.places]
        with task("Loading", sum(sizes), "weights") if sum(sizes) > _LONG else nullcontext() as progress:
            for (place, names), size in zip(self.places, sizes, strict=True):
                published = [self.files.read(name) for name in names]
                put(model, place.ours, place.gather(published, self.config.num_heads), device, dtype, keep)
                if progress is not None:
                    progress.advance(size)
        if self.config.tie_embeddings and not model.quantized:
            model.head.weight = model.embedding.weight
        return model.eval()

    def _disk(self, model: Decoder, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        if device.type != "cpu":
            raise InputError(f"offload: weights on disk are for a CPU, not {device}")
        needed, free = loaded_bytes(model, dtype), free_memory()
        place = DiskPlace(needed)
        slow = "" if needed < free else f"; {gibibytes(free)} of memory are free, so each token reads the rest anew"
        say(f"offload: {gibibytes(needed)} of weights in {place.folder}{slow}")
        return place.keep


def _require_room(directory: Path, needed: int, device: torch.device) -> None:
    free = free_memory(str(device)) if device.type in ("cpu", "cuda") else needed
    if needed > free:
        raise InputError(
            f"{directory}: the model takes {gibibytes(needed)} of memory and {gibibytes(free)} are free; "
            "int4 weights (--quantize int4) take the least, --offload disk runs it slowly"
        )


def _own(model: Decoder, files: WeightFiles) -> list[tuple[Entry, tuple[str, ...]]]:
    """The tensors of a quantised model, which are stored under our names.

    Raises:
        InputError: tensors are missing, too many or misshapen.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _check_shapes(files, shapes, {name: name for name in files.shapes}, model.config)
    return [(Entry(name, (name,), "plain"), (name,)) for name in shapes]


def _match(
    config: DecoderConfig, shapes: dict[str, torch.Size], files: WeightFiles
) -> list[tuple[Entry, tuple[str, ...]]]:
    """Each of our parameters with the names, as the files spell them, of the tensors that hold it.

    Raises:
        InputError: tensors are missing, too many or misshapen.
    """
    found: dict[str, str] = {}
    for name in files.shapes:
        canonical = canonical_name(config, name)
        if canonical in found:
            raise InputError(f"{files.directory}: {found[canonical]} and {name} are one tensor twice")
        if canonical is not None:
            found[canonical] = name
    places = [entry(config, ours) for ours in shapes]
    if config.tie_embeddings:
        _settle_tied_head(config, found, files)
    wanted = {theirs: place.shape(shapes[place.ours]) for place in places for theirs in place.theirs}
    _check_shapes(files, wanted, found, config)
    return [(place, tuple(found[theirs] for theirs in place.theirs)) for place in places]


def _check_shapes(
    files: WeightFiles, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, str], config: DecoderConfig
) -> None:
    """Compare the `wanted` shapes of tensors with those in the files, `found` under the files' names.

    Raises:
        InputError: tensors are missing, too many or misshapen.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{files.directory}: {_tensors(missing)} missing: {listing(missing)}")
    unexpected = [found[name] for name in found if name not in wanted]
    if unexpected:
        raise InputError(
            f"{files.directory}: {_tensors(unexpected)} not part of the {config.family} that {CONFIG_FILE} "
            f"describes: {listing(unexpected)}"
        )
    for theirs, shape in wanted.items():
        name = found[theirs]
        if files.shapes[name] != shape:
            raise InputError(
                f"{files.directory}: {name} has the shape {list(files.shapes[name])}, "
                f"but by {CONFIG_FILE} it must be {list(shape)}"
            )


def _settle_tied_head(config: DecoderConfig, found: dict[str, str], files: WeightFiles) -> None:
    """Drop the copy of a tied head from `found`; where a writer kept only the head, it is the embedding."""
    (head,), (embedding,) = entry(config, "head.weight").theirs, entry(config, "embedding.weight").theirs
    if head not in found:
        return
    copy = found.pop(head)
    if embedding not in found:
        found[embedding] = copy
    elif not torch.equal(files.read(copy), files.read(found[embedding])):
        raise InputError(
            f"{files.directory}: {copy} differs from {found[embedding]}, but {CONFIG_FILE} ties them; "
            "if they are meant to differ, set tie_word_embeddings to false there"
        )


def _tensors(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _widest(files: WeightFiles, names: list[str]) -> torch.dtype:
    """The type of the tensors `names`, the widest where they differ."""
    result: torch.dtype | None = None
    for name in names:
        dtype = files.dtypes[name]
        if dtype is None:
            raise InputError(f"{files.directory}: {name} is of no type for weights ({', '.join(DTYPE_NAMES)})")
        result = dtype if result is None else torch.promote_types(result, dtype)
    assert result is not None, "a decoder has parameters"
    return result


def _dtype(request: str | torch.dtype | None) -> torch.dtype | None:
    if request is None:
        return None
    name = str(request).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise InputError(f"dtype: {name} is not a type for weights; there are {', '.join(DTYPE_NAMES)}")
    return getattr(torch, name)  # type: ignore[no-any-return]
