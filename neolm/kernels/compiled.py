"""Functions compiled when first called, and kept on disk for the next process.

Numba's own cache looks at the time of one file only; here the key is the text of this whole room, so that a change in
a kernel is never missed. A cache that cannot be written (a full disk, nowhere to write) costs the time to compile.
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
        if found is None and self._py_func.__name__ in _SLOW:
            say("kernels: compiling for this processor, once (about 20 s)")
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(signature, data)


_SLOW = {"read_tokens"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compile `function` for the types that it is called with; it runs without Python's global lock."""
    dispatcher = njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # neither beside the source nor in the user's folder may a cache be kept
        dispatcher._cache = _Cache(function)
    return dispatcher
