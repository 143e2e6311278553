"""Energy from fake trees of /sys and from a fake driver, a C library with NVML's functions."""

import gc
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neolm.core import energy
from neolm.core.device import usable_cores
from neolm.core.energy import WATTS_PER_CORE, EnergyMeter, how_known

NO_DRIVER = "no-such-library.so"
RANGE = 262_143_328_850  # microjoules, as Intel's counters have it


def zone(system: Path, place: str, name: str, microjoules: int, largest: int = RANGE) -> Path:
    directory = system / "class" / "powercap" / place
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{name}\n")
    (directory / "energy_uj").write_text(f"{microjoules}\n")
    (directory / "max_energy_range_uj").write_text(f"{largest}\n")
    return directory / "energy_uj"


def meter(system: Path, nvml: str = NO_DRIVER) -> EnergyMeter:
    return EnergyMeter(system, nvml)


def test_without_counters_it_is_an_estimate_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.time, "monotonic", lambda: 100.0)
    none = meter(tmp_path)
    monkeypatch.setattr(energy.time, "monotonic", lambda: 3700.0)
    assert none.joules() == WATTS_PER_CORE * usable_cores() * 3600
    expected = f"estimate: {usable_cores()} cores x 15 W x duration, not measured (no counter found)"
    assert none.as_json() == {"kwh": WATTS_PER_CORE * usable_cores() / 1000, "method": expected}


def test_two_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    twice = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        zone(tmp_path, "intel-rapl:0:2", "package-0-part", 0),
        zone(tmp_path, "intel-rapl:2", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    both = meter(tmp_path)
    assert both.joules() == 0
    first.write_text("4000000")
    second.write_text("5500000")
    for file in twice:
        file.write_text("900000000")
    assert both.joules() == 3.5
    assert both.as_json(joules=7200)["kwh"] == 0.002
    assert both.method == "measured by RAPL (package-0, package-1), without GPUs"


def test_a_counter_that_starts_again_is_followed(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    counted = meter(tmp_path)
    file.write_text("3000000")
    assert counted.joules() == 5
    file.write_text(str(RANGE - 1_000_000))
    assert counted.joules() == pytest.approx(5 + RANGE / 1e6 - 4)
    file.write_text("0")
    assert counted.joules() == pytest.approx(5 + RANGE / 1e6 - 3)


class Thread:
    """Stands for a thread, and does nothing until it is told to."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
        assert daemon  # it must not keep a program alive
        self.target, self.args, self.started = target, args, False

    def start(self) -> None:
        self.started = True


class Rounds:
    """Stands for the event that ends the thread: each wait is a while in which the counter moved on."""

    def __init__(self, file: Path, values: list[int]) -> None:
        self.file, self.values = file, values

    def wait(self, seconds: float) -> bool:
        assert seconds <= 65  # the smallest counter at 1 kW
        if self.values:
            self.file.write_text(str(self.values.pop(0)))
            return False
        return True


def test_between_two_questions_no_round_of_the_counter_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[Thread] = []
    monkeypatch.setattr(energy.threading, "Thread", lambda **given: threads.append(Thread(**given)) or threads[-1])
    meter(tmp_path)
    assert threads == []  # nothing to watch
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0, largest=10_000_000)
    counted = meter(tmp_path)
    (thread,) = threads
    assert thread.started
    reference, ended = thread.args
    thread.target(reference, Rounds(file, [9_000_000, 4_000_000, 9_000_000]))
    assert counted.joules() == 19
    assert not ended.is_set()
    del counted
    gc.collect()
    assert ended.is_set()  # a meter that is gone is watched no more
    thread.target(reference, Rounds(file, [1]))


def test_what_may_not_be_read_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    zone(tmp_path, "intel-rapl:1", "package-1", 5)
    read = Path.read_text

    def refuse(self: Path, *arguments: object, **options: object) -> str:
        if self.name == "energy_uj" and "rapl:1" in str(self):
            raise PermissionError(13, "Permission denied")
        return read(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    assert meter(tmp_path).method.endswith("not measured (RAPL may only be read by root)")


@pytest.mark.parametrize("broken", ["", "many", "1.5 J"])
def test_a_counter_that_is_no_number_is_not_used(tmp_path: Path, broken: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5).write_text(broken)
    assert meter(tmp_path).method.endswith("(RAPL cannot be read)")


@pytest.mark.parametrize("vanish", [Path.unlink, lambda file: file.write_text("?"), lambda file: file.write_text("")])
def test_a_counter_that_vanishes_leaves_an_estimate_of_the_whole_time(tmp_path: Path, vanish: object) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text("1000000")
    gone = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    counted = meter(tmp_path)
    counted._began -= 10
    vanish(gone)  # type: ignore[operator]
    assert counted.joules() >= WATTS_PER_CORE * usable_cores() * 10
    assert counted.method.startswith("estimate:")
    assert counted.method.endswith("(RAPL can no longer be read)")
    gone.write_text("9000000")  # and it stays one
    assert counted.as_json()["method"].startswith("estimate:")


def test_a_sum_over_sessions_names_the_methods_of_all(tmp_path: Path) -> None:
    first = meter(tmp_path).as_json()["method"]
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    later = meter(tmp_path)
    both = later.as_json(joules=3.6e6, earlier=first)
    assert both == {"kwh": 1.0, "method": f"{first}; measured by RAPL (package-0), without GPUs"}
    assert later.as_json(earlier=both["method"])["method"] == both["method"]  # a third session of the same kind
    assert how_known([first]) == "an estimate, not measured"
    assert how_known([later.method]) == "measured"
    assert how_known([both["method"]]) == how_known([first, later.method]) == "partly measured, partly an estimate"
    assert how_known([]) == "an estimate, not measured"


# ---- NVML ----

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#define FIRST 0x7f0000000000ULL /* a handle is a pointer of 64 bits */
typedef unsigned int uint;
static unsigned long long asked = 0;
static uint number(void *device) {
    unsigned long long index = (unsigned long long)device - FIRST;
    return index < 2 ? (uint)index : 99;
}
int nvmlInit_v2(void) { return getenv("FAKE_NO_INIT") ? 9 : 0; }
int nvmlDeviceGetCount_v2(uint *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(uint index, void **device) { *device = (void *)(FIRST + index); return 0; }
int nvmlDeviceGetName(void *device, char *name, uint length) {
    return snprintf(name, length, "Fake %u", number(device)) > 0 ? 0 : 1;
}
int nvmlDeviceGetUUID(void *device, char *uuid, uint length) {
    return snprintf(uuid, length, "GPU-abc%u-0", number(device)) > 0 ? 0 : 1;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    const char *lost = getenv("FAKE_LOST");
    if (lost && (uint)atoi(lost) == number(device)) return 3;
    *energy = (1ULL << 33) - 4000 + 1500 * asked++ * (number(device) + 1);
    return 0;
}
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C library that answers as NVML does: two GPUs, and each question costs the machine energy."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a fake driver is compiled here, which needs a C compiler")
    place = tmp_path_factory.mktemp("driver")
    (place / "nvml.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", place / "nvml.so", place / "nvml.c"], check=True)
    return place / "nvml.so"


@pytest.fixture
def fresh_driver(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the library, loaded apart, so that its counters start at the same value."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return str(shutil.copy(driver, tmp_path / "libnvidia-ml.so.1"))


def test_gpus_are_asked_through_the_driver(tmp_path: Path, fresh_driver: str) -> None:
    two = meter(tmp_path, fresh_driver)  # questions 0 and 1: 0 and 3 J
    assert two.joules() == pytest.approx(3 + 9 - 3)  # questions 2 and 3: 3 and 9 J
    assert two.method == "measured by NVML (GPU 0 Fake 0, GPU 1 Fake 1), without processors"
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    method = meter(tmp_path, fresh_driver).method
    assert method == "measured by RAPL (package-0) and NVML (GPU 0 Fake 0, GPU 1 Fake 1)"


@pytest.mark.parametrize(
    ("visible", "named"),
    [("1", "GPU 1 Fake 1"), ("GPU-abc0", "GPU 0 Fake 0"), ("1, 0", "GPU 0 Fake 0, GPU 1 Fake 1"), ("", ""), ("7", "")],
)
def test_only_visible_gpus_count(
    tmp_path: Path, fresh_driver: str, monkeypatch: pytest.MonkeyPatch, visible: str, named: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    method = meter(tmp_path, fresh_driver).method
    assert method == f"measured by NVML ({named}), without processors" if named else method.startswith("estimate:")


def test_a_driver_that_fails_is_no_driver(tmp_path: Path, fresh_driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NO_INIT", "1")
    assert meter(tmp_path, fresh_driver).method.startswith("estimate:")
    monkeypatch.delenv("FAKE_NO_INIT")
    monkeypatch.setenv("FAKE_LOST", "0")
    assert meter(tmp_path, fresh_driver).method.startswith("estimate:")
    monkeypatch.delenv("FAKE_LOST")
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    counted = meter(tmp_path, fresh_driver)
    monkeypatch.setenv("FAKE_LOST", "1")
    assert counted.joules() == 0
    assert counted.method == "measured by RAPL (package-0), without GPUs"


def test_a_library_without_the_functions_is_no_driver(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a fake driver is compiled here, which needs a C compiler")
    (tmp_path / "old.c").write_text("int nvmlInit_v2(void) { return 0; }")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "old.so", tmp_path / "old.c"], check=True)
    assert meter(tmp_path, str(tmp_path / "old.so")).method.startswith("estimate:")
