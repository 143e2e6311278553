"""Process groups along the axes of the grid of ranks, and the mesh of fully sharded data parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from neolm.training.rank_grid import RankGrid


class Groups:
    """The process groups of this rank. All ranks create them in the same order."""

    def __init__(self, grid: RankGrid, device: str, timeout: float) -> None:
        """`timeout` is how long a rank waits for another one, in seconds; new groups do not inherit it."""
        self.grid, self._device, self._timeout = grid, device, timedelta(seconds=timeout)
        self.place = grid.place(dist.get_rank())
        sharded = grid.sizes["shard"] > 1
        self.gradients = self.along(["copies", "context"])
        """Ranks with the same parameters and other tokens, over which replicated gradients are summed; None: this one.
        With `shard` above 1, FSDP sums gradients by `mesh`."""
        self.model = self.along(["pipeline", "tensor", *(["shard", "context"] if sharded else [])])
        """Ranks that have one copy of the model's parameters together, over which norms are summed; None: this one."""
        self.tensor = self.along(["tensor"])
        """Ranks that share each matrix; None: this one."""
        self.shared: list[tuple[set[str], dist.ProcessGroup]] = []
        """Names of parameters that the ranks of a group all have for different layers, so that gradients are summed."""
        self.counted_elsewhere: set[str] = set()
        """Names of the parameters here that another rank counts in the norm."""

    def along(self, axes: Sequence[str], places: Sequence[int] | None = None) -> dist.ProcessGroup | None:
        """The ranks that differ from this one in nothing but their places on `axes`; None: no other rank.

        `places` are those among them that are in the group; None: all.
        """
        if self.grid.size(axes) == 1:
            return None
        found = None
        for members in self.grid.groups(axes):  # every rank must create all groups
            chosen = members if places is None else [members[place] for place in places]
            group = dist.new_group(chosen, timeout=self._timeout)
            found = group if dist.get_rank() in chosen else found
        return found

    def share(self, names: Sequence[str], axis: str, places: Sequence[int]) -> None:
        """Note that the ranks at `places` of `axis` all have the parameters `names`; the first one counts them."""
        group = self.along([axis], places)
        if group is not None:
            self.shared.append(({*names}, group))
            self.counted_elsewhere.update(names if self.place[axis] != places[0] else ())

    def mesh(self) -> DeviceMesh:
        """The ranks of this place on `pipeline` and `tensor`: groups that share parameters, each with one copy of them.

        Parameters are divided over the ranks of `shard` and `context`.
        """
        kind, axes = self._device.partition(":")[0], ["shard", "context"]
        shard, copies = self.along(axes), self.along(["copies"])
        assert shard is not None, "without `shard`, parameters are not divided by this mesh"
        if copies is None:
            return DeviceMesh.from_group(shard, kind, mesh_dim_names=("shard",))
        alike = next(group for group in self.grid.groups(["copies", *axes]) if dist.get_rank() in group)
        places = torch.tensor(alike).view(-1, self.grid.size(axes))  # neighbours share parameters
        return DeviceMesh.from_group([copies, shard], kind, mesh=places, mesh_dim_names=("replicate", "shard"))
