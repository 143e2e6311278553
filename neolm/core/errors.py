"""The one small tree of errors that users see.

A user sees the message of an error, never its traceback: `neolm.cli` prints it on one line and exits with
`exit_code`. Broken invariants of our own are assertions, not members of this tree.
"""

from __future__ import annotations


class NeoLMError(Exception):
    """Something failed that is not the user's mistake (exit code 1)."""

    exit_code = 1


class InputError(NeoLMError):
    """The user gave something that cannot work: what, where and how to mend it (exit code 2)."""

    exit_code = 2


class NonFiniteError(NeoLMError):
    """A loss or a gradient became NaN or infinite; the message names the step, the documents and the layer."""


class StorageError(NeoLMError):
    """The disk refused: full, over quota or read-only. What was saved before stays valid."""


class InterruptedRun(NeoLMError):  # noqa: N818 - it is what happened, not a fault
    """Ctrl-C or SIGTERM: the state was saved, and the message says how to resume (exit code 130 as shells do)."""

    exit_code = 130
