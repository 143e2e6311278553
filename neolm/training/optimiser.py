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
from torch import Tensor, nn

from neolm.core.errors import InputError
from neolm.training.config import TrainConfig
from neolm.training.division import divided_as
from neolm.training.lamb import Lamb
from neolm.training.model_part import whole_parameters
from neolm.training.muon import Muon
from neolm.training.sharded_tensor import zeros_like_sharded

HIDDEN = ("blocks", "projection", "pooler")
"""Modules whose matrices Muon updates. The steps of AdamW at Muon's learning rates displace a matrix within a few steps
(docs/log.md, "What holds ALBERT at its start")."""
LARGE_STEP = 2**24  # the largest exact float32 counter, where it stays; 0.999999^LARGE_STEP is below 1e-7


def build_optimisers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Create the optimisers of the parameters of `model`, each in a group with or without weight decay.

    LAMB scales the steps of the parameters that decay, as ALBERT's code does. Frozen parameters are left out. In
    each group, `numbers` are the places of its parameters among those of the whole model.

    Raises:
        InputError: the model is quantised, or all of it is frozen.
    """
    if getattr(model, "quantized", None):
        raise InputError("a quantised model cannot be trained. Train the original model, then quantise it")
    trained = [(name, parameter) for name, parameter in whole_parameters(model) if parameter.requires_grad]
    own = {id(parameter) for parameter in model.parameters()}
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
        optimisers.append(_adam_or_lamb(_own_members(described, own), config))
    if matrices:
        groups_of_own = _own_members([{"params": matrices}], own)
        optimisers.append(Muon(groups_of_own, config.learning_rate, config.weight_decay, config.momentum))
    return optimisers


def _own_members(groups: list[dict[str, Any]], own: set[int]) -> list[dict[str, Any]]:
    """The groups with those of their parameters whose ids are in `own`, and the `numbers` of these."""
    found, first = [], 0
    for group in groups:
        members = [(n, p) for n, p in enumerate(group["params"], first) if id(p) in own]
        found.append({**group, "params": [p for _, p in members], "numbers": [n for n, _ in members]})
        first += len(group["params"])
    return found


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


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State of the optimisers as named tensors: `<optimiser>.<number of the parameter>.<key>`."""
    found = {}
    for place, optimiser in enumerate(optimisers):
        numbered = [*_numbered(optimiser).items()]
        for index, entry in optimiser.state_dict()["state"].items():
            number, parameter = numbered[index]
            for key, value in entry.items():
                tensor = torch.as_tensor(value)
                found[f"{place}.{number}.{key}"] = (
                    divided_as(tensor, parameter) if tensor.shape == parameter.shape else tensor
                )
    return found


def moment_like(optimisers: Sequence[torch.optim.Optimizer], name: str, size: torch.Size) -> Tensor | bool:
    """What `read_tensors` reads the state `name` of `optimiser_tensors` into; False: other processes have it."""
    place, number, _ = name.split(".", maxsplit=2)
    parameter = _numbered(optimisers[int(place)]).get(int(number))
    if parameter is None:
        return False
    divided = zeros_like_sharded(parameter, size)
    return True if divided is None else divided


def _numbered(optimiser: torch.optim.Optimizer) -> dict[int, nn.Parameter]:
    """The optimiser's parameters in the order of its `state_dict`, by their numbers among those of the whole model."""
    return {n: p for group in optimiser.param_groups for n, p in zip(group["numbers"], group["params"], strict=True)}


def restore_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restore the result of `optimiser_tensors`, or the part of it that belongs to the parameters here."""
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimisers]
    numbers = [[*_numbered(optimiser)] for optimiser in optimisers]
    for name, value in tensors.items():
        place, number, key = name.split(".", maxsplit=2)
        states[int(place)].setdefault(numbers[int(place)].index(int(number)), {})[key] = value
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
