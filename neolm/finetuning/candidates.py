"""The candidates of a fine-tuning, each trained once: what it gives for the validation examples is kept in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from neolm.core.files import storage_errors, write_tensors


@dataclass(frozen=True)
class Trained:
    """The tensors of a candidate: `logits` (N, K) of the validation examples, and its weights if they are few."""

    name: str
    tensors: Mapping[str, Tensor]
    seconds: float

    @property
    def logits(self) -> Tensor:
        """(N, K) of the validation examples."""
        return self.tensors["logits"]


def trained(directory: Path, name: str, make: Callable[[], Mapping[str, Tensor]], seconds: float = 0.0) -> Trained:
    """The candidate `name` as an earlier session of the run kept it in `directory`, or a new one by `make`.

    Its time is that of `make` and the `seconds` before it.
    """
    path = directory / f"{name}.safetensors"
    if path.is_file():
        return kept(directory, name)
    began = time.monotonic()
    tensors = {key: tensor.contiguous() for key, tensor in make().items()}
    seconds += time.monotonic() - began
    temporary = path.with_name(f".{path.name}.tmp")  # a run that is killed leaves no half of a file
    with storage_errors(path):
        write_tensors(temporary, tensors | {"seconds": torch.tensor(seconds)})
        temporary.replace(path)
    return Trained(name, tensors, seconds)


def kept(directory: Path, name: str) -> Trained:
    """The candidate `name` as an earlier session of the run kept it in `directory`."""
    tensors = load_file(directory / f"{name}.safetensors")
    return Trained(name, tensors, float(tensors["seconds"]))
