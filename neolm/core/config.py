"""Typed, strict configuration: YAML recipes, overrides, and errors that name the key.

Every room declares its settings as a frozen `Config`. The docstring under a field is its help text, `Unit` its unit.
Unknown keys, wrong types and values out of range are refused with the key, its place (file and line, or the command
line) and the nearest valid name.

The type of a field decides how a `key=value` override is read: a text field takes the text as it is, any other field
takes a YAML value.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo

from neolm.core.errors import InputError


class Config(BaseModel):
    """Base of every settings class: frozen, no extra keys, no silent conversions, numbers that tensors can hold."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _fits_a_tensor(cls, value: Any) -> Any:
        limit = 2**63 if isinstance(value, int) else 1e30  # int64; float32 with room for products
        if isinstance(value, (int, float)) and abs(value) > limit:
            raise ValueError(f"must be at most {limit:g} in size")
        return value

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return {}

    def ignored(self) -> dict[str, str]:
        """The fields of `without_effect` whose values differ from their defaults."""
        found = self.without_effect().items()
        return {name: why for name, why in found if getattr(self, name) != type(self).model_fields[name].default}


@dataclass(frozen=True)
class Unit:
    """The unit of a field, put into its `Annotated` metadata and printed by `neolm config`."""

    name: str


@dataclass(frozen=True)
class Alias:
    """A second spelling of a field that is accepted on input, put into its `Annotated` metadata."""

    name: str


@dataclass(frozen=True)
class Supersedes:
    """An override of this field removes the values that the file gives to `names` (without names: to the section)."""

    names: tuple[str, ...] = ()


C = TypeVar("C", bound=Config)


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


_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # lone surrogates: bytes of a file name that are not UTF-8


def to_yaml(data: Any) -> str:
    """`data` as YAML, which `load_config` reads as the same values."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


Overrides = Sequence[str] | Mapping[str, Any]


def load_config(model: type[C], source: Path | Mapping[str, Any] | None, overrides: Overrides = ()) -> C:
    """Read settings, apply overrides and validate the result as `model`.

    Args:
        model: The class of the settings.
        source: A YAML file, a mapping of keys to values, or None for an empty mapping.
        overrides: `a.b=value` texts from the command line, or a mapping whose keys may be dotted.

    Raises:
        InputError: unreadable file, invalid YAML, unknown key, wrong type or value out of range.
    """
    data, lines = _read_yaml(source) if isinstance(source, Path) else (dict(source or {}), {})
    place: dict[str, str] = {}
    for key, line in lines.items():
        *parents, _ = key.split(".")
        place[".".join([*parents, _find_field(model, key)[1]])] = f"{source}:{line}: "
    data = _canonical(model, data, place)
    if isinstance(overrides, Mapping):
        for key, value in _flat(overrides):
            _set(model, data, key, value)
    else:
        for override in overrides:
            place[_apply_override(model, data, override)] = "command line: "
    return validate(model, data, place, str(source) if isinstance(source, Path) else "")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping by their dotted keys. An empty mapping is a leaf: it replaces a section."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def validate(model: type[C], data: Mapping[str, Any], place: Mapping[str, str], source: str = "") -> C:
    """Validate `data` as `model`; `place` maps dotted keys to a prefix such as `x.yaml:3: ` for errors."""
    for key, value in _flat(data):
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and _UNUSABLE.search(text):
                where = place.get(key, f"{source}: " if source else "")
                raise InputError(
                    f"{where}{key}: {text!r} has a null character or is not UTF-8 (rename or link the file)"
                )
    try:
        # The JSON entrance is the strict one that still reads a YAML list as a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise InputError(_explain(model, error, place, source)) from None


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file, and the line on which each dotted key stands."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise InputError(f"{path}: more than {MAX_YAML_BYTES:,} bytes, which is too large for settings")
        node, data = _parse_yaml(content.decode("utf-8"))
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


def _parse_yaml(text: str, loader: Any = _Loader) -> tuple[yaml.Node | None, Any]:
    """The nodes and the value of a YAML text.

    Raises:
        YAMLError: the text is not YAML, has a key twice, refers to itself, is nested too deeply, or has more than
            MAX_YAML_VALUES values. The aliases of a short text can stand for more values than memory can hold.
    """
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


def _apply_override(model: type[Config], data: dict[str, Any], override: str) -> str:
    """Write one `a.b=value` into `data`; returns the dotted key."""
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise InputError(f"command line: '{override}' is not of the form key=value")
    section, last = _find_field(model, dotted)
    field = section.model_fields.get(last)
    try:
        return _set(model, data, dotted, _parse(field.annotation, text) if field else text)
    except InputError as error:
        raise InputError(f"command line: {error}") from None


def _parse(annotation: Any, text: str) -> Any:
    """The value of a field that is given as text: YAML would turn `yes`, `#1` or `[old]` into something else."""
    kinds = list(_alternatives(annotation))
    if type(None) in kinds and text == "null":
        return None
    if any(_is_text(kind) for kind in kinds) and all(_is_text(kind) or kind is type(None) for kind in kinds):
        return text
    items = [argument for kind in kinds if typing.get_origin(kind) is tuple for argument in typing.get_args(kind)[:1]]
    of_text = any(_is_text(inner) for item in items for inner in _alternatives(item))
    try:
        value = _parse_yaml(text, yaml.BaseLoader if of_text else _Loader)[1]
    except yaml.YAMLError:
        value = text
    if of_text and not isinstance(value, list):
        return [text] if text else []
    return value


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types that `annotation` allows, without `Annotated` and unions."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield annotation


def _is_text(kind: Any) -> bool:
    literal = typing.get_origin(kind) is typing.Literal
    return kind is str or (literal and all(isinstance(value, str) for value in typing.get_args(kind)))


def _find_field(model: type[Config], dotted: str) -> tuple[type[Config], str]:
    """The class that declares the field with this dotted key, and the field's name there."""
    *parents, last = dotted.split(".")
    for parent in parents:
        model = sections(model).get(parent, Config)
    return model, _aliases(model).get(last, last)


def _set(model: type[Config], data: dict[str, Any], dotted: str, value: Any) -> str:
    """Write `value` into the nested mapping `data`; returns the dotted key without aliases."""
    parents = dotted.split(".")[:-1]
    section, last = _find_field(model, dotted)
    target = data
    for parent in parents:
        child = target.get(parent) or {}
        if not isinstance(child, dict):
            raise InputError(f"{dotted}: '{parent}' is not a section")
        target[parent] = target = dict(child)
    field = section.model_fields.get(last)
    for mark in field.metadata if field else ():
        if isinstance(mark, Supersedes) and value is not None:
            for name in mark.names or tuple(target):
                target.pop(name, None)
    target[last] = value
    return ".".join([*parents, last])


def sections(model: type[Config]) -> dict[str, type[Config]]:
    """The fields of `model` that are sections of their own, with the class of each."""
    return {
        name: kind
        for name, field in model.model_fields.items()
        for kind in _alternatives(field.annotation)
        if isinstance(kind, type) and issubclass(kind, Config)
    }


def _aliases(model: type[Config]) -> dict[str, str]:
    return {
        mark.name: name
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Alias)
    }


def _canonical(model: type[Config], data: dict[str, Any], place: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """`data` with aliases replaced by the names that stay, in every section."""
    aliases = _aliases(model)
    result: dict[str, Any] = {}
    for key, value in data.items():
        name = aliases.get(key, str(key))
        dotted = f"{prefix}{name}"
        if name in result:
            raise InputError(f"{place.get(dotted, '')}{dotted}: given twice, because {key} is another name for it")
        inner = sections(model).get(name, Config)
        result[name] = _canonical(inner, value, place, f"{dotted}.") if isinstance(value, dict) else value
    return result


def _explain(model: type[Config], error: ValidationError, place: Mapping[str, str], source: str) -> str:
    """One line per problem, the first three of them."""
    problems = []
    for item in error.errors():
        location = [part for part in item["loc"] if isinstance(part, str)]
        dotted = ".".join(location)
        where = next(
            (place[key] for key in (".".join(location[:n]) for n in range(len(location), 0, -1)) if key in place),
            f"{source}: " if source else "",
        )
        problems.append(f"{where}{dotted + ': ' if dotted else ''}{_problem(model, location, item)}")
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _problem(model: type[Config], location: list[str], item: Any) -> str:
    if item["type"] == "extra_forbidden":
        for part in location[:-1]:
            model = sections(model).get(part, Config)
        valid = list(model.model_fields)
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        return "unknown key; " + (f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(valid)}")
    if item["type"] == "missing":
        return "this key must be given"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message
    given = item.get("input")
    shown = f", not {given!r}" if isinstance(given, (str, int, float, bool)) or given is None else ""
    if item["type"] == "string_type":
        return f"must be text{shown}; write it in quotes"
    choices = re.findall(r"'([^']*)'", message) if item["type"] == "literal_error" else []
    near = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.5)
    return re.sub(r"^\w+ should ", "must ", message) + shown + (f"; did you mean '{near[0]}'?" if near else "")


@dataclass(frozen=True)
class Setting:
    """One key as `neolm config` prints it."""

    key: str
    type: str
    default: str
    unit: str
    meaning: str


def settings(model: type[Config], prefix: str = "") -> Iterator[Setting]:
    """Every key below `model`, depth first, in the order of declaration."""
    for name, field in model.model_fields.items():
        if name in sections(model):
            yield from settings(sections(model)[name], f"{prefix}{name}.")
            continue
        unit = next((mark.name for mark in field.metadata if isinstance(mark, Unit)), "")
        meaning = " ".join((field.description or "").split())
        yield Setting(f"{prefix}{name}", _type_name(field.annotation), _default(field), unit, meaning)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else json.dumps(value) if isinstance(value, (tuple, list, bool)) else str(value)


def _type_name(annotation: Any) -> str:
    names: list[str] = []
    for kind in _alternatives(annotation):
        arguments = typing.get_args(kind)
        if typing.get_origin(kind) is typing.Literal:
            names += map(str, arguments)
        elif typing.get_origin(kind) is tuple:
            names.append(f"list of {_type_name(arguments[0])}")
        else:
            names.append("null" if kind is type(None) else kind.__name__)
    return " | ".join(names)
