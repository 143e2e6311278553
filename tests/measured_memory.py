"""Measured peak memory of a small training: of its tensors, or of its process.

`python measured_memory.py SPECIFICATION` prints the peak resident memory of its process, minus the resident memory
before the model is created. A smaller training runs first, so that memory that is allocated once is not counted.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from neolm.core.device import Choice
from neolm.data.batch import IGNORED, Batch
from neolm.models.config import DecoderConfig, decoder_config
from neolm.models.encoder_config import EncoderConfig, encoder_config
from neolm.models.families import ENCODERS
from neolm.models.stored_model import build
from neolm.training.loop import train
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import objective
from neolm.training.run import Parallelism, Training


@dataclass(frozen=True)
class Case:
    """A training to measure."""

    family: str
    precision: str
    model: dict[str, Any]
    pretrain: dict[str, Any]

    @property
    def architecture(self) -> DecoderConfig | EncoderConfig:
        return (encoder_config if self.family in ENCODERS else decoder_config)(self.family, **self.model)

    @property
    def config(self) -> PretrainConfig:
        return PretrainConfig(**{"steps": 2, "validation_sequences": 2, **self.pretrain})


def case(family: str, precision: str = "float32", model: dict[str, Any] | None = None, **pretrain: Any) -> Case:
    """A small training, since a CPU without bfloat16 units multiplies slowly."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_heads": 2, "vocab_size": 128, "max_position_embeddings": 96}
    if family == "albert":
        sizes["embedding_size"] = 32
    settings = {"sequence_length": 96, "batch_size": 4, "asynchronous_checkpoints": False}
    return Case(family, precision, {**sizes, **(model or {})}, {**settings, **pretrain})


class RandomTokens:
    """Batches of random tokens of the configured size."""

    def __init__(self, case: Case, shorter: int = 0) -> None:
        self.shorter = shorter
        self.vocabulary, self.config = case.architecture.vocab_size, case.config
        self.masked = isinstance(case.architecture, EncoderConfig)

    def tokens(self, sequences: int) -> Batch:
        if self.masked:
            return self.masked_tokens(sequences)
        both = torch.randint(0, self.vocabulary, (sequences, self.config.sequence_length + 1))
        return Batch({"input_ids": both[:, :-1], "labels": both[:, 1:]})

    def masked_tokens(self, sequences: int) -> Batch:
        length, masking = self.config.sequence_length, self.config.masking
        ids = torch.randint(0, self.vocabulary, (sequences, length))
        predicted = torch.rand(sequences, length).argsort(1) < masking.predictions(length)
        tensors = {
            "input_ids": ids,
            "token_type_ids": torch.randint(0, 2, (sequences, length)),
            "attention_mask": torch.ones_like(ids),
            "labels": ids.masked_fill(~predicted, IGNORED),
            "sentence_labels": torch.randint(0, 2, (sequences,)),
        }
        if self.shorter:
            tensors["attention_mask"][1:, -self.shorter :] = 0
            tensors["labels"][1:, -self.shorter :] = IGNORED
        return Batch(tensors)

    def batch(self, step: int, rows: slice) -> Batch:
        return self.tokens(len(range(*rows.indices(len(self.config.batch_sizes.examples(step))))))

    def documents(self, examples: Sequence[int]) -> list[str]:
        return []


def run(case: Case, shorter: int = 0, parallelism: Parallelism | None = None, place: Path | None = None) -> None:
    """Run the whole training with the real loop, in a directory in `place`; `shorter` is as in `tensor_peak`."""
    config, data = case.config, RandomTokens(case, shorter)
    with nullcontext(place) if place else tempfile.TemporaryDirectory() as directory:
        train(
            Training(
                model=build(case.architecture).initialise(0),
                objective=objective(case.architecture, config),
                data=data,
                validation=[data.tokens(config.validation_sequences)],
                config=config,
                directory=Path(directory),
                device=Choice("cpu", "test"),
                precision=Choice(case.precision, "test"),
                parallelism=parallelism or Parallelism(),
            )
        )


def tensor_peak(case: Case, shorter: int = 0, parallelism: Parallelism | None = None, place: Path | None = None) -> int:
    """Peak of the bytes allocated by torch; all sequences of an encoder but the first are `shorter` by some tokens.

    Several processes measure in a directory `place` that they share.
    """
    run(smaller(case), 0, parallelism, place and place / "smaller")  # allocates the tables of activations, which stay
    gc.collect()  # frees the tensors of earlier trainings before the measurement
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run(case, shorter, parallelism, place and place / "measured")
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def smaller(case: Case) -> Case:
    """A training like `case` of a smaller model."""
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    return Case(case.family, case.precision, {**case.model, **small}, {**case.pretrain, "batch_size": 4})


def resident_peak(case: Case) -> int:
    """Increase of the resident memory by the training, in bytes, at the peak of a new process."""
    specification = json.dumps(vars(case))
    done = subprocess.run([sys.executable, __file__, specification], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["bytes"])


def _status(key: str) -> int:
    """Return a size in bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _main(case: Case) -> None:
    run(smaller(case))
    gc.collect()
    before = _status("VmRSS")
    run(case)
    print(json.dumps({"bytes": _status("VmHWM") - before}))


if __name__ == "__main__":
    _main(Case(**json.loads(sys.argv[1])))
