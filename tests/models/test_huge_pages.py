"""Tensors in huge pages keep their values and do not overlap."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from neolm.models.weight_storage import HugePages

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 70), max_size=3)), max_size=8))
def test_tensors_of_any_shape_keep_their_values(cases: list[tuple[torch.dtype, list[int]]]) -> None:
    pages = HugePages()
    tensors = [(torch.rand(shape) * 100).to(dtype) for dtype, shape in cases]
    kept = [pages.store(tensor) for tensor in tensors]
    for tensor, copy in zip(tensors, kept, strict=True):
        assert copy.dtype == tensor.dtype
        assert torch.equal(copy, tensor)
    for copy in kept:  # writing to one does not change the others
        copy.zero_()
        tensors[[other is copy for other in kept].index(True)].zero_()
        assert all(torch.equal(*pair) for pair in zip(kept, tensors, strict=True))


def test_tensors_larger_than_an_allocation_can_be_saved(tmp_path: Path) -> None:
    pages = HugePages()
    tensors = {str(n): torch.full((n * 2**20,), float(n)) for n in range(1, 12)}  # 4 to 44 MiB
    kept = {name: pages.store(tensor) for name, tensor in tensors.items()}
    del pages
    save_file(kept, tmp_path / "kept.safetensors")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / "kept.safetensors").items())


def test_a_tensor_on_another_device_is_returned_unchanged() -> None:
    tensor = torch.empty(3, device="meta")
    assert HugePages().store(tensor) is tensor


@pytest.mark.skipif(sys.platform != "linux", reason="reads the page sizes from Linux")
def test_the_memory_uses_huge_pages() -> None:
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.is_file() or "[never]" in offered.read_text():
        pytest.skip("this system has no huge pages")
    pages = HugePages()
    kept = [pages.store(torch.ones(2**18)) for _ in range(64)]  # 64 MiB, a MiB each
    first, last = kept[0].data_ptr(), kept[0].data_ptr() + 2**25
    large = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) < last and first < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            large += int(line.split()[1]) * 1024
    assert large >= 2**24, "at least half of the first allocation"
