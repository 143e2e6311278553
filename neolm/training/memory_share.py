"""Forward and backward pass of one process's share of a model, on fake tensors (`neolm.training.memory` tells how).

A share is a run of layers, with the embeddings if it is the first stage of a pipeline and with the head if it is the
last; under tensor parallelism the matrices of attention and MLP and the vocabulary are divided. The gradients of
weights are freed as each block's are complete, so that what is counted are the activations of one micro-batch; who
holds weights and gradients for how long is the matter of `neolm.training.memory_mesh`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from neolm.models.attention import fused_attention
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.encoder_heads import MaskedHead
from neolm.models.stored_model import build
from neolm.training import loop
from neolm.training.live_storages import LiveStorages
from neolm.training.memory_step import make_batch, mark_passes
from neolm.training.optimiser import build_optimisers
from neolm.training.passes import weighted_loss
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import objective

STATE, OPTIMISER = "the state of the optimiser", "the step of the optimiser"
END = "the end of the backward pass"
HELD = "between the passes"  # what a micro-batch holds from the end of its forward pass to its backward pass


@dataclass(frozen=True)
class Share:
    """The part of a model that one process computes."""

    first: bool = True
    """Whether it has the embeddings."""
    last: bool = True
    """Whether it has the head."""
    tensor: int = 1
    """Processes that share each matrix with it."""
    context: int = 1
    """Processes that share each sequence with it."""


def shared_network(model: DecoderConfig | EncoderConfig, share: Share, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of `share`, whose layers are those of `model`. What it does not have is as small as can be."""
    network = build(model)
    tied = share.last and isinstance(model, DecoderConfig) and model.ties_head
    if not share.last:
        assert isinstance(network, Decoder)
        network.head, network.norm = _NoHead(), nn.Identity()  # type: ignore[assignment]
    replaced: dict[int, nn.Parameter] = {}
    for name, module in network.named_modules():
        kind = name.rpartition(".")[2]
        for key, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in replaced:
                absent = not share.first and kind in ("embedding", "positions") and not (tied and kind == "embedding")
                shape = (1, parameter.shape[1]) if absent else _divided(kind, key, parameter.shape, share.tensor)
                replaced[id(parameter)] = nn.Parameter(parameter.new_empty(shape, dtype=dtype))
            module.register_parameter(key, replaced[id(parameter)])
        if kind == "attention":
            module.num_heads //= share.tensor
            if share.context > 1:
                module.attend = partial(_attend_to_all, share.context)
    return network


def _attend_to_all(
    count: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """Attention to the tokens of `count` processes, as in `neolm.distributed.context`, which has two chunks of each."""
    found = torch.stack([torch.stack((k, v)).clone() for _ in range(count)], dim=-3)
    keys, values = found.index_select(-3, torch.arange(count, device=q.device)).flatten(-3, -2)
    if q.is_meta:
        return torch.cat([fused_attention(part, keys, values, False, scale, dropout) for part in q.chunk(2, 2)], 2)
    mask = torch.ones(q.shape[2] // 2, keys.shape[2], dtype=torch.bool)
    attend = F.scaled_dot_product_attention
    return torch.cat([attend(part, keys, values, mask, dropout, scale=scale) for part in q.chunk(2, 2)], 2)


def _divided(kind: str, key: str, shape: torch.Size, count: int) -> tuple[int, ...]:
    """The shape of a parameter of which `count` processes have parts; `kind` is the name of its module."""
    rows, *rest = shape
    if kind in ("qkv", "expand", "embedding", "head"):
        return (-(-rows // count), *rest)
    if kind in ("output", "contract") and key == "weight":
        return (rows, -(-rest[0] // count))
    return tuple(shape)


class _NoHead(nn.Module):
    """Stands for the next stage: any loss whose gradient is as large as the hidden states."""

    def forward(self, hidden: Tensor, labels: Tensor | None = None, z_loss: float = 0.0) -> tuple[Tensor, Tensor]:
        total = hidden.square().sum(dtype=torch.float32)
        return total, total.detach()


@lru_cache(maxsize=1024)
def run_passes(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    precision: str,
    cpu: bool,
    share: Share,
    sequences: int,
    length: int,
) -> Mapping[str, int]:
    """Bytes at each moment of the passes of a micro-batch, without the weights; and `HELD`."""
    device = "cpu" if cpu else "meta"
    with FakeTensorMode(), LiveStorages(device) as live:
        with torch.device(device):
            network = shared_network(model, share, getattr(torch, precision))
        if isinstance(head := getattr(network, "head", None), MaskedHead):
            predictions = sequences * config.masking.predictions(length)
            head.predicted = lambda labels: torch.arange(predictions, device=labels.device)  # type: ignore[method-assign]
        if config.activation_checkpointing:
            loop.recompute_blocks(network)
        batch = make_batch(model, sequences, length).to(device)
        weights, ends = live.bytes, list[int]()
        mark_passes(network.train(), live)
        _free_gradients(network, lambda: ends.append(live.bytes - weights))
        live.moments.clear()
        terms = objective(model, config)(network, batch)
        total = weighted_loss(terms, dict.fromkeys(terms, 1.0))
        held = live.bytes
        total.backward()  # type: ignore[no-untyped-call]
        moments = {name: most - weights for name, most in live.moments.items()}
        return {**moments, HELD: held - weights, f"{END} of block -1": ends[0], f"{END} of block 0": ends[-1]}


def _free_gradients(network: nn.Module, then: Callable[[], None]) -> None:
    """Free the gradients of a block when its backward pass ends, and call `then`; those of other parameters at once."""

    def free(*_: Any) -> None:
        for parameter in network.parameters():
            parameter.grad = None

    blocks = loop.blocks_of(network)
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in inside:
            parameter.register_post_accumulate_grad_hook(free)  # type: ignore[no-untyped-call]

    def end(_: Tensor) -> None:
        free()
        then()

    def before_block(block: nn.Module, args: Any) -> None:
        args[0].register_hook(end)

    for block in blocks:
        block.register_forward_pre_hook(before_block)


@lru_cache(maxsize=256)
def run_optimiser(
    model: DecoderConfig | EncoderConfig, config: PretrainConfig, cpu: bool, share: Share
) -> Mapping[str, int]:
    """Bytes of the optimiser's state for the weights of `share`, and the most that its second step takes besides."""
    device = "cpu" if cpu else "meta"
    with FakeTensorMode(), LiveStorages(device) as live:
        with torch.device(device):
            network = shared_network(model, share)
        optimisers = build_optimisers(network, config)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        for optimiser in optimisers:
            optimiser.step()
            for group in optimiser.param_groups:
                group["fused"] = True  # on meta too, once the state is there
        live.moments.clear()
        live.enter(OPTIMISER)
        before = live.bytes
        for optimiser in optimisers:
            optimiser.step()
        tensors = (v for o in optimisers for entry in o.state.values() for v in entry.values())
        return {STATE: sum(tensor.nbytes for tensor in tensors), OPTIMISER: live.moments[OPTIMISER] - before}
