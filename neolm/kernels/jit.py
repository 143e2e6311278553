"""Compilation at the first call, with a disk cache for later processes.

Numba's own disk cache checks the modification time of one file. Here the cache key also contains the source of this
whole package, so that a change in any kernel recompiles its callers. If the cache cannot be written, every process
compiles.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from neolm.core.progress import say


@cache
def _digest() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


class _Cache(FunctionCache):
    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return (*super()._index_key(signature, codegen), _digest())

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        found = None
        with contextlib.suppress(OSError, EOFError, ValueError):
            found = super().load_overload(signature, target_context)
        if found is None and self._py_func.__name__ == "decode_step":
            say("kernels: compiling for this CPU, once (about 20 s)")
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(signature, data)


def cached_jit(function: Callable[..., Any]) -> Any:
    """Compile `function` for the argument types of each call; it runs without the GIL."""
    dispatcher = njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # no writable cache directory
        dispatcher._cache = _Cache(function)
    return dispatcher
