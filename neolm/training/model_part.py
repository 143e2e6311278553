"""A part of a model: that of one stage of a pipeline. The modules and the names of the whole model stay.

Optimisers number their parameters, so the numbers too are those of the whole model: a checkpoint of several stages is
that of one process.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_WHOLE = "parameters_of_the_whole_model"


def keep_modules(model: nn.Module, kept: Iterable[nn.Module]) -> None:
    """Remove the parameters of `model`, in place, that none of the modules `kept` has."""
    ids = {id(parameter) for module in kept for parameter in module.parameters()}
    model.__dict__[_WHOLE] = {
        name: nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in ids:
                setattr(module, name, None)


def whole_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of the whole model, in its order; those that other processes have are on `meta`."""
    own = dict(model.named_parameters())
    return [(name, own.get(name, absent)) for name, absent in model.__dict__.get(_WHOLE, own).items()]
