"""A training of a small model on sequences that count up, for tests of THE loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from neolm.core.device import Choice
from neolm.core.metrics import read_metrics
from neolm.data.batch import IGNORED, Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training.objective import CausalLanguageModelling, Term
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.run import Training

T, V = 16, 61


class Counting:
    """Batches of sequences that count up from a random start: learnable, and a function of the step."""

    def __init__(self, sizes: BatchSizes | None = None) -> None:
        self.sizes = sizes or BatchSizes(8)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        generator = torch.Generator().manual_seed(step)
        start = torch.randint(0, V, (len(self.sizes.examples(step)), 1), generator=generator)
        tokens = (start + torch.arange(T + 1)) % V
        labels = tokens[:, 1:].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORED  # uneven counts across micro-batches
        tensors = {"input_ids": tokens[rows, :-1], "labels": labels[rows]}
        return Batch(tensors, [f"{step}.{row}" for row in range(len(tokens))[rows]])

    def documents(self, examples: Sequence[str]) -> list[str]:
        return [f"document {example}" for example in examples]


def training(
    directory: Path,
    precision: str = "float32",
    dropout: float = 0.1,
    family: str = "gpt-neo",
    layers: int = 2,
    **settings: Any,
) -> Training:
    config = decoder_config(
        family,
        vocab_size=V,
        hidden_size=16,
        num_layers=layers,
        num_heads=2,
        max_position_embeddings=T,
        residual_dropout=dropout,
        **({"window_size": 4} if family == "gpt-neo" else {}),
    )
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "steps": 12,
        "sequence_length": T,
        "batch_size": 8,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "checkpoint_every": 4,
        "validate_every": 4,
        "log_every": 1,
    }
    chosen = PretrainConfig(**(defaults | settings))
    return Training(
        model=Decoder(config).initialise(0),
        objective=CausalLanguageModelling(chosen.z_loss),
        data=Counting(chosen.batch_sizes),
        validation=[Counting().batch(10_001), Counting().batch(10_002)],
        config=chosen,
        directory=directory,
        device=Choice("cpu", "test"),
        precision=Choice(precision, "test"),
        flops_per_token=config.flops_per_token(T),
        ceiling=1e11,
    )


def losses(directory: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(directory / "metrics.jsonl") if "loss" in row]


def numbers(directory: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock said."""
    timed = {"tokens_per_second", "mfu", "memory_bytes"}
    return [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(directory / "metrics.jsonl")]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


Terms = dict[str, Term]
plain = CausalLanguageModelling()


class Calling:
    """Language modelling whose terms `call` computes."""

    weights, targets = plain.weights, plain.targets

    def __init__(self, call: Callable[[Decoder, Batch], Terms]) -> None:
        self._call = call

    def __call__(self, model: Decoder, batch: Batch) -> Terms:
        return self._call(model, batch)


def scaled(terms: Terms, factor: float, **metrics: torch.Tensor) -> Terms:
    return {name: Term(term.total * factor, metrics) for name, term in terms.items()}


def at_step(step: int, act: Callable[[], object]) -> Calling:
    """The objective, which calls `act` before the first pass of `step` (it counts the passes of training)."""
    passes = iter(range(1, 10**6))

    def objective(model: Decoder, batch: Batch) -> Terms:
        if model.training and next(passes) == step:
            act()
        return plain(model, batch)

    return Calling(objective)
