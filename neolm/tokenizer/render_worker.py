"""The process that renders one chat template, in Jinja's sandbox, under limits of memory and time.

It reads messages from standard input and answers on standard output: 8 bytes of length, then JSON. The first message
has the template, each further one the variables of a rendering. It ends with its standard input, so it cannot outlive
the process that started it.

The environment is that of `transformers` 5: `trim_blocks`, `lstrip_blocks`, `break` and `continue`, the block
`generation`, and the functions `raise_exception` and `strftime_now`. `tojson` does not escape HTML.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_LENGTH = struct.Struct(">Q")
_NICENESS = 10  # a ninth of the time of an ordinary process, if both want the same core
_REASON = 300  # characters of an error that are reported


def read_message(stream: IO[bytes], limit: int | None = None) -> Any:
    """The next message; None at the end of the stream, or if the message has more than `limit` bytes."""
    header = _read(stream, _LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    if limit is not None and length > limit:
        return None
    data = _read(stream, length)
    return json.loads(data.decode("utf-8", "surrogatepass")) if len(data) == length else None


def _read(stream: IO[bytes], size: int) -> bytes:
    """`size` bytes, or fewer at the end of the stream. A stream without a buffer may give them in parts."""
    data = bytearray()
    while len(data) < size and (part := stream.read(size - len(data))):
        data += part
    return bytes(data)


def write_message(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:  # a stream without a buffer may take a part
        rest = rest[stream.write(rest) :]
    stream.flush()


class _GenerationBlock(Extension):
    """`{% generation %}`, which marks the assistant's text for training.

    The variables `generation_begin` and `generation_end` are written around its content; they are empty by default.
    """

    tags = {"generation"}  # noqa: RUF012 - as in Jinja

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (
            nodes.Output([nodes.Name(f"generation_{name}", "load")], lineno=line) for name in ("begin", "end")
        )
        return nodes.Scope([begin, *body, end], lineno=line)


class _TemplateNamespace(Namespace):
    """Jinja's `namespace` without attributes that begin with an underscore."""

    def __init__(*args: Any, **attributes: Any) -> None:  # any name may be an attribute, `self` too
        self, *rest = args
        for name in dict(*rest, **attributes):
            _check_attribute(name)
        Namespace.__init__(self, *rest, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def environment() -> ImmutableSandboxedEnvironment:
    """The environment that templates are written for."""

    def raise_exception(reason: str) -> None:
        raise TemplateError(reason)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        return datetime.now().astimezone().strftime(form)

    result = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    result.filters["tojson"] = to_json
    result.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=_TemplateNamespace)
    return result


def _give_way() -> None:
    """Let other processes compute first: a template that loops must not slow others down."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)


def _limit_memory(limit: int) -> None:
    """Limit the address space that this process takes from now on, on platforms that can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        total = int(pages) * resource.getpagesize() + limit
        resource.setrlimit(resource.RLIMIT_AS, (total, total))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(template: Template, variables: dict[str, Any], limit: int) -> dict[str, Any]:
    parts, length = [], 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > limit:
            return {"limit": f"it writes more than {limit:,} characters"}
    return {"text": "".join(parts)}


def _answer(action: Any) -> dict[str, Any]:
    """The result of `action`, or the error that it raises: a template can raise any."""
    try:
        return dict(action())
    except MemoryError:
        return {"limit": "it takes too much memory"}
    except Exception as error:
        return {"error": (str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__)[:_REASON]}


def main() -> None:
    """Serve renderings until standard input ends."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    first = read_message(incoming)
    if first is None:
        return
    _limit_memory(first["memory"])
    _give_way()
    compiled: list[Template] = []

    def compile_template() -> dict[str, Any]:
        compiled.append(environment().from_string(first["source"]))
        return {"text": ""}

    write_message(outgoing, _answer(compile_template))
    while compiled and (variables := read_message(incoming)) is not None:
        # The owner kills a slow worker; the alarm, whose default action ends the process, is for when the owner died.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 2 * first["seconds"])
        answer = _answer(lambda variables=variables: _render(compiled[0], variables, first["characters"]))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        write_message(outgoing, answer)
