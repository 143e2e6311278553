"""Structure-aware mutations of files: JSON and YAML values, lines of text, Jinja templates and binary content."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 255, 2**16, 10**8, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e-300,
    1e308, float("nan"), float("inf"), "", " ", "a", "\0", "\ud800", "é", "\U0001f600", "None", "1", "../..", "/", ".",
    "x" * 5000, "<|endoftext|>", [], {}, [None], [[]], [1, "a"], ["a", "a"], {"a": 1}, {"": {}}, {"content": None},
    {"type": "BPE"}, "{% for a in range(9) %}{{ a }}{% endfor %}", "gpt2", "global", [[["global", "local"], 10**8]],
]  # fmt: skip
SNIPPETS = (
    "{{ messages }}", "{{ messages[9] }}", "{{ bos_token * 3 }}", "{{ 'a' * 10 }}", "{{ x.y.z }}", "{{ 1 / 0 }}",
    "{% set x = namespace(a=1) %}", "{{ raise_exception('no') }}", "{% for m in messages %}", "{% endfor %}", "{% if",
    "{{ messages | tojson }}", "{{ '%d' | format('a') }}", "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "}}",
    "{{ ''.__class__.__mro__ }}", "{% include 'a' %}", "{% import 'a' as b %}", "{{ none.a }}", "{% break %}", "{#",
    "{{ messages | map(attribute='content') | join }}", "{{ strftime_now('%Q') }}", "{{ messages[0].content | int }}",
)  # fmt: skip
BYTES = (b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"{", b"[" * 3000, b"\x00" * 64, b"\xff" * 8, b"a" * 70_000)


def mutated_json(content: bytes, random: Random) -> bytes:
    """JSON text with one to three changes of its values, or damage of the text itself."""
    if random.random() < 0.15:
        return mutated_bytes(content, random)
    value = json.loads(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _changed(value, random)
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.05:
        text = text.replace("1", "1" * random.choice((20, 400, 5000)), 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, random: Random) -> Any:
    """`value` with one of its parts replaced, removed, doubled, wrapped or renamed."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or random.random() < 0.03:
        return random.choice(VALUES)
    container, key = random.choice(places)
    old = container[key]
    choice = random.randrange(8)
    if choice < 3:
        container[key] = random.choice(VALUES)
    elif choice == 3:
        del container[key]
    elif choice == 4:
        container[key] = [old] if random.random() < 0.5 else {"value": old}
    elif choice == 5 and isinstance(old, (int, float)) and not isinstance(old, bool):
        container[key] = random.choice((-old, old + 1, old - 1, old * 1000, old / 3, str(old)))
    elif choice == 6 and isinstance(old, (list, str)):
        container[key] = random.choice((old * 2, old[:-1], old[::-1], old * 50))
    elif isinstance(container, dict):
        container[random.choice((f"{key}s", key.upper(), *container))] = container.pop(key)
    else:
        container.insert(random.randrange(len(container) + 1), random.choice(VALUES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below `value`; of long lists the first and the last items only."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys if len(keys) <= 40 else keys[:20] + keys[-20:]:
        yield value, key
        yield from _places(value[key])


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Content that is cut, with bytes changed, inserted, removed, zeroed, moved or repeated."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 1, 2, 8, 64, 1000)))
        choice = random.randrange(8)
        if choice == 0:
            del data[start:]
        elif choice == 1:
            del data[start:end]
        elif choice == 2:
            data[start:start] = random.choice(BYTES)
        elif choice == 3:
            data[start:end] = bytes(end - start)
        elif choice == 4:
            data[start:start] = data[start:end] * random.choice((1, 3))
        elif choice == 5 and start < len(data):
            data[start] ^= 1 << random.randrange(8)
        elif choice == 6 and start < len(data):
            data[start] = random.randrange(256)
        else:
            data += random.choice(BYTES)
    return bytes(data)


def mutated_text(content: bytes, random: Random) -> bytes:
    """Lines that are removed, doubled, moved, indented or changed in one word; or damage of the bytes."""
    if random.random() < 0.3:
        return mutated_bytes(content, random)
    lines = content.decode("utf-8", "replace").split("\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(lines))
        choice = random.randrange(6)
        if choice == 0:
            lines.insert(place, lines.pop(random.randrange(len(lines))))
        elif choice == 1:
            lines[place : place + 1] = [lines[place]] * 2
        elif choice == 2:
            lines[place] = " " * random.choice((1, 2, 9)) + lines[place]
        elif choice == 3:
            key, _, _ = lines[place].partition(":")
            lines[place] = f"{key}: {json.dumps(random.choice(VALUES))}"
        elif choice == 4:
            lines[place] = lines[place].replace(" ", random.choice(("", "  ", ":", "\t", "#", "&a ", "*a")), 1)
        elif len(lines) > 1:
            del lines[place]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutated_template(content: bytes, random: Random) -> bytes:
    """A Jinja template with snippets inserted, or damage of the text."""
    text = content.decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(text) + 1)
        text = text[:place] + random.choice(SNIPPETS) + text[place:]
    return text.encode() if random.random() < 0.8 else mutated_bytes(text.encode(), random)


Mutate = Callable[[bytes, Random], bytes]
