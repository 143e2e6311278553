"""Rendering of a chat template that somebody else wrote: in a process of its own, with limits of time and memory.

A template is a program. It can loop for ever or double a string until the memory is full, and a thread that runs it
cannot be stopped, so each template has a worker process (`neolm.tokenizer.render_worker`). A worker that exceeds a
limit is killed; the next rendering starts a new one. It ends with the `Renderer`, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neolm.core.errors import InputError, NeoLMError
from neolm.tokenizer.render_worker import read_message, write_message

MAX_RENDER_SECONDS = 5.0
"""Time limit of one rendering; an ordinary one takes less than a millisecond."""
MAX_START_SECONDS = 30.0
"""Time limit for starting the worker and compiling the template."""
MAX_RENDER_MEMORY = 2**29
"""Bytes of address space that a worker may take after its start, on Linux."""
MAX_RENDERED_CHARACTERS = 2**22
"""Length limit of a rendered conversation."""
MAX_TEMPLATE_BYTES = 2**20
"""Size limit of a template; published ones have up to about 60 KB."""


class TemplateLimitError(InputError):
    """A chat template exceeded a limit of time, memory or length."""


class Renderer:
    """Renders one template. Thread-safe; renderings of one template wait for each other, those of others do not."""

    def __init__(self, source: str, place: Path) -> None:
        """Start the worker and compile `source`, which was read at `place`.

        Raises:
            InputError: `source` is not a template, or too large.
        """
        self._source, self._place = source, place
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        if len(source.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
            raise InputError(f"{place}: the chat template has more than {MAX_TEMPLATE_BYTES:,} bytes")
        self._start()

    def render(self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> str:
        """The text of `messages` and the start of the assistant's next turn. `variables` are further names.

        Raises:
            TemplateLimitError: the template exceeded a limit.
            InputError: the template does not accept the messages.
        """
        names = {"tools": None, "documents": None, "add_generation_prompt": True, **variables, "messages": messages}
        with self._lock:
            worker = self._worker
            if worker is None or worker.process.poll() is not None:  # stopped, or killed from outside
                self._stop()
                worker = self._start()
            answer = self._ask(worker, names, MAX_RENDER_SECONDS)
        if "limit" in answer:
            raise TemplateLimitError(f"messages: the chat template of the model was stopped, because {answer['limit']}")
        if "error" in answer:
            raise InputError(f"messages: the chat template of the model does not accept them ({answer['error']})")
        return str(answer["text"])

    def close(self) -> None:
        """Stop the worker, also in the middle of a rendering; a further rendering starts a new one."""
        worker = self._worker
        if worker is not None:
            worker.process.kill()  # which ends a rendering, and so the wait for the lock
        with self._lock:
            self._stop()

    def _start(self) -> _Worker:
        # Isolated (-I): neither the current directory nor environment variables can replace a module.
        code = "import sys; sys.path[:] = sys.argv[1:]; from neolm.tokenizer.render_worker import main; main()"
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # Python aborts if it ends while a daemon thread holds the lock of a buffer
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )
        except OSError as error:
            raise NeoLMError(f"the process for chat templates cannot be started ({error.strerror})") from None
        self._worker = _Worker(process, weakref.finalize(self, _end, process))
        limits = {"memory": MAX_RENDER_MEMORY, "seconds": MAX_RENDER_SECONDS, "characters": MAX_RENDERED_CHARACTERS}
        answer = self._ask(self._worker, {"source": self._source, **limits}, MAX_START_SECONDS)
        if "text" not in answer:
            self._stop()
            reason = answer.get("error") or answer["limit"]
            raise InputError(f"{self._place}: the chat template cannot be read ({reason})")
        return self._worker

    def _ask(self, worker: _Worker, message: Any, seconds: float) -> dict[str, Any]:
        """The worker's answer. A worker that does not answer in time is stopped."""
        slow = threading.Event()

        def stop() -> None:
            slow.set()
            worker.process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        try:
            write_message(worker.process.stdin, message)
            answer = read_message(worker.process.stdout, 6 * MAX_RENDERED_CHARACTERS + 1000)  # JSON: "\\u0000"
        except (OSError, ValueError):
            answer = None
        finally:
            timer.cancel()
        if answer is None or slow.is_set():
            self._stop()
        if answer is None:
            return {"limit": f"it takes longer than {seconds:g} seconds" if slow.is_set() else "its process ended"}
        return dict(answer)

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    end: weakref.finalize[..., Renderer]  # kills it; called at the latest when the interpreter exits


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # data for the killed worker that was not written
                stream.close()
