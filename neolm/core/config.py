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
from neolm.core.yaml_file import parse_yaml, read_yaml


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
        """The fields of `without_effect` whose values differ from their defaults, here and in the sections within."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        found = {name: why for name, why in self.without_effect().items() if getattr(self, name) != defaults[name]}
        for name in defaults:
            if isinstance(inner := getattr(self, name), Config) and name not in found:
                found |= {f"{name}.{key}": why for key, why in inner.ignored().items()}
        return found


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


_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # lone surrogates: bytes of a file name that are not UTF-8


Overrides = Sequence[str] | Mapping[str, Any]


def load_config(
    model: type[C], source: Path | Mapping[str, Any] | None, overrides: Overrides = (), where: str = "command line: "
) -> C:
    """Read settings, apply overrides and validate the result as `model`.

    Args:
        model: The class of the settings.
        source: A YAML file, a mapping of keys to values, or None for an empty mapping.
        overrides: `a.b=value` texts from the command line, or a mapping whose keys may be dotted.
        where: Place of the texts, for error messages.

    Raises:
        InputError: unreadable file, invalid YAML, unknown key, wrong type or value out of range.
    """
    data, lines = read_yaml(source) if isinstance(source, Path) else (dict(source or {}), {})
    place: dict[str, str] = {}
    for key, line in lines.items():
        *parents, _ = key.split(".")
        place[".".join([*parents, _find_field(model, key)[1]])] = f"{source}:{line}: "
    data = _canonical(model, data, place)
    if isinstance(overrides, Mapping):
        for key, value in leaves(overrides):
            _set(model, data, key, value)
    else:
        for override in overrides:
            place[_apply_override(model, data, override, where)] = where
    return validate(model, data, place, str(source) if isinstance(source, Path) else "")


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping by their dotted keys. An empty mapping is a leaf: it replaces a section."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def validate(model: type[C], data: Mapping[str, Any], place: Mapping[str, str], source: str = "") -> C:
    """Validate `data` as `model`; `place` maps dotted keys to a prefix such as `x.yaml:3: ` for errors."""
    for key, value in leaves(data):
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


def _apply_override(model: type[Config], data: dict[str, Any], override: str, where: str) -> str:
    """Write one `a.b=value` into `data`; returns the dotted key."""
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise InputError(f"{where}'{override}' is not of the form key=value")
    section, last = _find_field(model, dotted)
    field = section.model_fields.get(last)
    try:
        return _set(model, data, dotted, _parse(field.annotation, text) if field else text)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


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
        value = parse_yaml(text, texts_only=of_text)[1]
    except yaml.YAMLError:
        value = text
    if of_text and not isinstance(value, list):
        return text if str in kinds else [text] if text else []
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


def _configs(annotation: Any) -> Iterator[type[Config]]:
    """The classes of settings in `annotation`, also those of the items of a list or mapping."""
    for kind in _alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, Config):
            yield kind
        for argument in typing.get_args(kind):
            yield from _configs(argument)


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


def defaults(config: Config) -> dict[str, Any]:
    """The default of each setting that has one, in the form of `config.model_dump()`."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, default = getattr(config, name), field.get_default(call_default_factory=True)
        if isinstance(value, Config):
            found[name] = defaults(value)
        elif not field.is_required():
            found[name] = default.model_dump() if isinstance(default, Config) else default
    return found


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
        # The number of an item of a list is part of the key if the item has keys.
        dotted = ".".join(
            str(part) for place, part in enumerate(item["loc"]) if isinstance(part, str) or item["loc"][place + 1 :]
        )
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
            if part in model.model_fields:  # otherwise it is a key of a mapping
                model = next(_configs(model.model_fields[part].annotation), Config)
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
