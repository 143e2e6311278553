"""Trainings of small models by plans, for `test_plans.py`; run as a script, it is one rank of several."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch.distributed as dist
from small_encoder import encoder_training
from small_training import training
from torch import nn

from neolm.core.device import Choice
from neolm.core.errors import InterruptedRun, NonFiniteError
from neolm.data.batch import Batch
from neolm.distributed.plan import parallelism
from neolm.training import muon
from neolm.training.loop import train
from neolm.training.objective import Objective, Term
from neolm.training.parallel_config import ParallelConfig
from neolm.training.rank_grid import DATA, RankGrid
from neolm.training.run import IndexedData, Training
from neolm.training.world import World

ENCODER = {"segments": {"task": "sop", "one_sentence": "single"}, "short_length": 16, "short_steps": 6}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "micro_batch_size": 2, "z_loss": 1e-3},
    "gpt-neo": {"family": "gpt-neo", "optimiser": "muon", "ema_decay": 0.9, "gradient_clip": 0.5},
    "gpt2-deep": {"family": "gpt2", "layers": 5, "micro_batch_size": 1, "learning_rate": 2e-3},
    "gpt-neox": {"family": "gpt-neox", "activation_checkpointing": True, "bias_correction": False},
    "bert": {"family": "bert", "micro_batch_size": 2, **ENCODER, "optimiser": "lamb"},
    "albert": {"family": "albert", **ENCODER, "optimiser": "muon"},
    "albert-groups": {"family": "albert", "model": {"num_layers": 4, "groups": 2}, **ENCODER, "optimiser": "lamb"},
    "albert-attention": {"family": "albert", "model": {"sharing": "attention"}, **ENCODER},
}

INEXACT = {
    "dropout": {"family": "gpt2", "dropout": 0.2, "micro_batch_size": 1},
    "one-validation": {"family": "gpt2", "validations": 1},
    "float16": {"family": "gpt2", "precision": "float16", "loss_scale": 2.0**12},
}
"""Cases whose random numbers, rounding or validation are not those of every plan."""


def orthogonalise_exactly() -> None:
    """Make Muon compute in float32; in bfloat16 it makes differences of rounding larger than the tolerance."""
    muon.choose_precision = lambda *request: Choice("float32", "test")


def small(case: str, place: Path, shards: Path, **settings: Any) -> Training:
    """The training of `case`, in a directory of its own below `place`."""
    directory = place / case
    directory.mkdir(parents=True, exist_ok=True)
    chosen = (
        {"steps": 20, "batch_size": 7, "validate_every": 5, "checkpoint_every": 5}
        | {**CASES, **INEXACT}[case]
        | settings
    )
    family, validations = chosen.pop("family"), chosen.pop("validations", None)
    if family in ("bert", "albert"):
        return encoder_training(family, shards, directory, **chosen)
    found = training(directory, family=family, **{"dropout": 0.0, **chosen})
    return replace(found, validation=found.validation[:validations])


class Recorded:
    """The data of a training, whose examples are written to `path`; it is interrupted when step `stop` is read."""

    def __init__(self, data: IndexedData, path: Path, stop: int = 0) -> None:
        self._data, self._path, self._stop, self.documents = data, path, stop, data.documents

    def batch(self, step: int, rows: slice) -> Batch:
        if step == self._stop:
            os.kill(os.getpid(), signal.SIGTERM)
        batch = self._data.batch(step, rows)
        with self._path.open("a") as file:
            print(step, *batch.examples, file=file)
        return batch


class Slow:
    """An objective that takes 0.1 seconds longer."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.weights, self.targets = objective.weights, objective.targets

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Term]:
        time.sleep(0.1)
        return {**self._objective(model, batch)}


class Failing:
    """An objective whose loss is not finite from the third pass on."""

    def __init__(self, objective: Objective) -> None:
        self._objective, self._passes = objective, count(1)
        self.weights, self.targets = objective.weights, objective.targets

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Term]:
        factor = float("nan") if model.training and next(self._passes) >= 3 else 1.0
        terms = self._objective(model, batch)
        return {name: Term(term.total * factor, term.metrics) for name, term in terms.items()}


def check_world(world: World, grid: RankGrid, rank: int) -> None:
    ranks, data, number = grid.count, grid.size(DATA), grid.number(rank, DATA)
    rows = world.combine(lambda: list(range(7))[world.rows(7)], lambda parts: [[*chain(*parts)]] * ranks)
    assert sorted(rows) == sorted([0, 1, 2, 3, 4, 5, 6] * (ranks // data))
    assert world.sum([number, 1]) == [sum(range(data)), data]
    assert world.most(10 - rank) == 10
    assert world.agree(rank == ranks - 1)
    assert not world.agree(False)
    assert (world.data_number, world.data_count) == (number, data)
    assert world.stream == rank // grid.sizes["tensor"]
    assert world.on_first(lambda: f"of {rank}") == "of 0"


def main() -> None:
    """Arguments: rank, ranks, a directory for all, the token shards, a plan, the step at which to stop, the cases.

    A plan is text such as "shard=2,tensor=2".
    """
    rank, ranks, place, shards, text, stop, *cases = sys.argv[1:]
    config = ParallelConfig(**{name: int(size) for name, size in (part.split("=") for part in text.split(",") if part)})
    orthogonalise_exactly()
    store = f"file://{place}/store-{ranks}-{text}-{stop}"
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(ranks))
    for case in cases:
        plan = parallelism(config, "cpu")
        if config.context == 1:
            check_world(plan.world, config.grid(int(ranks)), int(rank))
        run = replace(small(case, Path(place), Path(shards)), parallelism=plan)
        at = config.grid(int(ranks)).place(int(rank))
        first = at["tensor"] == at["pipeline"] == 0  # the other ranks of its group have the same examples
        record = run.directory / f"examples-{ranks}-{rank}.txt" if first else Path(os.devnull)
        run = replace(run, data=Recorded(run.data, record, int(stop) if rank == "0" else 0))
        if stop == "-1" and int(rank) == int(ranks) - 1:  # the last rank's third pass fails
            run = replace(run, objective=Failing(run.objective))
        if stop == "-2" and int(rank) == int(ranks) - 1:
            run = replace(run, objective=Slow(run.objective))
        try:
            with suppress(InterruptedRun):
                train(run)
        except NonFiniteError as error:
            (run.directory / f"error-{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
