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
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.model_files import LEGACY_TEMPLATE_FILE, NAMED_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from neolm.core.progress import say
from neolm.tokenizer.directory import read_text
from neolm.tokenizer.renderer import MAX_TEMPLATE_BYTES, Renderer
from neolm.tokenizer.tokenizer import Tokenizer

STOP = ("\nUser:",)  # the answer ends where the model starts to write the user's next turn


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class TooLongError(InputError):
    """A conversation has too many tokens; it was not encoded."""


class ChatTemplate(Protocol):
    """Turns a conversation into token ids."""

    kind: Literal["plain", "own"]
    stop: tuple[str, ...]  # texts that end an answer

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Texts that together are `messages` and the start of the assistant's next turn, each encoded separately.

        With True, special tokens in the text are tokens, otherwise plain text. Raises `InputError` for unfit roles.
        """
        ...

    def encode(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """Token ids of `render(messages)`; there may be more than `max_tokens`.

        Raises:
            TooLongError: there are more than `max_tokens`, as the size of the texts shows before they are encoded.
            InputError: as `render` does.
        """
        ...

    def close(self) -> None:
        """End the process that renders the template, if there is one."""
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
        try:
            return len(template.encode(left(dropped), max_tokens)) <= max_tokens
        except TooLongError:
            return False

    dropped = bisect.bisect_left(range(len(starts) - 1), True, key=fits)
    return left(dropped), template.encode(left(dropped))


class PlainTemplate:
    """The template of models that have none of their own."""

    kind: Literal["plain", "own"] = "plain"
    stop: tuple[str, ...] = STOP

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """See `ChatTemplate`. Roles may be in any order."""
        texts = []
        for number, message in enumerate(messages):
            after_user = number > 0 and messages[number - 1].role == "user"
            name = "" if message.role == "assistant" and after_user else f"{message.role.capitalize()}:"
            last = number + 1 == len(messages)
            opens = last or (message.role == "user" and messages[number + 1].role == "assistant")
            texts.append(f"{name} {message.text}\n{'Assistant:' if opens else ''}")
        return [(self._tokenizer.eos_token, True), *((text, False) for text in texts)]

    def encode(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """See `ChatTemplate`."""
        return [self._tokenizer.eos_token_id, *_encode(self._tokenizer, self.render(messages)[1:], max_tokens)]

    def close(self) -> None:
        """See `ChatTemplate`; there is nothing to close."""


class OwnTemplate:
    """The Jinja template of a model directory; see `neolm.tokenizer.renderer` for its limits."""

    kind: Literal["plain", "own"] = "own"
    stop: tuple[str, ...] = ()

    def __init__(self, source: str, tokenizer: Tokenizer, place: Path) -> None:
        """Compile `source`, which was read at `place`. Raises `InputError` if it is not a template."""
        self._renderer = Renderer(source, place)
        self._tokenizer = tokenizer
        self._marks = tuple(token.content for token in tokenizer.backend.get_added_tokens_decoder().values())

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """See `ChatTemplate`. Only the template can add special tokens; in a message they are plain text."""
        replaced: dict[str, str] = {}  # messages that spell a special token, by the placeholder that is rendered
        turns = []
        for message in messages:
            text = message.text
            if any(mark in text for mark in self._marks):
                placeholder = f"\ue000{secrets.token_hex(8)}\ue001"
                replaced[placeholder] = text
                text = placeholder
            turns.append({"role": message.role, "content": text})
        rendered = self._renderer.render(turns, self._tokenizer.special_tokens)
        if not replaced:
            return [(rendered, True)]
        parts = re.split(f"({'|'.join(map(re.escape, replaced))})", rendered)
        return [(replaced.get(part, part), part not in replaced) for part in parts]

    def encode(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """See `ChatTemplate`."""
        return _encode(self._tokenizer, self.render(messages), max_tokens)

    def close(self) -> None:
        """Stop the process that renders."""
        self._renderer.close()


def _encode(tokenizer: Tokenizer, parts: Sequence[tuple[str, bool]], max_tokens: int | None) -> list[int]:
    if max_tokens is not None and sum(tokenizer.min_tokens(text) for text, _ in parts) > max_tokens:
        raise TooLongError(f"messages: the conversation has more than {max_tokens} tokens")
    texts = {kind: [text for text, special in parts if special is kind] for kind in (False, True)}
    encoded = {kind: iter(tokenizer.encode_batch(texts[kind], kind)) for kind in texts if texts[kind]}
    return [token for _, special in parts for token in next(encoded[special])]


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
