"""Forward and backward passes of one optimiser step, and the sums that they measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from neolm.data.batch import Batch
from neolm.training.numerics import sum_dtype
from neolm.training.objective import Objective, Term
from neolm.training.precision import Precision
from neolm.training.world import World


class Sums:
    """Loss and metrics of each term, summed over micro-batches on the device."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, str], Tensor] = {}
        """Sums by term and metric; a term's loss is its metric `loss`."""

    def add(self, terms: Mapping[str, Term], weight: float = 1.0) -> None:
        """Add `weight` times the terms of a micro-batch."""
        for term, (total, metrics) in terms.items():
            for name, value in {"loss": total, **metrics}.items():
                wide = value.detach().to(sum_dtype(value.device)) * weight
                self.tensors[term, name] = self.tensors[term, name] + wide if (term, name) in self.tensors else wide

    def finite(self) -> Tensor:
        """Whether the loss of every term is finite, on the device."""
        return torch.stack([total for (_, name), total in self.tensors.items() if name == "loss"]).isfinite().all()

    def means(
        self, values: Sequence[float], counts: Mapping[str, float], weights: Mapping[str, float]
    ) -> dict[str, float]:
        """Means over the targets of `values`, the sums as read from the device.

        `loss` is the weighted sum of the terms' losses. With several terms, the name of a metric starts with its term.
        """
        means = {key: value / (counts[key[0]] or 1) for key, value in zip(self.tensors, values, strict=True)}
        loss = sum(weights[term] * value for (term, name), value in means.items() if name == "loss")
        if len(counts) > 1:
            return {"loss": loss, **{f"{term}_{name}": value for (term, name), value in means.items()}}
        return {**{name: value for (_, name), value in means.items()}, "loss": loss}


def read_sums(sums: Sums, world: World, extra: Sequence[Tensor] = ()) -> tuple[list[float], list[float]]:
    """Read the sums, over all ranks, and `extra` scalars from the device in one transfer."""
    tensors = [*sums.tensors.values(), *extra]
    values: list[float] = torch.stack([t.to(sum_dtype(t.device)) for t in tensors]).tolist()
    return world.sum(values[: len(sums.tensors)]), values[len(sums.tensors) :]


class Passes(Protocol):
    """How the passes of a step are run; a parallel plan may replace it, as a pipeline does."""

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """Accumulate the gradient of the sum over terms of factor * total, over micro-batches on the device."""

    def measure(self, batches: Sequence[Batch], weights: Sequence[float]) -> Sums:
        """The sums over `batches` on the device, each times its weight, without gradients."""


class GradientAccumulation:
    """Runs one micro-batch after the other, forward and backward."""

    def __init__(self, module: nn.Module, objective: Objective, precision: Precision) -> None:
        self._module, self._objective, self._precision = module, objective, precision

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """See `Passes`."""
        sums = Sums()
        for part in parts:
            terms = self._objective(self._module, part)
            weighted_loss(terms, factors).backward()  # type: ignore[no-untyped-call]
            self._precision.gather()
            sums.add(terms)
        return sums

    @torch.no_grad()
    def measure(self, batches: Sequence[Batch], weights: Sequence[float]) -> Sums:
        """See `Passes`."""
        sums = Sums()
        for batch, weight in zip(batches, weights, strict=True):
            sums.add(self._objective(self._module, batch), weight)
        return sums


def weighted_loss(terms: Mapping[str, Term], factors: Mapping[str, float]) -> Tensor:
    """Sum over terms of factor * total."""
    first, *others = [term.total * factors[name] for name, term in terms.items()]
    return sum(others, start=first)
