"""Weight files of a model: safetensors, single or sharded, and `pytorch_model.bin` if it has only plain tensors.

A pickle can run any code, so a `.bin` is read with `weights_only=True` only, and first searched for anything that is
not a dictionary of tensors. Tensors are read one at a time and copied out of a memory map that is closed again, so that
memory holds the weights once. Files are written under temporary names and renamed, so that a crash leaves no incomplete
file.
"""

from __future__ import annotations

import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from neolm.core.errors import InputError, shortened
from neolm.core.files import read_json, storage_errors, sync_directory, write_json, write_tensors
from neolm.core.model_files import ADAPTER_CONFIG_FILE

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
MAX_HEADER_BYTES = 2**24
"""Size limit of the header of a safetensors file."""
MAX_PICKLE_BYTES = 2**22
"""Size limit of the pickle in a `.bin` file, which lists the tensors; their numbers are stored apart from it."""
MAX_PICKLE_TUPLES = 50_000  # five a tensor; Python crashes on tuples that are nested about 100,000 deep
_LEGACY_PICKLES = 4  # files from before torch 1.6: magic number, version, byte order, the tensors
_PLAIN = re.compile(
    r"collections OrderedDict|torch(\.cuda)? \w+Storage|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
DTYPES = {**FLOATS, "U8": torch.uint8}


class WeightFiles:
    """Tensors of a model directory by name; shapes and dtypes are known at once, values when they are read."""

    def __init__(self, directory: Path, name: str | None = None) -> None:
        """`name`: one safetensors file of the directory, instead of the model's files."""
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype | None] = {}  # None: not one of DTYPES
        self._files: dict[str, Path] = {}
        self._pickles: dict[Path, dict[str, Tensor]] = {}  # opened when the first tensor is read
        for path, names in [(directory / name, [])] if name else _weight_files(directory):
            (self._open_safetensors if path.suffix == ".safetensors" else self._open_pickle)(path)
            missing = sorted(name for name in names if self._files.get(name) != path)
            if missing:
                raise InputError(f"{path}: {listing(missing)} is missing, which the index lists in this file")

    def read(self, name: str) -> Tensor:
        """A copy of one tensor, on the CPU. Raises `InputError` if the file was changed after it was opened."""
        path = self._files[name]
        if path.suffix != ".safetensors":
            self._pickles[path] = self._pickles.get(path) or _read_pickle(path)
            return self._pickles[path][name].detach().clone()
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor.clone()
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {listing([name])} cannot be read ({error})") from None

    def _open_safetensors(self, path: Path) -> None:
        try:
            with path.open("rb") as head:
                length = int.from_bytes(head.read(8), "little")
            if length > min(MAX_HEADER_BYTES, path.stat().st_size):
                raise OSError(f"its header has {length:,} bytes")
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    entry = file.get_slice(name)
                    self._add(path, name, entry.get_shape(), DTYPES.get(entry.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: truncated or corrupt, or not a safetensors file ({error})") from None

    def _open_pickle(self, path: Path) -> None:
        for name, tensor in _read_pickle(path).items():
            self._add(path, name, tensor.shape, tensor.dtype if tensor.dtype in DTYPES.values() else None)

    def _add(self, path: Path, name: str, shape: Iterable[int], dtype: torch.dtype | None) -> None:
        if name in self._files:
            raise InputError(f"{path}: {listing([name])} is also in {self._files[name].name}")
        self._files[name], self.shapes[name], self.dtypes[name] = path, tuple(shape), dtype


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            file.seek(0)
            _check_zip(file) if zipped else _check_pickles(file, _LEGACY_PICKLES)
        with warnings.catch_warnings(action="ignore"):  # of types of storages that torch has renamed
            # Only the zip format can be mapped; files from before torch 1.6 are read whole.
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises many types for damaged files
        first = (str(error) or type(error).__name__).strip().split("\n", maxsplit=1)[0]
        raise InputError(
            f"{path}: refused, because it cannot be read as plain tensors (weights_only=True) and a pickle can run "
            f"any code. If you trust it, convert it to safetensors ({first})"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{path}: refused, because it is not a mapping of names to tensors")
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise InputError(f"{path}: refused, because {shortened(name)} is not a plain tensor")
    return tensors


def _is_plain(value: object) -> bool:
    """Whether `value` is a tensor with all of its numbers in memory."""
    if type(value) not in (Tensor, nn.Parameter):
        return False
    assert isinstance(value, Tensor)
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    # A stride of 0 makes a tensor of any shape from one number.
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _check_zip(file: BinaryIO) -> None:
    """Check the directory of a zip and the pickle in it. Raises `ValueError` if torch would not have written it."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]  # torch's reader does not look at the case of letters
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        size = file.seek(0, os.SEEK_END)
        if not stored or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its zip entries are compressed")
        pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
        if len(pickles) != 1 or len({*names}) < len(names) or min(entry.header_offset for entry in entries):
            raise ValueError("its zip entries are not those of one data.pkl")
        with archive.open(pickles[0]) as content:
            _check_pickles(content, 1)


def _check_pickles(file: IO[bytes], count: int) -> None:
    """Check `count` pickles, one after the other. Raises `ValueError` if they hold more than dictionaries of tensors.

    torch accepts other types with weights_only=True, some of which take any amount of memory.
    """
    tuples = 0
    for _ in range(count):
        for opcode, argument, position in pickletools.genops(file):
            tuples += "TUPLE" in opcode.name
            if (position or 0) > MAX_PICKLE_BYTES or tuples > MAX_PICKLE_TUPLES:
                raise ValueError("its pickle is too long for a list of tensors")
            if "GLOBAL" in opcode.name and not _PLAIN.fullmatch(str(argument)):
                raise ValueError(f"it holds {shortened(argument or opcode.name)}")


def _weight_files(directory: Path) -> list[tuple[Path, list[str]]]:
    """The weight files of `directory`, each with the tensors that the index, if there is one, lists in it."""
    for whole in (SAFETENSORS, PICKLE):
        if (directory / whole).is_file():
            return [(directory / whole, [])]
        index = directory / (whole + INDEX_SUFFIX)
        if index.is_file():
            return _shards(index, Path(whole).suffix)
    others = [p.name for p in sorted(directory.iterdir()) if p.suffix in (".pt", ".pth", ".ckpt", ".h5", ".msgpack")]
    unsupported = f"; {', '.join(others[:3])} cannot be read" if others else ""
    if (directory / ADAPTER_CONFIG_FILE).is_file():
        unsupported = "; this is an adapter, which is loaded into the model that it was trained with"
    raise InputError(f"{directory}: no weights here ({SAFETENSORS} or {PICKLE}, single or with index){unsupported}")


def _shards(index: Path, suffix: str) -> list[tuple[Path, list[str]]]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{index}: weight_map must name the file of each tensor")
    names: dict[str, list[str]] = {}
    for name, file in places.items():
        if Path(file).name != file or Path(file).suffix != suffix:
            raise InputError(f"{index}: {shortened(file)} is not the name of a {suffix} file in the same directory")
        names.setdefault(file, []).append(name)
    missing = sorted(file for file in names if not _is_file(index.parent / file))
    if missing:
        raise InputError(f"{index.parent}: shards are missing: {listing(missing)}")
    return [(index.parent / file, names[file]) for file in sorted(names)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False


def write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` with an index. Memory holds one shard.

    Weight files of an earlier save in `directory` that are not overwritten are removed at the end.
    """
    temporary: list[Path] = []
    contents: list[dict[str, int]] = []  # bytes of each shard's tensors
    try:
        with storage_errors(directory):
            for shard in _divide(tensors, max_shard_bytes):
                temporary.append(directory / f".{SAFETENSORS}.{len(temporary)}.tmp")
                write_tensors(temporary[-1], shard, metadata={"format": "pt"})
                contents.append({name: tensor.nbytes for name, tensor in shard.items()})
            total = len(contents)
            names = [f"model-{n + 1:05}-of-{total:05}.safetensors" for n in range(total)]
            names = [SAFETENSORS] if total == 1 else names
            for path, name in zip(temporary, names, strict=True):
                path.replace(directory / name)
            sync_directory(directory)
    except BaseException:
        for path in temporary:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    index = SAFETENSORS + INDEX_SUFFIX
    if total > 1:
        places = {tensor: name for name, sizes in zip(names, contents, strict=True) for tensor in sizes}
        size = sum(sum(sizes.values()) for sizes in contents)
        write_json(directory / index, {"metadata": {"total_size": size}, "weight_map": places})
        names.append(index)
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _divide(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Shards of at most `limit` bytes or one tensor; each is emptied before the next one is filled."""
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            yield shard
            shard.clear()
        shard[name] = tensor
    yield shard


def listing(names: list[str], limit: int = 3) -> str:
    """The first few of `names`, and the number of the others."""
    more = f" (and {len(names) - limit} more)" if len(names) > limit else ""
    plain = (name if name.isprintable() and len(name) <= 100 else shortened(name) for name in names[:limit])
    return ", ".join(plain) + more
