"""Tensors in a directory: bit-exact, and DCP's own writer and reader as oracles."""

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from neolm.training.sharded_tensor import boxes
from neolm.training.tensor_files import assign_shards, plan_shards, read_shards, read_tensors, write_shards


def sample() -> dict[str, torch.Tensor]:
    """Every kind of tensor that a state holds; NaN with a payload, infinities and a negative zero among the numbers."""
    special = torch.tensor([0x7FC01234, 0x7F800000, -0x80000000, 0x00000001], dtype=torch.int64).to(torch.int32)
    return {
        "blocks.0.attention.qkv.weight": torch.randn(7, 5),
        "special": special.view(torch.float32),
        "half.bfloat16": torch.randn(33).bfloat16(),
        "half.float16": torch.randn(3, 3).half(),
        "double": torch.randn(4).double(),
        "integers": torch.tensor([-(2**62), 2**62 + 1]),
        "random.cpu": torch.get_rng_state(),
        "mask": torch.tensor([True, False]),
        "0.17.step": torch.tensor(1234.0),
        "count": torch.tensor(2**40 + 1),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(4, 6).t(),
        "every other": torch.arange(10)[::2],
    }


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(found[name]), bits(tensor)), name


def write(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    own = {name: dict(boxes(tensor)) for name, tensor in tensors.items()}
    (path,) = write_shards(directory, 0, assign_shards([plan_shards(tensors)])[0], own)
    return path


def test_every_kind_of_tensor_is_restored_bit_for_bit(tmp_path: Path) -> None:
    tensors = sample()
    path = write(tmp_path / "part", tensors)
    assert_same(read_tensors(tmp_path / "part"), tensors)
    assert_same(load_file(path), tensors)  # an ordinary safetensors file
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items() if name != "count"}
    places = {name: tensor.data_ptr() for name, tensor in into.items()}
    read_shards(tmp_path / "part", into)
    assert_same(into | {"count": tensors["count"]}, tensors)
    assert places == {name: tensor.data_ptr() for name, tensor in into.items()}


def test_parameters_are_filled_in_place(tmp_path: Path) -> None:
    write(tmp_path / "part", {"weight": torch.arange(4.0)})
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    read_shards(tmp_path / "part", {"weight": parameter})
    assert parameter.tolist() == [0, 1, 2, 3]
    assert parameter.requires_grad


def test_no_tensors_and_very_many(tmp_path: Path) -> None:
    write(tmp_path / "none", {})
    assert read_tensors(tmp_path / "none") == {}
    many = {f"{i // 3}.{i}.exp_avg": torch.full((i % 5,), float(i)) for i in range(5000)}
    write(tmp_path / "many", many)
    assert_same(read_tensors(tmp_path / "many"), many)


def test_unknown_names_and_other_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "part", {"weight": torch.arange(4.0)})
    with pytest.raises(RuntimeError, match="no tensor bias"):
        read_shards(tmp_path / "part", {"bias": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"weight has the size \[4\] instead of \[5\]"):
        read_shards(tmp_path / "part", {"weight": torch.zeros(5)})
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent")


def test_dcp_reads_our_files_and_we_read_those_of_dcp(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sample().items()}
    ours = write(tmp_path / "ours", tensors)
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    theirs = tmp_path / "theirs"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # one process is meant
        dcp.load(into, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path / "ours")))
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(theirs), save_distributed=True))
    assert_same(into, tensors)
    assert_same(read_tensors(theirs), tensors)
    (path,) = theirs.iterdir()
    assert len(path.read_bytes()) == len(ours.read_bytes())
