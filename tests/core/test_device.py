import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neolm.core import device
from neolm.core.errors import InputError


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({"amx_bf16", "avx512f"}, "bfloat16"), ({"avx512_bf16"}, "bfloat16"), ({"avx2", "avx512f"}, "float32")],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    choice = device.choose_precision("auto", "cpu")
    assert choice.value == precision
    assert choice.reason in str(choice)
    assert device.choose_precision("float32", "cpu").value == "float32"


def test_the_precision_is_that_of_the_chosen_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (7, 5) if name == "cuda:1" else (9, 0))
    assert device.choose_precision("auto", "cuda:1").value == "float32"
    assert device.choose_precision("auto", "cuda").value == "bfloat16"


@pytest.mark.parametrize("request_", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_refused(request_: str) -> None:
    with pytest.raises(InputError, match=f"device: '{request_}' is (not available|unknown)"):
        device.choose_device(request_)


def test_the_ceiling_is_measured() -> None:
    assert device.matrix_ceiling("cpu", torch.float32, size=256, seconds=0.05) > 1e8


def test_facts_about_the_machine() -> None:
    total, available = device.memory_bytes()
    assert 0 < available <= total
    assert device.usable_cores() >= 1
    assert device.environment()["cores"] == device.usable_cores()


def test_peak_memory_counts_from_when_it_was_forgotten() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux lets a process forget its peak")
    script = (
        "from neolm.core.device import reset_peak_memory, peak_memory\n"
        "block = bytearray(b'1') * 2**28\n"
        "high = peak_memory('cpu')\n"
        "del block\n"
        "reset_peak_memory('cpu')\n"
        "assert high > 2**28 and peak_memory('cpu') < high - 2**27, (high, peak_memory('cpu'))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("request_", "on", "compiler", "value"),
    [
        (False, "cuda", "g++", "off"),
        (True, "cpu", "g++", "on"),
        ("auto", "cuda:1", None, "on"),
        ("auto", "cpu", "g++", "off"),
        ("auto", "mps", "g++", "off"),
    ],
)
def test_compiling_is_a_choice_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, request_: bool | str, on: str, compiler: str | None, value: str
) -> None:
    monkeypatch.setattr(device, "compiler", lambda: compiler)
    choice = device.choose_compile(request_, on, "float32")
    assert choice.value == value
    assert choice.reason


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "compiler", lambda: None)
    with pytest.raises(InputError, match=r"compile: there is no C\+\+ compiler"):
        device.choose_compile(True, "cpu", "float32")


def test_compiling_bfloat16_on_a_cpu_is_refused() -> None:
    assert device.choose_compile("auto", "cpu", "bfloat16").value == "off"
    assert device.choose_compile(True, "cuda", "bfloat16").value == "on"
    with pytest.raises(InputError, match=r"torch\.compile corrupts memory .*=float32"):
        device.choose_compile(True, "cpu", "bfloat16")


KERNELS = """
import ctypes, sys, torch
from neolm.core.device import keep_few_kernels

class Info(ctypes.Structure):  # of glibc's mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.mallopt(-3, 2**30)  # all in the heap, which mallinfo2 counts
if sys.argv[1] == "few":
    keep_few_kernels(8)
def multiply(length):
    torch.bmm(torch.ones(4, length, 64).bfloat16(), torch.ones(4, 64, length).bfloat16())
multiply(31)
before = libc.mallinfo2().used
for length in range(32, 132):
    multiply(length)
print(libc.mallinfo2().used - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts in glibc's heap")
@pytest.mark.skipif("avx512bw" not in device.cpu_flags(), reason="bfloat16 products without AVX-512 have no kernels")
def test_only_the_last_kernels_are_kept() -> None:
    kept = {}
    limits = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of an earlier training in this process
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    for kind in ("few", "all"):
        done = subprocess.run(
            [sys.executable, "-c", KERNELS, kind], capture_output=True, text=True, check=True, env=environment
        )
        kept[kind] = int(done.stdout)
    assert kept["few"] < 10 * 2**20 < kept["all"]


HEAPS = """
import ctypes, re, sys, tempfile, threading
from neolm.core.device import share_freed_memory

if sys.argv[1] == "shared":
    share_freed_memory()
together = threading.Barrier(8)

def allocate():
    together.wait()
    blocks = [bytearray(10_000) for _ in range(2000)]
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(re.findall("<heap nr=", open(file.name).read())))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heaps are glibc's")
def test_all_threads_share_two_heaps() -> None:
    def heaps(kind: str) -> int:
        done = subprocess.run([sys.executable, "-c", HEAPS, kind], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert heaps("shared") <= 2 < heaps("apart")


def test_measuring_the_ceiling_draws_none_of_a_training_s_random_numbers() -> None:
    before = torch.get_rng_state()
    assert device.matrix_ceiling("cpu", torch.float32, size=67, seconds=0.001) > 0  # measured by no other test
    assert torch.equal(torch.get_rng_state(), before)
