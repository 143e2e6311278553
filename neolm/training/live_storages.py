"""Bytes of the tensors that exist at each moment of a program that runs on fake tensors.

Fake tensors have a shape, a type and a device but no data (`torch._subclasses.FakeTensorMode`). Their storages are
created and freed as those of real tensors are. Left out: memory that an operator frees before it returns.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, for operators on fake tensors, the bytes of the storages that exist on one device.

    Operators that only write into their arguments are not run. A value that the host reads is 1, true or 1.0.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.bytes = 0
        self.moments: dict[str, int] = {}
        """The most bytes at each moment."""
        self._names: tuple[str, ...] = ()
        self._known: set[int] = set()

    def enter(self, *names: str) -> None:
        """Begin a moment, which has one or more names."""
        self._names = names
        self._record()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        written = _written_arguments(func)
        if written is not None:
            results = [args[place] if place < len(args) else kwargs[name] for place, name in written]
            return results[0] if len(results) == 1 else tuple(results) or None
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.device.type == self.device:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            weakref.finalize(storage, self._remove, key, size)
            self.bytes += size
            self._record()

    def _remove(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.bytes -= size

    def _record(self) -> None:
        for name in self._names:
            self.moments[name] = max(self.moments.get(name, 0), self.bytes)


@cache
def _written_arguments(func: Any) -> list[tuple[int, str]] | None:
    """Place and name of the arguments that `func` writes and returns; None if it returns anything new."""
    schema = func._schema
    if not schema.is_mutable:
        return None
    places = {
        frozenset(argument.alias_info.before_set): (place, argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    results = [places.get(frozenset(r.alias_info.before_set)) if r.alias_info else None for r in schema.returns]
    return None if None in results else cast("list[tuple[int, str]]", results)
