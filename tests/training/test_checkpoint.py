"""Checkpoints: kept, found, damaged, written in the background, on a full disk, and killed at every moment."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neolm.core.errors import InputError, StorageError
from neolm.training import checkpoint_writer
from neolm.training.checkpoint import (
    Checkpoint,
    discard_after,
    last_checkpoint,
    random_state,
    restore_random_state,
)
from neolm.training.checkpoint_writer import CheckpointWriter

WEIGHTS = "weights/shard-00001.safetensors"


def parts_of(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "weights": {"block.w": torch.full((100,), float(step)), "block.b": torch.full((3, 2), float(step)).bfloat16()},
        "optimiser": {"0.0.step": torch.tensor(float(step)), "0.0.m": torch.arange(step)},
    }


def save(root: Path, step: int, kind: str = "step", keep: int = 2, **more: Any) -> Path:
    with CheckpointWriter(root, keep=keep, asynchronous=False) as writer:
        writer.save(kind, parts_of(step), {"step": step, "tokens": step * 10, **more})
    return root / f"{kind}-{step:08d}"


def last(root: Path, kind: str = "step") -> Checkpoint:
    found = last_checkpoint(root, kind)
    assert found is not None
    return found


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def mask() -> int:
    os.umask(current := os.umask(0))
    return current


# On disk


def test_the_last_checkpoints_are_kept_and_found(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    for step in (3, 7):
        save(tmp_path, step, kind="best")
    assert names(tmp_path) == ["best-00000007", "step-00000010", "step-00000015"]
    found = last(tmp_path)
    assert (found.step, found.state["tokens"]) == (15, 150)
    for part, tensors in parts_of(15).items():
        loaded = found.tensors(part)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    into = {"block.b": torch.zeros(3, 2).bfloat16()}
    found.load("weights", into)
    assert torch.equal(into["block.b"], parts_of(15)["weights"]["block.b"])
    assert (found.directory / WEIGHTS).stat().st_mode & 0o777 == 0o666 & ~mask()
    assert last_checkpoint(tmp_path / "none", "step") is None


def test_multiples_of_keep_every_are_kept_for_good(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=2, keep_every=20) as writer:
        for step in range(5, 66, 5):
            writer.save("step", parts_of(step), {"step": step})
            writer.save("best", parts_of(step), {"step": step})
    kept = ["step-00000020", "step-00000040", "step-00000060", "step-00000065"]
    assert names(tmp_path) == ["best-00000065", *kept]


def test_the_best_checkpoint_that_a_step_checkpoint_names_is_kept(tmp_path: Path) -> None:
    for best in (3, 7):
        save(tmp_path, best, kind="best")
    save(tmp_path, 10, best_step=7)
    for best in (11, 13):
        save(tmp_path, best, kind="best")
    assert names(tmp_path) == ["best-00000007", "best-00000013", "step-00000010"]
    save(tmp_path, 20, best_step=13, keep=1)
    assert names(tmp_path) == ["best-00000013", "step-00000020"]


def test_a_part_may_be_empty_and_the_state_is_restored(tmp_path: Path) -> None:
    state = {"step": 3, "best_loss": 0.1 + 0.2, "best_step": None, "nested": {"a": [1, 2.5, "ü"]}}
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save("step", {"weights": {}, "random": random_state()}, state)
    found = last(tmp_path)
    assert found.state == state
    assert found.tensors("weights") == {}
    assert (found.directory / WEIGHTS).exists()  # so that its loss would be seen
    assert torch.equal(found.tensors("random")["cpu"], torch.get_rng_state())


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 5, note="again")
    assert last(tmp_path).state["note"] == "again"
    assert names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        "truncate",
        "remove",
        "remove a part",
        "stranger",
        "torn record",
        "no record",
        "record without files",
        "altered state",
    ],
)
def test_a_damaged_checkpoint_is_reported_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    save(tmp_path, 5)
    directory = save(tmp_path, 10)
    weights, record = directory / WEIGHTS, directory / "checkpoint.json"
    match damage:
        case "flip":
            data = bytearray(weights.read_bytes())
            data[-3] ^= 1
            weights.write_bytes(data)
        case "truncate":
            os.truncate(weights, 50)
        case "remove":
            weights.unlink()
        case "remove a part":
            weights.unlink()
            weights.parent.rmdir()
        case "stranger":
            (weights.parent / "shard-00002.safetensors").write_bytes(weights.read_bytes())
        case "torn record":
            record.write_text('{"state": {')
        case "no record":
            record.unlink()
        case "record without files":
            record.write_text("[]")
        case _:
            record.write_text(record.read_text().replace('"tokens": 100', '"tokens": 101'))
    assert last(tmp_path).step == 5
    said = capsys.readouterr().err
    assert "checkpoint step-00000010 is damaged (" in said
    assert said.endswith("; using step-00000005\n")
    assert said.count("\n") == 1
    guilty = "checkpoint.json" if "record" in damage or "state" in damage else "weights/shard-0000"
    assert guilty in said


def test_that_no_checkpoint_is_intact_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 10):
        save(tmp_path, step)
        (tmp_path / f"step-{step:08}" / "checkpoint.json").unlink()
    assert last_checkpoint(tmp_path, "step") is None
    assert capsys.readouterr().err == "".join(
        f"checkpoint step-{step:08} is damaged (checkpoint.json); there is no intact one before it\n"
        for step in (10, 5)
    )


def test_a_checkpoint_of_another_version_is_refused_not_removed(tmp_path: Path) -> None:
    old = tmp_path / "step-00000005"
    old.mkdir()
    (old / "checkpoint.json").write_text('{"state": {"step": 5}, "digests": {"weights": "0"}}')
    with pytest.raises(InputError, match=r"step-00000005 was written by another version of NeoLM. .*output=DIR"):
        last_checkpoint(tmp_path, "step")


def test_checkpoints_after_the_resumed_step_are_discarded(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    discard_after(tmp_path, "step", 5)
    assert names(tmp_path) == ["step-00000005"]


def test_the_random_state_is_restored() -> None:
    state = random_state()
    first = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(first, torch.rand(3))


def test_leftovers_of_a_killed_process_are_removed_when_a_writer_starts(tmp_path: Path) -> None:
    save(tmp_path, 5)
    for name in (".step-00000010.partial", ".step-00000003.removed"):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / WEIGHTS).write_bytes(b"half")
    assert last(tmp_path).step == 5
    CheckpointWriter(tmp_path, keep=2).close()
    assert names(tmp_path) == ["step-00000005"]


# Background writing


class Gate:
    """Holds the writing thread before it writes its first tensors, until opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self._open, self._write = threading.Event(), threading.Event(), checkpoint_writer.write_shards
        self.open = self._open.set
        patch.setattr(checkpoint_writer, "write_shards", self)

    def __call__(self, *arguments: Any) -> list[Path]:
        self.reached.set()
        self._open.wait()
        return self._write(*arguments)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


def test_a_save_returns_before_it_is_written_and_stores_the_values_at_the_call(tmp_path: Path, gate: Gate) -> None:
    parts, state = parts_of(5), {"step": 5, "seen": [1]}
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save("step", parts, state)
        gate.reached.wait()
        assert names(tmp_path) == [".step-00000005.partial"]
        assert last_checkpoint(tmp_path, "step") is None
        writer.poll()  # nothing has gone wrong so far
        for tensors in parts.values():
            for tensor in tensors.values():
                tensor.zero_()
        state["seen"].append(2)
        gate.open()
        writer.wait()
        found = last(tmp_path)
        assert found.state["seen"] == [1]
        for part, tensors in parts_of(5).items():
            loaded = found.tensors(part)
            assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_only_saves_of_one_kind_wait_for_each_other(tmp_path: Path, gate: Gate) -> None:
    with CheckpointWriter(tmp_path, keep=2) as writer:
        weights = torch.zeros(1000)
        writer.save("best", {"weights": {"w": weights}}, {"step": 1})
        weights += 1
        writer.save("step", {"weights": {"w": weights}}, {"step": 1})  # returns, though nothing is written yet
        weights += 1
        threading.Timer(0.2, gate.open).start()
        writer.save("step", {"weights": {"w": weights}}, {"step": 2})
        assert (tmp_path / "step-00000001" / "checkpoint.json").exists()
    assert [last(tmp_path, kind).tensors("weights")["w"][0].item() for kind in ("best", "step")] == [0, 2]
    assert Checkpoint(tmp_path / "step-00000001", {}).tensors("weights")["w"].unique().tolist() == [1]


def test_buffers_are_reused_if_shapes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, **more: made.append(tuple(shape)) or empty(shape, **more))
    with CheckpointWriter(tmp_path, keep=9) as writer:
        for step, size in ((1, 4), (2, 4), (3, 6)):
            writer.save("step", {"weights": {"w": torch.full((size,), step), "b": torch.ones(2)}}, {"step": step})
    assert made == [(4,), (2,), (6,)]
    assert last(tmp_path).tensors("weights")["w"].tolist() == [3] * 6


class OnMps(torch.Tensor):
    """A tensor that reports Apple's GPU as its device."""

    device = torch.device("mps")


def test_tensors_of_a_device_without_cuda_are_saved(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save("step", {"weights": {"w": torch.arange(3.0).as_subclass(OnMps)}}, {"step": 1})
    assert torch.equal(last(tmp_path).tensors("weights")["w"], torch.arange(3.0))


def test_random_state_and_threads_do_not_change(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for step in (1, 2):
            writer.save("step", {"random": random_state()}, {"step": step})
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("how", ["poll", "wait", "save", "close", "context"])
def test_errors_in_the_thread_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def failing(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint_writer, "write_shards", failing)
    writer = CheckpointWriter(tmp_path, keep=2)
    with pytest.raises(StorageError, match=r"disk is full .* results are intact") as caught:
        match how:
            case "context":
                with writer:
                    writer.save("step", parts_of(2), {"step": 2})
            case "poll":
                writer.save("step", parts_of(2), {"step": 2})
                while True:
                    writer.poll()
                    time.sleep(0.001)
            case "save":
                writer.save("step", parts_of(2), {"step": 2})
                writer.save("step", parts_of(3), {"step": 3})
            case _:
                writer.save("step", parts_of(2), {"step": 2})
                getattr(writer, how)()
    assert "\n" not in str(caught.value)
    writer.poll()  # it is said once
    writer.close()
    assert names(tmp_path) == ["step-00000001"]


def test_an_exception_waits_for_the_write_and_is_not_masked(
    tmp_path: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError), CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save("step", parts_of(5), {"step": 5})
        threading.Timer(0.1, gate.open).start()
        1 / 0  # noqa: B018
    assert last(tmp_path).step == 5
    # A write that goes wrong at the same time is said, and does not take the place of what came first.
    with pytest.raises(ZeroDivisionError), CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save("step", {"a/b": {}}, {"step": 6})
        1 / 0  # noqa: B018
    assert "the checkpoint that was being written is lost: " in capsys.readouterr().err
    assert names(tmp_path) == ["step-00000005"]


def test_ctrl_c_while_waiting_loses_nothing(tmp_path: Path, gate: Gate, request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save("step", parts_of(5), {"step": 5})
    gate.reached.wait()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        writer.wait()
    gate.open()
    writer.close()
    assert last(tmp_path).tensors("weights")["block.w"][0] == 5


def test_ctrl_c_in_the_copy_leaves_the_previous_write_intact(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copies = torch.Tensor.copy_, 0

    def interrupted(self: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        nonlocal copies
        copies += 1
        if copies == 6:
            raise KeyboardInterrupt
        return copy(self, *arguments, **more)

    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save("step", parts_of(5), {"step": 5})
        threading.Timer(0.1, gate.open).start()
        writer.save("step", parts_of(6), {"step": 6})
    monkeypatch.undo()
    assert last(tmp_path).tensors("weights")["block.w"].unique().tolist() == [5]
    assert names(tmp_path) == ["step-00000005"]


# Disk errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB, where root may mount one."""
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root and a kernel that allows it")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_keeps_the_last_good_checkpoint(small_disk: Path, asynchronous: bool) -> None:
    writer = CheckpointWriter(small_disk, keep=2, asynchronous=asynchronous)

    def save_and_wait(step: int, parts: dict[str, dict[str, torch.Tensor]], **more: Any) -> None:
        writer.save("step", parts, {"step": step, **more})
        writer.wait()

    weights = {"weights": {"w": torch.zeros(30_000)}}
    save_and_wait(1, weights)
    save_and_wait(2, weights)
    with pytest.raises(StorageError, match=r"disk is full .* results are intact") as caught:
        save_and_wait(3, weights)
    assert "\n" not in str(caught.value)
    assert last(small_disk).step == 2
    assert names(small_disk) == ["step-00000001", "step-00000002"]
    with pytest.raises(StorageError, match="disk is full"):  # the record is what no longer fits
        save_and_wait(4, {}, note="x" * 200_000)
    discard_after(small_disk, "step", 1)
    save_and_wait(5, weights)  # there is room again
    assert last(small_disk).step == 5
    writer.close()


def test_a_directory_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_files_are_flushed_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    sync, rename = os.fsync, Path.rename

    def recording(descriptor: int) -> None:
        sync(descriptor)
        flushed.append(os.fstat(descriptor).st_ino)

    def checking(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            within = [path, *path.rglob("*")]
            assert {p.name for p in within} >= {"checkpoint.json", "weights", "optimiser", "shard-00001.safetensors"}
            assert {p.stat().st_ino for p in within} <= set(flushed)
            flushed.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "rename", checking)
    save(tmp_path, 1)
    assert flushed == [tmp_path.stat().st_ino]


KILLED = """
import os, random, sys, time
from pathlib import Path
import torch
from neolm.training.checkpoint import last_checkpoint
from neolm.training.checkpoint_writer import CheckpointWriter

root, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}

known = {"best": 0, "step": 0}

def save(writer, step):
    parts = {"weights": {"w": torch.full((5000,), float(step))}, "optimiser": {"m": torch.full((9,), float(step))}}
    for kind in ("best", "step"):
        writer.save(kind, parts, {"step": step, "best_step": step})

def child(action):
    if not (process := os.fork()):
        action()
        os._exit(0)
    return process

def check(most):
    for kind in ("best", "step"):
        found = last_checkpoint(root, kind)
        step = found.step if found else 0
        assert known[kind] <= step <= most, (kind, known, step, most)
        for part in ("weights", "optimiser") if found else ():
            assert all((tensor == step).all() for tensor in found.tensors(part).values()), (kind, step)
        known[kind] = step
        if kind == "step" and found:
            assert (root / f"best-{found.state['best_step']:08d}" / "checkpoint.json").is_file(), found
    for directory in root.glob("[bs]*"):  # half removed, it has its name no longer
        assert len([path for path in directory.rglob("*") if path.is_file()]) == 3, directory

def killed_at_event(number, step):
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event in EVENTS and str(root) in str(arguments):
            seen += 1
            if seen == number:
                os._exit(9)
    with CheckpointWriter(root, keep=1, keep_every=20) as writer:
        save(writer, step - 1)
        writer.wait()
        sys.addaudithook(watch)
        save(writer, step)

number = 0
while True:
    number += 1
    following = max(known.values()) + 2
    done = os.waitpid(child(lambda: killed_at_event(number, following)), 0)[1]
    check(following)
    if done == 0:
        break
print(number, "events")

def endlessly():
    with CheckpointWriter(root, keep=2, keep_every=7) as writer:
        for step in range(max(known.values()) + 1, 10**6):
            save(writer, step)

for _ in range(8):
    process = child(endlessly)
    time.sleep(0.01 + chance.random() * 0.1)
    os.kill(process, 9)
    os.waitpid(process, 0)
    check(10**6)
print(known["step"], "steps")
"""


def test_after_a_kill_at_any_moment_the_last_checkpoint_is_intact(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    command = [sys.executable, "-W", "error", "-c", KILLED, str(tmp_path / "checkpoints"), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert done.stderr == "", f"seed {seed}"  # nothing was ever damaged
    events, steps = (int(line.split()[0]) for line in done.stdout.splitlines())
    assert events > 40
    assert steps > 10
