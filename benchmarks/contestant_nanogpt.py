"""nanoGPT's own `train.py`, run as it stands from a checkout, in a directory that holds its data and nothing else.

Two things are arranged from outside: the seed, which `train.py` fixes, and autocast on a CPU, which `train.py` leaves
off there. Nothing of nanoGPT is copied: its files are linked.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import runpy
import sys
from pathlib import Path

import torch
from plain_loop import autocast
from protocol import Channel, Gate
from validation import validation_loss

DATASET = "benchmark"


def main() -> None:
    channel = Channel()
    job = channel.job
    checkout, place, data = Path(job["checkout"]), Path(job["directory"]), Path(job["data"])
    for name in ("train.py", "model.py", "configurator.py", "config"):
        (place / name).symlink_to(checkout / name)
    folder = place / "data" / DATASET
    folder.mkdir(parents=True)
    (folder / "train.bin").symlink_to(data / "train-00000.bin")
    (folder / "val.bin").symlink_to(data / "validation-00000.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": job["shape"]["vocab_size"]}))
    os.chdir(place)
    sys.path.insert(0, str(place))
    sys.argv = ["train.py", *job["arguments"], f"--dataset={DATASET}", f"--device={job['device']}"]
    sys.argv += [f"--dtype={job['precision']}", "--out_dir=out"]
    made = models_made()

    def evaluate() -> float:
        (model,) = made
        model.eval()
        tokens = data / "validation-00000.bin"
        loss = validation_loss(lambda ids: model(ids, ids)[0], tokens, job["shape"]["sequence_length"])
        model.train()
        return loss

    Gate(channel, evaluate)
    shift_seeds(job["seed"])
    on_cpu = autocast(job) if job["device"] == "cpu" else contextlib.nullcontext()
    with on_cpu:
        runpy.run_path("train.py", run_name="__main__")


def models_made() -> list[torch.nn.Module]:
    """The list that every GPT which `train.py` makes will be in."""
    import model  # nanoGPT's

    made: list[torch.nn.Module] = []
    initialise = model.GPT.__init__

    def remember(self: torch.nn.Module, config: object) -> None:
        initialise(self, config)
        made.append(self)

    model.GPT.__init__ = remember
    return made


def shift_seeds(shift: int) -> None:
    """Add `shift` to the seed that `train.py` sets."""
    original = torch.manual_seed
    torch.manual_seed = lambda seed: original(seed + shift)


if __name__ == "__main__":
    main()
