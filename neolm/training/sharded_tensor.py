"""The parts of a tensor that is divided over processes; other tensors are whole in every process.

Fully sharded data parallelism makes a DTensor of it. Tensor parallelism marks a part with its `Division`. With both, a
DTensor is divided over the processes that have the same part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from neolm.training.division import divided_as, division_of, whole_size


def local_tensor(tensor: Tensor) -> Tensor:
    """The part of `tensor` in this process, which shares its memory: all of it, unless it is divided."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of `tensor`, gathered from the other processes if it is divided. All of them must call it."""
    part = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    division = division_of(tensor)
    return part if division is None else division.whole(part)


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """The part of `whole`, which is the same in every process, that this process has of `like`."""
    division = division_of(like)
    part = whole if division is None else division.part(whole)
    if not isinstance(like, DTensor):
        return part
    return distribute_tensor(part, like.device_mesh, like.placements, src_data_rank=None).to_local()


def with_part(part: Tensor, like: Tensor) -> Tensor:
    """The tensor, divided as `like` is, of which this process has `part`."""
    if isinstance(like, DTensor):
        part = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return divided_as(part, like)


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of this process's part of `parameter`, which has one."""
    assert parameter.grad is not None
    return local_tensor(parameter.grad)


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is divided over processes."""
    return isinstance(tensor, DTensor) or division_of(tensor) is not None


def zeros_like_sharded(tensor: Tensor, size: torch.Size) -> Tensor | None:
    """Zeros divided as `tensor` is; None if it is not divided, or is not of that size as a whole."""
    if not is_sharded(tensor) or whole_size(tensor) != size:
        return None
    return divided_as(torch.zeros_like(tensor).detach(), tensor)


def boxes(tensor: Tensor, data: Tensor | None = None) -> list[tuple[torch.Size, Tensor]]:
    """The parts of this process that are consecutive along every dimension: offsets in the whole tensor, and a view.

    `data`: views of it are returned, a copy of the `local_tensor` of `tensor`; None: of that itself.
    """
    local = local_tensor(tensor) if data is None else data
    offsets: tuple[int, ...] = (0,) * tensor.dim()
    if isinstance(tensor, DTensor):
        _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        if not local.numel():
            return []
    division = division_of(tensor)
    if division is None:
        return [(torch.Size(offsets), local)]
    dim, start, found = division.dim, 0, []  # start: of a range within the part that the processes of a mesh have
    begin, stop = offsets[dim], offsets[dim] + local.shape[dim]
    for first, end in division.own:
        low, high = max(start, begin), min(start + end - first, stop)
        if low < high:
            place = (*offsets[:dim], first + low - start, *offsets[dim + 1 :])
            found.append((torch.Size(place), local.narrow(dim, low - begin, high - low)))
        start += end - first
    return found
