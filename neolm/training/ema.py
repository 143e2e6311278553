"""Exponential moving average (EMA) of the weights over the steps (Polyak & Juditsky 1992), in float32.

average += (1 - d) (weights - average), with d = min(decay, (1 + step) / (10 + step)), so that the weights of the first
steps lose their influence soon (the rule of TensorFlow's ExponentialMovingAverage).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neolm.training.division import divided_as
from neolm.training.sharded_tensor import is_sharded, local_tensor


class ExponentialMovingAverage:
    """EMA of the parameters of `model`."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self.tensors: dict[str, Tensor] = {
            name: divided_as(p.detach().clone() if p.requires_grad else p.detach(), p)
            for name, p in model.named_parameters()
        }
        """The averaged weights by parameter name; a frozen one is its own average."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = [name for name, parameter in self._parameters.items() if parameter.requires_grad]
        found = (self.tensors, self._parameters)
        averages, weights = ([local_tensor(tensors[name]) for name in trained] for tensors in found)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averaged weights into the model inside the `with` block; no tensor is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            if is_sharded(parameter):  # FSDP keeps views of the data
                average, weights = local_tensor(self.tensors[name]), local_tensor(parameter)
                copy = weights.clone()
                weights.copy_(average)
                average.copy_(copy)
            else:
                parameter.data, self.tensors[name] = self.tensors[name], parameter.data
