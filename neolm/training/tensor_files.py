"""Named tensors in a directory, whole or sharded over processes, in the layout of torch.distributed.checkpoint (DCP).

Each process writes its shards into one safetensors file, with their offsets in the header: the layout of DCP's
`HuggingFaceStorageWriter`. Its `HuggingFaceStorageReader` reads it into any sharding over any number of processes.
Nothing is pickled, and the file of a single process is an ordinary safetensors file. DCP's planners decide what each
process writes and reads. Two parts of DCP are not used:

- Its writer builds a whole file in memory while it holds Python's lock (1.9 s for 512 MiB, measured), and syncs it
  before the last bytes leave the buffer. `write_tensors` does neither.
- `dcp.save` and `dcp.load` warn if there is no process group, and a warning cannot be silenced for a single thread. The
  planner and the reader are called directly, in the order that `SavePlanner` and `LoadPlanner` document.

Not supported: more than one shard of a tensor in one process, which the layout cannot express.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan

from neolm.core.files import write_tensors


def plan_shards(tensors: Mapping[str, Tensor]) -> SavePlan:
    """Plan to save the shards of `tensors` in this process."""
    planner = _save_planner()
    planner.set_up_planner(dict(tensors), is_coordinator=True)
    return planner.create_local_plan()


def assign_shards(plans: Sequence[SavePlan]) -> list[SavePlan]:
    """Combine the plans of all processes into one for each, in which every shard is written once."""
    return _save_planner().create_global_plan(list(plans))[0]


def write_shards(directory: Path, number: int, plan: SavePlan, tensors: Mapping[str, Tensor]) -> Path:
    """Write the shards of `plan`, whose data are in `tensors` on the CPU, as process `number`; return the file.

    Raises:
        OSError: the file cannot be written.
    """
    offsets = {}
    for item in plan.items:
        assert item.tensor_data is not None
        offsets[item.index.fqn] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
    assert len(offsets) == len(plan.items), "one shard of a tensor in each process"
    path = directory / f"shard-{number + 1:05d}.safetensors"
    header = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    write_tensors(path, {name: tensors[name] for name in offsets}, header)
    return path


def read_shards(directory: Path, into: Mapping[str, Tensor]) -> None:
    """Fill `into` in place with the tensors of those names, a DTensor with its shard; other dtypes are converted.

    Raises:
        RuntimeError: a name is missing.
        ValueError: a tensor has another size.
    """
    reader = HuggingFaceStorageReader(str(directory))
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata = reader.read_metadata()
    planner.set_up_planner(dict(into), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    with torch.no_grad():
        reader.read_data(planner.finish_plan(plan), planner).wait()


def read_tensors(directory: Path, like: Callable[[str, torch.Size], Tensor | None] | None = None) -> dict[str, Tensor]:
    """Read all tensors of a directory, assembled from their shards.

    `like` returns a new tensor to read into, such as a DTensor, for a name and a size; None: a whole tensor is read.
    """
    found = {}
    for name, metadata in HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata.items():
        assert isinstance(metadata, TensorStorageMetadata)
        sharded = like(name, metadata.size) if like is not None else None
        found[name] = torch.empty(metadata.size, dtype=metadata.properties.dtype) if sharded is None else sharded
    read_shards(directory, found)
    return found


def _save_planner() -> DefaultSavePlanner:
    return DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
