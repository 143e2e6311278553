"""Weights side by side in large pages: the same numbers, apart from each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from neolm.models.large_pages import LargePages

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 70), max_size=3)), max_size=8))
def test_tensors_of_any_shape_stay_what_they_are(wanted: list[tuple[torch.dtype, list[int]]]) -> None:
    place = LargePages()
    tensors = [(torch.rand(shape) * 100).to(dtype) for dtype, shape in wanted]
    kept = [place.keep(tensor) for tensor in tensors]
    for tensor, copy in zip(tensors, kept, strict=True):
        assert copy.dtype == tensor.dtype
        assert torch.equal(copy, tensor)
    for copy in kept:  # and may be written to, each by itself
        copy.zero_()
        tensors[[other is copy for other in kept].index(True)].zero_()
        assert all(torch.equal(*pair) for pair in zip(kept, tensors, strict=True))


def test_more_than_a_block_and_saved_one_by_one(tmp_path: Path) -> None:
    place = LargePages()
    tensors = {str(n): torch.full((n * 2**20,), float(n)) for n in range(1, 12)}  # 4 to 44 MiB
    kept = {name: place.keep(tensor) for name, tensor in tensors.items()}
    del place
    save_file(kept, tmp_path / "kept.safetensors")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / "kept.safetensors").items())


def test_what_is_elsewhere_stays_there() -> None:
    tensor = torch.empty(3, device="meta")
    assert LargePages().keep(tensor) is tensor


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how large its pages are")
def test_the_pages_are_large() -> None:
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.is_file() or "[never]" in offered.read_text():
        pytest.skip("this system gives no large pages")
    place = LargePages()
    kept = [place.keep(torch.ones(2**18)) for _ in range(64)]  # 64 MiB, a MiB each
    first, last = kept[0].data_ptr(), kept[0].data_ptr() + 2**25
    large = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) < last and first < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            large += int(line.split()[1]) * 1024
    assert large >= 2**24, "at least half of the first block"
