"""The chat template in the files of a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.model_files import LEGACY_TEMPLATE_FILE, NAMED_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from neolm.core.progress import say
from neolm.tokenizer.chat import ChatTemplate, OwnTemplate, PlainTemplate, default_template
from neolm.tokenizer.directory import read_text
from neolm.tokenizer.renderer import MAX_TEMPLATE_BYTES
from neolm.tokenizer.tokenizer import Tokenizer


def training_template(directory: Path, tokenizer: Tokenizer) -> tuple[OwnTemplate, str | None]:
    """The template of a model directory; or the default one, which is returned too, so that it can be written.

    Raises:
        InputError: a template is broken.
    """
    found = load_chat_template(directory, tokenizer)
    if isinstance(found, OwnTemplate):
        return found, None
    source = default_template(tokenizer)
    return OwnTemplate(source, tokenizer, directory / TEMPLATE_FILE), source


def load_chat_template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a model directory, or the plain one if it has none. Raises `InputError` if it is broken.

    The places are, in this order, `chat_template.jinja`, `chat_template` in `tokenizer_config.json` and in
    `chat_template.json`, and `additional_chat_templates/default.jinja`. Of several templates by name, it is `default`.
    """
    found = chat_templates(directory)
    if "default" in found:
        source, place = found["default"]
        return OwnTemplate(source, tokenizer, place)
    if found:
        say(f"{directory}: it has the chat templates {', '.join(sorted(found))}, but none named default; not used")
    return PlainTemplate(tokenizer)


def chat_templates(directory: Path) -> dict[str, tuple[str, Path]]:
    """The templates of a model directory by name, each with its file. Raises `InputError` if a file is broken."""
    found: dict[str, tuple[str, Path]] = {}
    for path in sorted(directory.glob(NAMED_TEMPLATES)):
        found[path.name.removesuffix(".jinja")] = (read_text(path, MAX_TEMPLATE_BYTES), path)
    for path in (directory / LEGACY_TEMPLATE_FILE, directory / TOKENIZER_CONFIG_FILE):
        if path.exists():
            named = _named(read_json(path).get("chat_template"), path)
            found |= {name: (source, path) for name, source in named.items()}
    path = directory / TEMPLATE_FILE
    if path.exists():
        found["default"] = (read_text(path, MAX_TEMPLATE_BYTES), path)
    return found


def _named(value: Any, path: Path) -> dict[str, str]:
    """The templates in a `chat_template`, which is one, or a list or an object of several by name."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in (*value, *value.values())):
        raise InputError(f"{path}: chat_template must be a text, or a list of objects with a name and a template")
    return dict(value)
