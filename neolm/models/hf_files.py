"""The files that hold a model's weights: safetensors, whole or sharded; `pytorch_model.bin` only as plain tensors.

A pickle can run any code, so a `.bin` is read with `weights_only=True` or not at all. Reading is tensor by tensor:
each is copied out of a memory map that is closed again, so that memory holds the weights once. Writing puts every
file under a temporary name first, so that a crash leaves no half file under its final one.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.files import storage_errors, sync_directory, write_json, write_tensors
from neolm.models.hf_config import read_json

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class WeightFiles:
    """The tensors in a model directory by name: their shapes and dtypes at once, their values when read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype | None] = {}  # None: not a floating-point type that we compute with
        self._files: dict[str, Path] = {}
        self._pickles: dict[Path, dict[str, Tensor]] = {}
        for path, names in _weight_files(directory):
            (self._open_safetensors if path.suffix == ".safetensors" else self._open_pickle)(path)
            lost = sorted(name for name in names if self._files.get(name) != path)
            if lost:
                raise InputError(f"{path}: the index names {listing(lost)} in it, but it holds no such tensor")

    def read(self, name: str) -> Tensor:
        """A copy of one tensor in main memory.

        Raises:
            InputError: the file changed or went away since it was opened.
        """
        path = self._files[name]
        if path in self._pickles:
            return self._pickles[path][name].clone()
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor.clone()
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {name} cannot be read ({error})") from None

    def _open_safetensors(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    entry = file.get_slice(name)
                    self._add(path, name, entry.get_shape(), DTYPES.get(entry.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: truncated or corrupt, or not a safetensors file ({error})") from None

    def _open_pickle(self, path: Path) -> None:
        try:
            # Only the zip format can be mapped; files from before torch 1.6 are read whole.
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            first = str(error).strip().split("\n", maxsplit=1)[0]
            raise InputError(
                f"{path}: refused, for it cannot be read as plain tensors (weights_only=True) and a pickle may run "
                f"any code; save it as safetensors where you trust it ({first})"
            ) from None
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise InputError(f"{path}: refused, for it holds something else than tensors by name")
        self._pickles[path] = tensors
        for name, tensor in tensors.items():
            self._add(path, name, tensor.shape, tensor.dtype if tensor.dtype in DTYPES.values() else None)

    def _add(self, path: Path, name: str, shape: Iterable[int], dtype: torch.dtype | None) -> None:
        if name in self._files:
            raise InputError(f"{path}: {name} is also in {self._files[name].name}")
        self._files[name], self.shapes[name], self.dtypes[name] = path, tuple(shape), dtype


def _weight_files(directory: Path) -> list[tuple[Path, list[str]]]:
    """The weight files of `directory`, each with the names that its index, if there is one, says it holds."""
    for whole in (SAFETENSORS, PICKLE):
        if (directory / whole).is_file():
            return [(directory / whole, [])]
        index = directory / (whole + INDEX_SUFFIX)
        if index.is_file():
            return _shards(index, Path(whole).suffix)
    others = [p.name for p in sorted(directory.iterdir()) if p.suffix in (".pt", ".pth", ".ckpt", ".h5", ".msgpack")]
    found = f"; {', '.join(others[:3])} cannot be read" if others else ""
    raise InputError(f"{directory}: no weights here ({SAFETENSORS}, or {PICKLE}, whole or with their index){found}")


def _shards(index: Path, suffix: str) -> list[tuple[Path, list[str]]]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{index}: weight_map must name the file of each tensor")
    names: dict[str, list[str]] = {}
    for name, file in places.items():
        if Path(file).name != file or Path(file).suffix != suffix:
            raise InputError(f"{index}: '{file}' is not the name of a {suffix} file beside it")
        names.setdefault(file, []).append(name)
    missing = sorted(file for file in names if not (index.parent / file).is_file())
    if missing:
        raise InputError(f"{index.parent}: shards are missing: {listing(missing)}")
    return [(index.parent / file, names[file]) for file in sorted(names)]


def write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` and their index, a shard in memory at a time.

    Weight files that an earlier save left in `directory` and that are not written again are removed at the end.
    """
    temporary: list[Path] = []
    try:
        with storage_errors(directory):
            contents = _write_shards(directory, tensors, max_shard_bytes, temporary)
            total = len(contents)
            stem = Path(SAFETENSORS).stem
            names = [f"{stem}-{n + 1:05}-of-{total:05}.safetensors" for n in range(total)]
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


def _write_shards(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], limit: int, written: list[Path]
) -> list[dict[str, int]]:
    """Write shards under temporary names, which go to `written`; returns each one's tensors and their bytes."""
    contents: list[dict[str, int]] = []
    shard: dict[str, Tensor] = {}

    def finish() -> None:
        path = directory / f".{SAFETENSORS}.{len(written)}.tmp"
        written.append(path)
        write_tensors(path, shard, metadata={"format": "pt"})
        contents.append({name: tensor.nbytes for name, tensor in shard.items()})
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            finish()
        shard[name] = tensor
    finish()
    return contents


def listing(names: list[str], limit: int = 3) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" (and {len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
