"""Named tensors in a directory, whole or divided over processes, in the layout of torch.distributed.checkpoint (DCP).

Each process writes the parts that it has into safetensors files, with their offsets in the header: the layout of DCP's
`HuggingFaceStorageWriter`, which `HuggingFaceStorageReader` reads. A file has one part of a tensor; if a process has
several, such as rows of queries, keys and values, it writes several files. Any number of processes reads them, whatever
their own parts are. Nothing is pickled, and the file of a single process is an ordinary safetensors file.

DCP's planner decides which process writes what several of them have. Two parts of DCP are not used:

- Its writer builds a whole file in memory while it holds Python's lock (1.9 s for 512 MiB, measured), and syncs it
  before the last bytes leave the buffer. `write_tensors` does neither.
- `dcp.save` and `dcp.load` warn if there is no process group, and a warning cannot be silenced for a single thread.
  They know one part of a tensor in each process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from neolm.core.files import write_tensors
from neolm.training.division import whole_size
from neolm.training.sharded_tensor import boxes

Boxes = Mapping[str, Mapping[torch.Size, Tensor]]
"""By name, the parts of tensors in this process by their offsets."""


def plan_shards(tensors: Mapping[str, Tensor]) -> SavePlan:
    """Plan to save the parts of `tensors` in this process."""
    return SavePlan(
        [
            WriteItem(
                MetadataIndex(name, offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    ChunkStorageMetadata(offsets, box.shape), TensorProperties(dtype=box.dtype), whole_size(tensor)
                ),
            )
            for name, tensor in tensors.items()
            for offsets, box in boxes(tensor)
        ]
    )


def assign_shards(plans: Sequence[SavePlan]) -> list[SavePlan]:
    """Combine the plans of all processes into one for each, in which every part is written once."""
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    return planner.create_global_plan(list(plans))[0]


def write_shards(directory: Path, number: int, plan: SavePlan, tensors: Boxes) -> list[Path]:
    """Write the parts of `plan`, whose data are in `tensors` on the CPU, as process `number`; return the files.

    Raises:
        OSError: a file cannot be written.
    """
    files: list[dict[str, torch.Size]] = [{}]
    for item in plan.items:
        name, offsets = item.index.fqn, item.index.offset
        assert offsets is not None
        file = next((file for file in files if name not in file), None)
        if file is None:
            files.append(file := {})
        file[name] = offsets
    paths = []
    for count, file in enumerate(files, 1):
        paths.append(directory / f"shard-{number + 1:05d}{f'-{count}' if count > 1 else ''}.safetensors")
        places = json.dumps({name: {"saved_offsets": [*offsets]} for name, offsets in file.items()})
        header = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": places}
        write_tensors(paths[-1], {name: tensors[name][offsets] for name, offsets in file.items()}, header)
    return paths


def read_shards(directory: Path, into: Mapping[str, Tensor]) -> None:
    """Fill `into` in place with the tensors of those names, a divided one with its part; dtypes are converted.

    Raises:
        RuntimeError: a name is missing.
        ValueError: a tensor has another size.
    """
    metadata = HuggingFaceStorageReader(str(directory)).read_metadata()
    wanted: dict[str, list[tuple[str, tuple[slice, ...], Tensor]]] = {}  # by file
    for name, tensor in into.items():
        stored = metadata.state_dict_metadata.get(name)
        if stored is None:
            raise RuntimeError(f"{directory}: there is no tensor {name}")
        assert isinstance(stored, TensorStorageMetadata)
        if stored.size != whole_size(tensor):
            raise ValueError(f"{directory}: {name} has the size {[*stored.size]} instead of {[*whole_size(tensor)]}")
        for offsets, box in boxes(tensor):
            for chunk in stored.chunks:
                sides = [*zip(chunk.offsets, chunk.sizes, offsets, box.shape, strict=True)]
                common = [(max(a, b), min(a + n, b + m)) for a, n, b, m in sides]
                if any(low >= high for low, high in common):
                    continue
                source = tuple(slice(low - a, high - a) for (low, high), (a, *_) in zip(common, sides, strict=True))
                target = tuple(slice(low - b, high - b) for (low, high), (*_, b, _) in zip(common, sides, strict=True))
                file = metadata.storage_data[MetadataIndex(name, chunk.offsets)].relative_path
                wanted.setdefault(file, []).append((name, source, box[target]))
    with torch.no_grad():
        for file, reads in wanted.items():
            with safe_open(file, "pt") as opened:
                for name, source, target_box in reads:
                    target_box.copy_(opened.get_slice(name)[source])


def read_tensors(
    directory: Path, like: Callable[[str, torch.Size], Tensor | bool] = lambda name, size: True
) -> dict[str, Tensor]:
    """Read the tensors of a directory, assembled from their parts.

    `like` returns a new tensor to read into, such as a DTensor, for a name and a size; True: a whole tensor is read;
    False: none.
    """
    found = {}
    for name, metadata in HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata.items():
        assert isinstance(metadata, TensorStorageMetadata)
        into = like(name, metadata.size)
        if into is True:
            found[name] = torch.empty(metadata.size, dtype=metadata.properties.dtype)
        elif into is not False:
            found[name] = into
    read_shards(directory, found)
    return found
