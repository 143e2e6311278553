"""Limits of control groups, as the kernel's documentation lays their files out."""

import subprocess
import sys
from pathlib import Path

import pytest

from neolm.core.device import memory_left


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "proc"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_tightest_group_around_the_process_counts(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/pod/app\n")
    root = tmp_path / "groups"
    group(root, memory__stat="inactive_file 7")  # the root has no limit
    group(root / "pod", memory__max=1000, memory__current=700, memory__stat="anon 5\ninactive_file 100")
    group(root / "pod" / "app", memory__max=900, memory__current=300, memory__stat="inactive_file 0")
    assert memory_left(proc, root) == 400
    group(root / "pod" / "app", memory__max="max", memory__current=690)
    assert memory_left(proc, root) == 400
    group(root / "pod" / "app", memory__max=900)
    assert memory_left(proc, root) == 210


def test_the_first_version_names_its_files_otherwise(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n")
    folder = tmp_path / "groups" / "memory" / "x"
    group(folder, memory__limit_in_bytes=500, memory__usage_in_bytes=480, memory__stat="total_inactive_file 60")
    assert memory_left(proc, tmp_path / "groups") == 80
    group(folder, memory__limit_in_bytes=300)
    assert memory_left(proc, tmp_path / "groups") == 0


def test_a_limit_of_the_address_space_counts() -> None:
    script = """
import resource
from neolm.core.device import address_space_left, free_memory
assert address_space_left() is None
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
assert 2**30 < free_memory() == address_space_left() < 2**31, address_space_left()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_group_no_limit(proc: Path, tmp_path: Path) -> None:
    assert memory_left(proc, tmp_path / "groups") is None
    (proc / "self" / "cgroup").write_text("0::/gone\n")
    assert memory_left(proc, tmp_path / "groups") is None
