"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019) on the parameters that should decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neolm.training.config import PretrainConfig


def adamw(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """The optimiser of `model`'s parameters, in two groups: with weight decay and without."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[kind_of_parameter(name, parameter) not in config.no_decay].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0}
            for decays, parameters in groups.items()
            if parameters
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def kind_of_parameter(name: str, parameter: nn.Parameter) -> str:
    """`bias`, `norm`, `embedding` or `matrix`, by which a recipe says what decays."""
    if name.endswith("bias"):
        return "bias"
    if parameter.dim() == 1:
        return "norm"
    return "embedding" if name.startswith(("embedding.", "positions.")) else "matrix"


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors: `<position>.<key>`."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimiser_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
