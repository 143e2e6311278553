"""Where a loss or a gradient stopped being finite: the documents, and the first layer that produced it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neolm.core.errors import NonFiniteError
from neolm.data.batches import Batch
from neolm.training.losses import Objective


def explain_non_finite(
    step: int,
    model: nn.Module,
    objective: Objective,
    parts: Sequence[Batch],
    documents: Callable[[slice], list[str]],
) -> NonFiniteError:
    """Run the batch of `step` again, part by part, and say in one line what went wrong and where.

    Args:
        step: The step that failed.
        model: The module that the passes run in, its weights as they were at that step.
        objective: The objective of the run.
        parts: The step's batch in micro-batches, on the device.
        documents: The ids of the documents behind the given rows of the batch.
    """
    start = 0
    for part in parts:
        rows = slice(start, start + len(part.inputs))
        found = _first_non_finite(model, objective, part)
        if found:
            return NonFiniteError(_sentence(step, found, documents(rows)))
        start = rows.stop
    return NonFiniteError(
        _sentence(step, "the gradients of the parts are finite, but not their sum", documents(slice(0, start)))
    )


def _sentence(step: int, found: str, ids: list[str]) -> str:
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return (
        f"step {step}: the loss or its gradient is no longer finite: {found}. The batch came from {shown}. "
        "The last checkpoint is intact; a lower pretrain.learning_rate or pretrain.precision=float32 may help"
    )


def _first_non_finite(model: nn.Module, objective: Objective, batch: Batch) -> str | None:
    """What is first not finite on the way forward, or else on the way back; None if nothing is."""
    produced: list[str] = []
    hooks = [module.register_forward_hook(partial(_note, produced, name)) for name, module in model.named_modules()]
    try:
        model.zero_grad(set_to_none=True)
        loss = objective(model, batch)
        if produced:
            return f"first in the output of layer {produced[0] or 'model'}"
        if not torch.isfinite(loss.total):
            return "first in the loss itself, from finite hidden states"
        loss.total.backward()  # type: ignore[no-untyped-call]
        bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        # The backward pass runs from the last layer to the first, so the last of the bad ones came first.
        return f"first in the gradient of {bad[-1]}" if bad else None
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)


def _note(produced: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and not torch.isfinite(output).all():
        produced.append(name)
