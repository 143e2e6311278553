"""The errors that users see.

The command line prints the message of an error on one line, without a traceback, and exits with `exit_code`. Broken
invariants of NeoLM itself are assertions and do not belong here.
"""

from __future__ import annotations


def shortened(value: object, limit: int = 100) -> str:
    """`repr(value)`, which has no line breaks, with at most `limit` characters, for a message."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class NeoLMError(Exception):
    """A failure that is not the user's mistake (exit code 1)."""

    exit_code = 1


class InputError(NeoLMError):
    """The input cannot be used: the message names what, where, and what to do (exit code 2)."""

    exit_code = 2


class SettingError(InputError):
    """A setting cannot be used. A room names the bare key; `within` adds the section of the recipe in front."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem

    def within(self, section: str) -> SettingError:
        """The same error with the key as `section.key`."""
        return type(self)(f"{section}.{self.key}", self.problem)


class NonFiniteError(NeoLMError):
    """A loss or a gradient became NaN or infinite; the message names the step, the documents and the layer."""


class StorageError(NeoLMError):
    """The disk is full, over quota or read-only. Everything that was saved before stays valid."""


class InterruptedRun(NeoLMError):  # noqa: N818 - it is what happened, not a fault
    """Ctrl-C or SIGTERM: the state was saved, and the message says how to resume (exit code 130 as shells do)."""

    exit_code = 130
