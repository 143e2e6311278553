"""The parts of a tensor that is divided over processes, a DTensor; other tensors are whole in every process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """The part of `tensor` in this process, which shares its memory: all of it, unless it is a DTensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of `tensor`, gathered from the other processes if it is a DTensor. All of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """The part of `whole`, which is the same in every process, that this process has of `like`."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()


def with_part(part: Tensor, like: Tensor) -> Tensor:
    """The tensor, divided as `like` is, of which this process has `part`."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of this process's part of `parameter`, which has one."""
    assert parameter.grad is not None
    return local_tensor(parameter.grad)


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is divided over processes."""
    return isinstance(tensor, DTensor)


def zeros_like_sharded(tensor: Tensor, size: torch.Size) -> Tensor | None:
    """Zeros divided as `tensor` is; None if it is not divided, or is not of that size."""
    return torch.zeros_like(tensor).detach() if isinstance(tensor, DTensor) and tensor.shape == size else None
