"""The seams of the loop: two processes that average their gradients train as one process does."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_training import losses, numbers

RANK = """
import os, sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from small_training import training

from neolm.training.loop import train
from neolm.training.precision import MixedPrecision
from neolm.training.run import Parallelism
from neolm.training.world import World

rank, size, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{place / 'store'}", rank=rank, world_size=size)

class Replicated(MixedPrecision):
    def finish(self, divisor, clip):
        for parameter in self.model.parameters():
            if size > 1:
                dist.all_reduce(parameter.grad)
        return super().finish(divisor, clip)

world = World()
rows = world.combine(lambda: list(range(7))[world.rows(7)], lambda parts: [sum(parts, [])] * size)
assert rows == [0, 1, 2, 3, 4, 5, 6]
assert world.sum([rank, 1]) == [size * (size - 1) / 2, size]
assert world.agree(rank == size - 1)
assert not world.agree(False)
directory = place / str(rank)
directory.mkdir()
(place / "checkpoints").mkdir(exist_ok=True)
(directory / "checkpoints").symlink_to(place / "checkpoints")  # which all ranks share
run = training(directory, dropout=0.0, micro_batch_size=3, batch_size=7)
train(replace(run, parallelism=Parallelism(world, precision=Replicated)))
if size > 1:
    dist.destroy_process_group()
"""


def run(place: Path, size: int) -> Path:
    place.mkdir()
    command = [sys.executable, "-W", "error", "-c", RANK]
    processes = [
        subprocess.Popen([*command, str(rank), str(size), str(place)], stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    said = [process.communicate()[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    return place


def test_two_ranks_train_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    one, two = run(tmp_path / "one", 1) / "0", run(tmp_path / "two", 2)
    for rank in ("0", "1"):
        assert losses(two / rank) == pytest.approx(losses(one), abs=1e-5)
        for first, second in zip(numbers(one), numbers(two / rank), strict=True):
            assert first == pytest.approx(second, abs=1e-4)
    assert numbers(two / "0") == numbers(two / "1")
    assert len(list((two / "checkpoints").glob("step-*"))) == 2
