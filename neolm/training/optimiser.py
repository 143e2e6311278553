"""The optimisers of a training: AdamW with decoupled weight decay (Loshchilov & Hutter 2019), LAMB, or Muon.

Muon updates the matrices between the embeddings and the outputs: those of the blocks, and an encoder's projection
and pooler. AdamW then updates embeddings, heads, norms and biases.

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
from neolm.training.division import divided_as
from neolm.training.lamb import Lamb
from neolm.training.muon import Muon
from neolm.training.sharded_tensor import zeros_like_sharded

HIDDEN = ("blocks", "projection", "pooler")
"""Modules whose matrices Muon updates. The steps of AdamW at Muon's learning rates displace a matrix within a few steps
(docs/log.md, "What holds ALBERT at its start")."""
LARGE_STEP = 2**24  # the largest exact float32 counter, where it stays; 0.999999^LARGE_STEP is below 1e-7


def build_optimisers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Create the optimisers of the parameters of `model`, each in a group with or without weight decay.

    LAMB scales the steps of the parameters that decay, as ALBERT's code does. Frozen parameters are left out.

    Raises:
        InputError: the model is quantised, or all of it is frozen.
    """
    if getattr(model, "quantized", None):
        raise InputError("a quantised model cannot be trained. Train the original model, then quantise it")
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("there is nothing to train: all parameters of the model are frozen")
    matrices: list[nn.Parameter] = []
    # by whether they decay, the blocks that LAMB scales, and the factor of the learning rate
    groups: dict[tuple[bool, int, float], list[nn.Parameter]] = {}
    depths = {name: depth_of(name) for name, _ in trained}
    last = max((depth for depth in depths.values() if depth is not None), default=0)
    for name, parameter in trained:
        kind = kind_of_parameter(name, parameter)
        if config.optimiser == "muon" and kind == "matrix" and not {*HIDDEN}.isdisjoint(name.split(".")):
            matrices.append(parameter)
            continue
        decays = kind not in config.no_decay
        blocks = layers_in(name) if config.optimiser == "lamb" and decays else 0
        depth = depths[name]
        factor = 1.0 if depth is None else config.layer_decay ** (last + 1 - depth)
        groups.setdefault((decays, blocks, factor), []).append(parameter)
    described = [
        {
            "params": members,
            "weight_decay": config.weight_decay if decays else 0.0,
            "blocks": blocks,
            "lr": config.learning_rate * factor,
            "learning_rate_factor": factor,
        }
        for (decays, blocks, factor), members in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    optimisers: list[torch.optim.Optimizer] = []
    if described:
        optimisers.append(_adam_or_lamb(described, config))
    if matrices:
        optimisers.append(Muon(matrices, config.learning_rate, config.weight_decay, config.momentum))
    return optimisers


def _adam_or_lamb(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    members = [parameter for group in groups for parameter in group["params"]]
    betas = (config.beta1, config.beta2)
    adam: torch.optim.Optimizer
    if config.optimiser == "lamb":
        adam = Lamb(groups, config.learning_rate, betas, config.epsilon)
    else:
        fused = not any(parameter.is_meta for parameter in members)
        adam = torch.optim.AdamW(groups, config.learning_rate, betas, config.epsilon, fused=fused)
    if not config.bias_correction:
        for parameter in members:
            adam.state[parameter] = {
                "step": torch.full((), float(LARGE_STEP), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return adam


def depth_of(name: str) -> int | None:
    """0 for the embeddings, 1 for the first layer and so on; None above the last layer, where there is no decay."""
    parts = name.split(".")
    if "blocks" in parts:
        return 1 + int(parts[parts.index("blocks") + 1])
    return 0 if name.startswith(("embedding", "positions", "token_types", "projection")) else None


def layers_in(name: str) -> int:
    """Number of layers in the rows of a parameter: 3 where it holds queries, keys and values, else 1.

    LAMB scales the step of each layer, and published models have these three apart.
    """
    return 3 if name.rpartition(".")[0].endswith("qkv") else 1  # not of the adapters inside of it


def kind_of_parameter(name: str, parameter: nn.Parameter) -> str:
    """`bias`, `norm`, `embedding` or `matrix`, as in the setting `no_decay`."""
    if name.endswith("bias"):
        return "bias"
    if parameter.dim() == 1:
        return "norm"
    return "embedding" if name.startswith(("embedding.", "positions.", "token_types.")) else "matrix"


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """State of the optimisers as named tensors: `<optimiser>.<parameter>.<key>`."""
    found = {}
    for number, optimiser in enumerate(optimisers):
        parameters = _parameters(optimiser)
        for index, entry in optimiser.state_dict()["state"].items():
            for key, value in entry.items():
                tensor, parameter = torch.as_tensor(value), parameters[index]
                found[f"{number}.{index}.{key}"] = (
                    divided_as(tensor, parameter) if tensor.shape == parameter.shape else tensor
                )
    return found


def moment_like(optimisers: Sequence[torch.optim.Optimizer], name: str, size: torch.Size) -> torch.Tensor | None:
    """A tensor to read the state `name` of `optimiser_tensors` into; None unless its parameter is sharded."""
    number, index, _ = name.split(".", maxsplit=2)
    return zeros_like_sharded(_parameters(optimisers[int(number)])[int(index)], size)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def restore_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: dict[str, torch.Tensor]) -> None:
    """Restore the result of `optimiser_tensors`."""
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimisers]
    for name, value in tensors.items():
        number, index, key = name.split(".", maxsplit=2)
        states[int(number)].setdefault(int(index), {})[key] = value
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
