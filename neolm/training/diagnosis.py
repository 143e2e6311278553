"""Explain a non-finite loss or gradient: the documents of the batch, and the first layer that produced it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neolm.core.errors import NonFiniteError
from neolm.data.batch import Batch
from neolm.training.objective import Objective
from neolm.training.passes import weighted_loss


def explain_non_finite(
    step: int,
    model: nn.Module,
    objective: Objective,
    parts: Sequence[Batch],
    documents: Callable[[Sequence[Any]], list[str]],
) -> NonFiniteError:
    """Run the batch of `step` again, one micro-batch after the other, and describe the first failure in one line.

    Args:
        step: The step that failed.
        model: The module that the passes run in, with the weights of that step.
        objective: The objective of the training.
        parts: The batch of the step in micro-batches, on the device.
        documents: Names of the documents behind the examples with the given ids.
    """
    for part in parts:
        found = _first_non_finite(model, objective, part)
        if found:
            return NonFiniteError(_sentence(step, found, documents(part.examples)))
    examples = [example for part in parts for example in part.examples]
    found = "the gradients of the micro-batches are finite, but not their sum"
    return NonFiniteError(_sentence(step, found, documents(examples)))


def _sentence(step: int, found: str, ids: list[str]) -> str:
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return (
        f"step {step}: the loss or its gradient is not finite: {found}. The batch came from {shown}. "
        "The last checkpoint is intact; a lower learning_rate or precision=float32 may help"
    )


def _first_non_finite(model: nn.Module, objective: Objective, batch: Batch) -> str | None:
    """Name what is non-finite first, in the forward pass or else in the backward pass; None if nothing is."""
    produced: list[str] = []
    hooks = [module.register_forward_hook(partial(_note, produced, name)) for name, module in model.named_modules()]
    try:
        model.zero_grad(set_to_none=True)
        terms = objective(model, batch)
        loss = weighted_loss(terms, objective.weights)
        if produced:
            return f"first in the output of layer {produced[0] or 'model'}"
        if not torch.isfinite(loss):
            return "first in the loss itself, from finite hidden states"
        loss.backward()  # type: ignore[no-untyped-call]
        bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        # The backward pass runs from the last layer to the first, so the last of these was the first to fail.
        return f"first in the gradient of {bad[-1]}" if bad else None
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)


def _note(produced: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and not torch.isfinite(output).all():
        produced.append(name)
