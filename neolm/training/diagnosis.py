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
from neolm.training.world import World


def explain_non_finite(
    step: int,
    model: nn.Module,
    objective: Objective,
    parts: Sequence[Batch],
    documents: Callable[[Sequence[Any]], list[str]],
    advice: str,
    world: World,
    together: bool,
) -> NonFiniteError:
    """Run the batch of `step` again, one micro-batch after the other, and describe the first failure in one line.

    Every rank runs its own micro-batches, and all describe the failure of the first rank that has one. A model that is
    divided over processes, `together`, is not run again: a rank that stops early would keep the others waiting.
    `model` has the weights of that step, and the micro-batches `parts` are on its device. `documents` returns the names
    of the documents behind the examples with the given ids. `advice` ends the message.
    """
    if together:
        unknown = "in which layer is not known, because the model is divided over processes"
        return NonFiniteError(f"step {step}: the loss or its gradient is not finite; {unknown}. {advice}")
    failures = ((_first_non_finite(model, objective, part), part.examples) for part in parts)
    otherwise = "the gradients of the micro-batches are finite, but not their sum"
    everything = [example for part in parts for example in part.examples]
    located, examples = next((failure for failure in failures if failure[0]), (None, everything))
    ids = documents(examples)
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    where = f" on rank {world.number}" if world.count > 1 else ""
    text = f"the loss or its gradient is not finite{where}: {located or otherwise}. The batch came from {shown}"

    def first(found: list[tuple[bool, str]]) -> list[str]:
        return [next((text for known, text in found if known), found[0][1])] * len(found)

    return NonFiniteError(f"step {step}: {world.combine(lambda: (located is not None, text), first)}. {advice}")


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
