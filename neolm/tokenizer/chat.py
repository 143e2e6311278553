r"""The chat template, here and nowhere else, so that every room gives a conversation the same token ids.

A model directory may bring its own, as those of Hugging Face do (Jinja, in `chat_template.jinja` or
`tokenizer_config.json`). Where there is none it is plain text, for models that have only been pretrained:

    <|endoftext|>System: Be brief.
    User: Who are you?
    Assistant: A small model.
    User:

Each turn is encoded on its own: what has been said keeps its ids when the conversation goes on.
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
from neolm.tokenizer.tokenizer import Tokenizer

STOP = ("\nUser:",)  # the model begins to speak for the user: its answer is over
TEMPLATE_FILE = "chat_template.jinja"
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class ChatTemplate(Protocol):
    """Gives a conversation its form."""

    kind: Literal["plain", "own"]
    stop: tuple[str, ...]  # texts that end an answer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `messages` and of what opens the assistant's next turn.

        Raises:
            InputError: the template does not take such a conversation.
        """
        ...


def without_oldest(template: ChatTemplate, messages: Sequence[Message], room: int) -> tuple[list[Message], list[int]]:
    """The conversation and its ids, without as many of the oldest turns as it takes to have at most `room` tokens.

    What comes before the first turn of the user's, a system message, stays, and so does the last turn, which may be
    longer by itself.

    Raises:
        InputError: as the template.
    """
    starts = [number for number, message in enumerate(messages) if message.role == "user"] or [len(messages)]

    def left(dropped: int) -> list[Message]:
        return [*messages[: starts[0]], *messages[starts[dropped] :]]

    def fits(dropped: int) -> bool:
        return len(template.encode(left(dropped))) <= room

    dropped = bisect.bisect_left(range(len(starts) - 1), True, key=fits)
    return left(dropped), template.encode(left(dropped))


class PlainTemplate:
    """The form of a conversation for models that have none of their own."""

    kind: Literal["plain", "own"] = "plain"
    stop: tuple[str, ...] = STOP

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See `ChatTemplate`; any order of roles will do."""
        pieces = []
        for number, message in enumerate(messages):
            after_user = number > 0 and messages[number - 1].role == "user"
            name = "" if message.role == "assistant" and after_user else f"{_NAMES[message.role]}:"
            last = number + 1 == len(messages)
            opens = last or (message.role == "user" and messages[number + 1].role == "assistant")
            pieces.append(f"{name} {message.text}\n{'Assistant:' if opens else ''}")
        turns = self._tokenizer.encode_batch(pieces)
        return [self._tokenizer.eos_token_id, *(token for turn in turns for token in turn)]


class OwnTemplate:
    """A model directory's template, run in Jinja's sandbox with the names that templates expect."""

    kind: Literal["plain", "own"] = "own"
    stop: tuple[str, ...] = ()

    def __init__(self, source: str, tokenizer: Tokenizer, special: dict[str, str], place: Path) -> None:
        """Compile `source`; `special` are tokens by the names that templates use, such as bos_token.

        Raises:
            InputError: it is not a template.
        """
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
            raise InputError(f"{place}: its chat template cannot be read ({error})") from None
        self._tokenizer, self._special = tokenizer, special
        self._marks = tuple(token.content for token in tokenizer.backend.get_added_tokens_decoder().values())

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See `ChatTemplate`. Special tokens are the template's to give: in a message they are plain text."""
        from jinja2 import TemplateError

        broken = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
        said: dict[str, str] = {}  # messages that spell a special token, by what stands for them meanwhile
        turns = []
        for message in messages:
            text = message.text
            if any(mark in text for mark in self._marks):
                place = f"\ue000{secrets.token_hex(8)}\ue001"
                said[place] = text
                text = place
            turns.append({"role": message.role, "content": text})
        try:
            rendered = self._template.render(messages=turns, add_generation_prompt=True, **self._special)
        except broken as error:
            raise InputError(f"messages: the model's chat template does not take them ({error})") from None
        if not said:
            return self._tokenizer.encode(rendered, special=True)
        parts = re.split(f"({'|'.join(map(re.escape, said))})", rendered)
        encoded = [self._tokenizer.encode(said.get(part, part), special=part not in said) for part in parts]
        return [token for part in encoded for token in part]


def load_chat_template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a model directory, or the plain one.

    Raises:
        InputError: it has one that cannot be read.
    """
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
