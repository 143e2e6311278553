"""The seams of the loop: several processes that average their gradients train as one process does."""

from pathlib import Path

import forked_command
import pytest
from small_encoder import write_corpus
from small_training import losses, numbers

RANK = """
import os, sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from small_encoder import encoder_training
from small_training import training

from neolm.training.loop import train
from neolm.training.precision import MixedPrecision
from neolm.training.run import Parallelism
from neolm.training.world import World

rank, size, place, kind = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
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
settings = {"micro_batch_size": 3, "batch_size": 7}
if kind == "decoder":
    run = training(directory, dropout=0.0, **settings)
else:  # ragged rows, of which some have no pair; the ranks' counts of both terms differ
    settings |= {"segments": {"task": "sop", "one_sentence": "single"}, "optimiser": "lamb", "validate_every": 4}
    settings |= {"short_length": 16, "short_steps": 6, "checkpoint_every": 4}
    run = encoder_training(kind, place.parent / "shards", directory, **settings)

class Recorded:
    # the data, whose examples are written to a file

    def __init__(self, data):
        self.data, self.documents = data, data.documents

    def batch(self, step, rows):
        batch = self.data.batch(step, rows)
        with (directory / "examples.txt").open("a") as file:
            print(step, *batch.examples, file=file)
        return batch

run = replace(run, data=Recorded(run.data))
train(replace(run, parallelism=Parallelism(world, precision=Replicated)))
if size > 1:
    dist.destroy_process_group()
"""


def run(place: Path, size: int, kind: str) -> Path:
    place.mkdir()
    said = [place / f"said by {rank}.txt" for rank in range(size)]
    ranks = [forked_command.start([rank, size, place, kind], said[rank], RANK) for rank in range(size)]
    for rank in ranks:
        rank.join()
    assert not any(rank.exitcode for rank in ranks), "\n".join(path.read_text() for path in said)
    return place


def examples(directory: Path) -> list[list[str]]:
    """Step and examples of each batch that was read."""
    lines = (directory / "examples.txt").read_text().splitlines()
    return sorted((line.split() for line in lines), key=lambda row: int(row[0]))


@pytest.mark.parametrize(("kind", "sizes"), [("decoder", (2,)), ("bert", (2,)), ("albert", (4,))])
def test_ranks_train_as_one_process(tmp_path: Path, kind: str, sizes: tuple[int, ...]) -> None:
    if kind != "decoder":
        write_corpus(tmp_path / "shards")
    one = run(tmp_path / "one", 1, kind) / "0"
    for size in sizes:
        many = run(tmp_path / str(size), size, kind)
        for rank in range(size):
            place = many / str(rank)
            assert losses(place) == pytest.approx(losses(one), abs=1e-5)
            for first, second in zip(numbers(one), numbers(place), strict=True):
                assert first == pytest.approx(second, abs=1e-4)
            assert numbers(place) == numbers(many / "0")
        parts = zip(*(examples(many / str(rank)) for rank in range(size)), strict=True)
        together = [[rows[0][0], *(example for row in rows for example in row[1:])] for rows in parts]
        assert together == examples(one)
        assert len(list((many / "checkpoints").glob("step-*"))) == 2
