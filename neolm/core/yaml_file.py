"""YAML as settings files have it: the scalars of YAML 1.2, no key twice, bounded size, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from neolm.core.errors import InputError

MAX_YAML_BYTES = 2**20
"""Size limit of a settings file."""
MAX_YAML_VALUES = 100_000
"""Limit on the keys and values of a settings file, with every alias counted as often as it is used."""


class _Loader(yaml.SafeLoader):
    """A loader with the core schema of YAML 1.2 and underscores in numbers: `010` is 10, `no` and `1:30` are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as in the base class; filled by `add_implicit_resolver`

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes every text that YAML 1.1 or `_Loader` would read as something else."""


for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", "<<", "<"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text with line ends other than LF in double quotes, where they are escaped; other styles fold them."""
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(data: Any) -> str:
    """`data` as YAML, which `load_config` reads as the same values."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file, and the line of each dotted key.

    Raises:
        InputError: the file cannot be read, has more than MAX_YAML_BYTES, or is not a mapping in YAML (`parse_yaml`).
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise InputError(f"{path}: more than {MAX_YAML_BYTES:,} bytes, which is too large for settings")
        node, data = parse_yaml(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot be read as settings (it is not UTF-8 text)") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as settings ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(data, dict | None):
        raise InputError(f"{path}: this is a {type(data).__name__}, not a mapping of keys to values")
    return data or {}, dict(_lines(node))


def parse_yaml(text: str, texts_only: bool = False) -> tuple[yaml.Node | None, Any]:
    """The nodes and the value of a YAML text. With `texts_only`, every scalar is text.

    Raises:
        YAMLError: the text is not YAML, has a key twice, refers to itself, is nested too deeply, or has more than
            MAX_YAML_VALUES values. The aliases of a short text can stand for more values than memory can hold.
    """
    loader = yaml.BaseLoader if texts_only else _Loader
    try:
        node = yaml.compose(text, Loader=loader)
        _check_nodes(node, {})
        return node, yaml.load(text, Loader=loader)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="it is nested too deeply") from None
    except (TypeError, ValueError) as error:  # such as a number with too many digits
        raise yaml.MarkedYAMLError(problem=str(error)) from None


def _check_nodes(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """The number of values in `node`, as if every alias were written out. `sizes` has the numbers found so far."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = MAX_YAML_VALUES  # until it is known: an alias inside of its own anchor has no end
    keys: set[tuple[str, str]] = set()
    size = 1
    for item in node.value:
        key = item[0] if isinstance(node, yaml.MappingNode) else None
        size += sum(_check_nodes(part, sizes) for part in (item if key else (item,)))
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                problem = f"the key '{key.value}' is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            keys.add((key.tag, key.value))
    if size > MAX_YAML_VALUES:
        problem = f"more than {MAX_YAML_VALUES:,} values, if its aliases are written out"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    sizes[id(node)] = size
    return size


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, f"{dotted}.")
