"""A checkpoint of any number of processes is read by any other number, bit for bit, over gloo on a CPU."""

from pathlib import Path

import forked_command
import torch
from safetensors import safe_open

from neolm.training.checkpoint import last_checkpoint
from neolm.training.checkpoint_writer import CheckpointWriter

SIZES = {"a.rows": (10, 3), "b.columns": (4, 6), "c.uneven": (5, 3), "d.few": (1, 2), "e.all": (7,), "f.step": ()}
SIZES |= {"g.blocks": (15, 3), "h.columns": (3, 5)}  # divided as by tensor parallelism

# One process of several. Every tensor is a function of its name and the step; `PLACED` says how it is spread.
RANK = (
    f"SIZES = {SIZES}"
    + """
import errno, sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from neolm.core.errors import StorageError
from neolm.training import checkpoint_writer
from neolm.training.checkpoint import last_checkpoint
from neolm.training.checkpoint_writer import CheckpointWriter
from neolm.training.division import Division, mark

rank, world, store, root, source = sys.argv[1:]
rank, world, root, source = int(rank), int(world), Path(root), Path(source)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)

PLACED = {"a.rows": Shard(0), "b.columns": Shard(1), "c.uneven": Shard(0), "d.few": Shard(0), "e.all": Replicate()}
DIVIDED = {"g.blocks": (0, 3), "h.columns": (1, 1)}  # dimension, blocks of rows
with_fsdp = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))["shard"] if world == 4 else None

def full(name, size, step):
    generator = torch.Generator().manual_seed(step * 100 + ord(name[0]))
    tensor = torch.randn(size, generator=generator)
    return tensor.bfloat16() if name == "b.columns" else tensor

def part(name, tensor):
    division = Division.of(tensor.shape, *DIVIDED[name], rank % 2, 2, None)
    own = division.part(tensor)
    return mark(own if with_fsdp is None else distribute_tensor(own, with_fsdp, [Shard(0)]), division)

def spread(tensors, mesh):
    return {
        name: distribute_tensor(tensor, mesh, [*[Replicate()] * (mesh.ndim - 1), PLACED[name]]) if name in PLACED
        else part(name, tensor) if name in DIVIDED else tensor
        for name, tensor in tensors.items()
    }

def state(step, mesh):
    return spread({name: full(name, size, step) for name, size in SIZES.items()}, mesh)

def check(directory, step, mesh):
    found = last_checkpoint(directory, "step")
    assert found.step == step, found
    expected = state(step, mesh)
    into = spread({name: torch.zeros_like(full(name, size, step)) for name, size in SIZES.items()}, mesh)
    found.load("weights", into)
    for name, tensor in into.items():
        ours, theirs = (t.to_local() if isinstance(t, DTensor) else t for t in (tensor, expected[name]))
        assert torch.equal(ours, theirs), (rank, name)

meshes = [init_device_mesh("cpu", (world,))]
if world == 4:
    meshes.append(init_device_mesh("cpu", (2, 2)))  # two copies of two shards
for mesh in meshes:
    check(source, 5, mesh)

with CheckpointWriter(root, keep=2, keep_every=2) as writer:
    for step in (2, 3, 4, 5):
        tensors = state(step, meshes[-1])
        own = {f"{rank}.cpu": torch.full((3,), rank)}
        writer.save("step", {"weights": tensors, "random": own}, {"step": step})
        writer.save("best", {"weights": tensors}, {"step": step})
        for tensor in tensors.values():
            tensor.zero_()
dist.barrier()
for mesh in meshes:
    check(root, 5, mesh)

def full_disk(*arguments):
    if rank == 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(*arguments)

write = checkpoint_writer.write_shards
with CheckpointWriter(root, keep=2) as writer:
    checkpoint_writer.write_shards = full_disk
    try:
        writer.save("step", {"weights": state(6, meshes[0])}, {"step": 6})
        writer.wait()
    except StorageError as error:
        assert "disk is full" in str(error), error
    else:
        raise AssertionError("nothing was raised")
    checkpoint_writer.write_shards = write
    dist.barrier()
    check(root, 5, meshes[0])
    writer.save("best", {"weights": state(7, meshes[0])}, {"step": 7})
dist.destroy_process_group()
"""
)


def run(place: Path, world: int, source: Path) -> Path:
    """Let `world` processes read the checkpoints of `source` and write their own, whose place is returned."""
    root, store = place / f"checkpoints of {world}", place / f"store of {world}"
    paths = [place / f"said by {rank} of {world}.txt" for rank in range(world)]
    ranks = [forked_command.start([rank, world, store, root, source], paths[rank], RANK) for rank in range(world)]
    for rank in ranks:
        rank.join()
    said = [path.read_text() for path in paths]
    assert not any(rank.exitcode for rank in ranks), "\n".join(said)
    assert not any("damaged" in text for text in said), said
    return root


def expected(step: int) -> dict[str, torch.Tensor]:
    tensors = {
        name: torch.randn(size, generator=torch.Generator().manual_seed(step * 100 + ord(name[0])))
        for name, size in SIZES.items()
    }
    return tensors | {"b.columns": tensors["b.columns"].bfloat16()}


def assert_whole(root: Path, step: int) -> None:
    found = last_checkpoint(root, "step")
    assert found is not None
    assert found.step == step
    tensors = found.tensors("weights")
    assert tensors.keys() == SIZES.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected(step).items())
    written = 0
    for path in (found.directory / "weights").iterdir():
        with safe_open(path, "pt") as file:
            written += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert written == sum(tensor.nbytes for tensor in expected(step).values())  # no shard twice


def test_one_two_and_four_processes_read_each_others_checkpoints(tmp_path: Path) -> None:
    of_one = tmp_path / "checkpoints of 1"
    with CheckpointWriter(of_one, keep=2) as writer:
        writer.save("step", {"weights": expected(5)}, {"step": 5})
    of_four = run(tmp_path, 4, source=of_one)
    of_two = run(tmp_path, 2, source=of_four)
    for root in (of_one, of_two, of_four):
        assert_whole(root, 5)
    found = last_checkpoint(of_two, "step")
    assert found is not None
    assert {name: tensor.tolist() for name, tensor in found.tensors("random").items()} == {
        "0.cpu": [0, 0, 0],
        "1.cpu": [1, 1, 1],
    }
    kept = [*(f"step-0000000{step}" for step in (2, 4, 5)), "best-00000007"]  # nothing of step 6, which failed
    assert {path.name for path in of_two.iterdir()} == set(kept)
