"""The optimisers of a training: AdamW with decoupled weight decay (Loshchilov & Hutter 2019), LAMB, or Muon.

Muon updates the matrices of the blocks; AdamW then updates embeddings, heads, norms and biases.

The original GPT-Neo and BERT used Adam, and ALBERT used LAMB, without bias correction, which torch's kernels do not
offer. It is the same update with a step counter so large that both corrections, 1 - beta^step, are 1 in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from neolm.core.errors import InputError
from neolm.training.config import TrainConfig
from neolm.training.lamb import Lamb
from neolm.training.muon import Muon

LARGE_STEP = 2**24  # the largest exact float32 counter, where it stays; 0.999999^LARGE_STEP is below 1e-7


def build_optimisers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Create the optimisers of the parameters of `model`, each in a group with or without weight decay.

    LAMB scales the steps of the parameters that decay, as ALBERT's code does.

    Raises:
        InputError: the model is quantised.
    """
    if getattr(model, "quantized", None):
        raise InputError("a quantised model cannot be trained. Train the original model, then quantise it")
    matrices: list[nn.Parameter] = []
    groups: dict[tuple[bool, int], list[nn.Parameter]] = {}  # by whether they decay, and the blocks that LAMB scales
    for name, parameter in model.named_parameters():
        kind = kind_of_parameter(name, parameter)
        if config.optimiser == "muon" and kind == "matrix" and "blocks" in name.split("."):
            matrices.append(parameter)
            continue
        decays = kind not in config.no_decay
        blocks = layers_in(name) if config.optimiser == "lamb" and decays else 0
        groups.setdefault((decays, blocks), []).append(parameter)
    described = [
        {"params": groups[decays, blocks], "weight_decay": config.weight_decay if decays else 0.0, "blocks": blocks}
        for decays, blocks in sorted(groups, reverse=True)
    ]
    betas = (config.beta1, config.beta2)
    adam: torch.optim.Optimizer
    if config.optimiser == "lamb":
        adam = Lamb(described, config.learning_rate, betas, config.epsilon)
    else:
        fused = not any(parameter.is_meta for parameter in model.parameters())
        adam = torch.optim.AdamW(described, config.learning_rate, betas, config.epsilon, fused=fused)
    if not config.bias_correction:
        for parameter in (parameter for members in groups.values() for parameter in members):
            adam.state[parameter] = {
                "step": torch.full((), float(LARGE_STEP), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    if not matrices:
        return [adam]
    muon = Muon(matrices, config.learning_rate, config.weight_decay, config.momentum)
    return [adam, muon]


def layers_in(name: str) -> int:
    """Number of layers in the rows of a parameter: 3 where it holds queries, keys and values, else 1.

    LAMB scales the step of each layer, and published models have these three apart.
    """
    return 3 if "qkv" in name.split(".") else 1


def kind_of_parameter(name: str, parameter: nn.Parameter) -> str:
    """`bias`, `norm`, `embedding` or `matrix`, as in the setting `no_decay`."""
    if name.endswith("bias"):
        return "bias"
    if parameter.dim() == 1:
        return "norm"
    return "embedding" if name.startswith(("embedding.", "positions.", "token_types.")) else "matrix"


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """State of the optimisers as named tensors: `<optimiser>.<parameter>.<key>`."""
    return {
        f"{number}.{index}.{key}": torch.as_tensor(value)
        for number, optimiser in enumerate(optimisers)
        for index, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: dict[str, torch.Tensor]) -> None:
    """Restore the result of `optimiser_tensors`."""
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimisers]
    for name, value in tensors.items():
        number, index, key = name.split(".", maxsplit=2)
        states[int(number)].setdefault(int(index), {})[key] = value
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
