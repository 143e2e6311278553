"""Training with nanoGPT's unmodified `train.py` from a checkout, in a directory with only its data.

Two things are changed from outside: the seed, which is fixed in `train.py`, and autocast on a CPU, which `train.py`
does not use. Nothing of nanoGPT is copied: its files are linked.
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
    checkout, directory, data = Path(job["checkout"]), Path(job["directory"]), Path(job["data"])
    for name in ("train.py", "model.py", "configurator.py", "config"):
        (directory / name).symlink_to(checkout / name)
    folder = directory / "data" / DATASET
    folder.mkdir(parents=True)
    (folder / "train.bin").symlink_to(data / "train-00000.bin")
    (folder / "val.bin").symlink_to(data / "validation-00000.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": job["shape"]["vocab_size"]}))
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    sys.argv = ["train.py", *job["arguments"], f"--dataset={DATASET}", f"--device={job['device']}"]
    sys.argv += [f"--dtype={job['precision']}", "--out_dir=out"]
    models = collect_models()

    def evaluate() -> float:
        (model,) = models
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


def collect_models() -> list[torch.nn.Module]:
    """Return a list to which every GPT that `train.py` makes will be appended."""
    import model  # nanoGPT's

    models: list[torch.nn.Module] = []
    initialise = model.GPT.__init__

    def initialise_and_append(self: torch.nn.Module, config: object) -> None:
        initialise(self, config)
        models.append(self)

    model.GPT.__init__ = initialise_and_append
    return models


def shift_seeds(shift: int) -> None:
    """Add `shift` to the seed that `train.py` sets."""
    original = torch.manual_seed
    torch.manual_seed = lambda seed: original(seed + shift)


if __name__ == "__main__":
    main()
