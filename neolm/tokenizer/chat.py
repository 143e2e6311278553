r"""Chat templates: the only code that turns a conversation into token ids.

A model directory can have its own template, as in Hugging Face models (Jinja, in `chat_template.jinja` or
`tokenizer_config.json`). Otherwise the template is plain text, for models that have only been pretrained:

    <|endoftext|>System: Be brief.
    User: Who are you?
    Assistant: A small model.
    User:

Each turn is encoded separately, so that earlier turns keep their ids when the conversation continues.
"""

from __future__ import annotations

import bisect
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from neolm.core.errors import InputError
from neolm.tokenizer.tokenizer import TEMPLATE_FILE, Tokenizer

STOP = ("\nUser:",)  # the answer ends where the model starts to write the user's next turn


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class ChatTemplate(Protocol):
    """Turns a conversation into token ids."""

    kind: Literal["plain", "own"]
    stop: tuple[str, ...]  # texts that end an answer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `messages` and the start of the assistant's next turn. Raises `InputError` for unfit roles."""
        ...


def without_oldest(
    template: ChatTemplate, messages: Sequence[Message], max_tokens: int
) -> tuple[list[Message], list[int]]:
    """Drop the oldest turns until at most `max_tokens` tokens are left, and return the messages and their ids.

    Messages before the first user turn (the system message) and the last turn are kept, even if they are longer.

    Raises:
        InputError: the template does not accept the messages.
    """
    starts = [number for number, message in enumerate(messages) if message.role == "user"] or [len(messages)]

    def left(dropped: int) -> list[Message]:
        return [*messages[: starts[0]], *messages[starts[dropped] :]]

    def fits(dropped: int) -> bool:
        return len(template.encode(left(dropped))) <= max_tokens

    dropped = bisect.bisect_left(range(len(starts) - 1), True, key=fits)
    return left(dropped), template.encode(left(dropped))


class PlainTemplate:
    """The template of models that have none of their own."""

    kind: Literal["plain", "own"] = "plain"
    stop: tuple[str, ...] = STOP

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See `ChatTemplate`. Roles may be in any order."""
        texts = []
        for number, message in enumerate(messages):
            after_user = number > 0 and messages[number - 1].role == "user"
            name = "" if message.role == "assistant" and after_user else f"{message.role.capitalize()}:"
            last = number + 1 == len(messages)
            opens = last or (message.role == "user" and messages[number + 1].role == "assistant")
            texts.append(f"{name} {message.text}\n{'Assistant:' if opens else ''}")
        turns = self._tokenizer.encode_batch(texts)
        return [self._tokenizer.eos_token_id, *(token for turn in turns for token in turn)]


class OwnTemplate:
    """The Jinja template of a model directory, rendered in Jinja's sandbox with the names that templates expect."""

    kind: Literal["plain", "own"] = "own"
    stop: tuple[str, ...] = ()

    def __init__(self, source: str, tokenizer: Tokenizer, special: dict[str, str], place: Path) -> None:
        """Compile `source`. `special` has tokens by the names that templates use, such as bos_token."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(reason: str) -> None:
            raise TemplateError(reason)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise InputError(f"{place}: the chat template cannot be read ({error})") from None
        self._tokenizer, self._special = tokenizer, special
        self._marks = tuple(token.content for token in tokenizer.backend.get_added_tokens_decoder().values())

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See `ChatTemplate`. Only the template can add special tokens; in a message they are plain text."""
        from jinja2 import TemplateError

        broken = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
        replaced: dict[str, str] = {}  # messages that spell a special token, by the placeholder that is rendered
        turns = []
        for message in messages:
            text = message.text
            if any(mark in text for mark in self._marks):
                placeholder = f"\ue000{secrets.token_hex(8)}\ue001"
                replaced[placeholder] = text
                text = placeholder
            turns.append({"role": message.role, "content": text})
        try:
            rendered = self._template.render(messages=turns, add_generation_prompt=True, **self._special)
        except broken as error:
            raise InputError(f"messages: the chat template of the model does not accept them ({error})") from None
        if not replaced:
            return self._tokenizer.encode(rendered, special=True)
        parts = re.split(f"({'|'.join(map(re.escape, replaced))})", rendered)
        encoded = [self._tokenizer.encode(replaced.get(part, part), special=part not in replaced) for part in parts]
        return [token for part in encoded for token in part]


def load_chat_template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a model directory, or the plain one if it has none. Raises `InputError` if it is broken."""
    config: Any = {}
    path = directory / "tokenizer_config.json"
    try:
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
        own = directory / TEMPLATE_FILE
        source = own.read_text(encoding="utf-8") if own.is_file() else config.get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if isinstance(source, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if not isinstance(source, str):
        return PlainTemplate(tokenizer)
    special = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        special[name] = token if isinstance(token, str) else ""
    return OwnTemplate(source, tokenizer, special, directory)
