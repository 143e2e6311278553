r"""Chat templates: the only code that turns a conversation into token ids.

A model directory can have its own template, as in Hugging Face models (Jinja, in `chat_template.jinja` or
`tokenizer_config.json`). Otherwise the template is plain text, for models that have only been pretrained:

    <|endoftext|>System: Be brief.
    User: Who are you?
    Assistant: A small model.
    User:

Each turn is encoded separately, so that earlier turns keep their ids when the conversation continues.

A model that is fine-tuned to conversations has a template of its own, if need be `DEFAULT_TEMPLATE`, which ends each
answer by the end of text. `OwnTemplate.encode_answers` tells which tokens of a conversation are answers.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from neolm.core.errors import InputError
from neolm.tokenizer.renderer import Renderer
from neolm.tokenizer.tokenizer import Tokenizer

STOP = ("\nUser:",)  # the answer ends where the model starts to write the user's next turn

DEFAULT_TEMPLATE = """\
{{- eos_token }}
{%- for message in messages %}
    {%- if message.role not in ("system", "user", "assistant") %}
        {{- raise_exception("there is no role " ~ message.role) }}
    {%- endif %}
    {{- message.role | capitalize ~ ":\\n" }}
    {%- if message.role == "assistant" %}
        {%- generation %}
            {{- message.content | trim ~ eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content | trim ~ "\\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "Assistant:\\n" }}
{%- endif %}
"""
"""The template of a model that was fine-tuned to conversations and whose base had none. It needs no new token, but
a value of `eos_token`: see `default_template`."""
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class EncodedConversation:
    """The token ids of a conversation, and of each whether it belongs to an answer, which a training learns."""

    ids: list[int]
    is_answer: list[bool]
    consistent: bool = True
    """Whether the text as a whole has the same ids: in a chat, that is how answers are read in later turns."""


def default_template(tokenizer: Tokenizer) -> str:
    """`DEFAULT_TEMPLATE`, with the end of text in it if the tokenizer's files do not name it as `eos_token`."""
    if "eos_token" in tokenizer.special_tokens:
        return DEFAULT_TEMPLATE
    return f"{{%- set eos_token = {json.dumps(tokenizer.eos_token)} %}}\n{DEFAULT_TEMPLATE}"


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

    See `drop_oldest`.

    Raises:
        InputError: the template does not accept the messages.
    """

    def fits(left: Sequence[Message]) -> bool:
        try:
            return len(template.encode(left, max_tokens)) <= max_tokens
        except TooLongError:
            return False

    left = drop_oldest(messages, fits)
    return left, template.encode(left)


def drop_oldest(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """The messages without as many of the oldest turns as must go until they fit.

    Messages before the first user turn (the system message) and the last turn are kept, even if they do not fit.
    """
    starts = [number for number, message in enumerate(messages) if message.role == "user"] or [len(messages)]

    def left(dropped: int) -> list[Message]:
        return [*messages[: starts[0]], *messages[starts[dropped] :]]

    return left(bisect.bisect_left(range(len(starts) - 1), True, key=lambda dropped: fits(left(dropped))))


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
        self._renderer, self._source = Renderer(source, place), source
        self._tokenizer = tokenizer
        self._marks = tuple(token.content for token in tokenizer.backend.get_added_tokens_decoder().values())

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """See `ChatTemplate`. Only the template can add special tokens; in a message they are plain text."""
        turns, replaced = self._turns(messages)
        return _parts(self._rendered(turns), replaced)

    def _turns(self, messages: Sequence[Message]) -> tuple[list[dict[str, str]], dict[str, str]]:
        """The variables of the messages; and the texts that spell a special token, by what is rendered for them."""
        replaced: dict[str, str] = {}
        turns = []
        for message in messages:
            text = message.text
            if any(mark in text for mark in self._marks):
                text = _placeholder()
                replaced[text] = message.text
            turns.append({"role": message.role, "content": text})
        return turns, replaced

    def _rendered(self, turns: Sequence[Mapping[str, str]], **variables: Any) -> str:
        return self._renderer.render(turns, {**self._tokenizer.special_tokens, **variables})

    def encode_answers(self, messages: Sequence[Message]) -> EncodedConversation:
        """A conversation that ends with an answer, and which of its tokens are to be learnt.

        These are what the template marks by `{% generation %}`. If it has no such mark: what it adds to the start of
        the assistant's turn when it renders the turn as a whole, with the token that ends it.

        Raises:
            InputError: the template refuses the messages, or renders earlier turns differently when others follow, so
                that the answers cannot be found.
        """
        turns, replaced = self._turns(messages)
        if _GENERATION.search(self._source):
            begin, end = _placeholder(), _placeholder()
            marks = {"generation_begin": begin, "generation_end": end}
            texts = re.split(f"{begin}|{end}", self._rendered(turns, add_generation_prompt=False, **marks))
        else:
            texts = self._by_difference(turns)
        parts = [_parts(text, replaced) for text in [*texts, "".join(texts)]]
        encoded = iter(_encode_parts(self._tokenizer, [part for each in parts for part in each]))
        *segments, whole = [[token for _ in each for token in next(encoded)] for each in parts]
        ids = [token for segment in segments for token in segment]  # each second segment is an answer
        answers = [number % 2 == 1 for number, segment in enumerate(segments) for _ in segment]
        return EncodedConversation(ids, answers, ids == whole)

    def _by_difference(self, turns: Sequence[Mapping[str, str]]) -> list[str]:
        """Texts of a conversation in turn: what is given, an answer, what is given, and so on."""
        whole = self._rendered(turns, add_generation_prompt=False)
        ends = [0]
        for number, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before = self._rendered(turns[:number])
            after = self._rendered(turns[: number + 1], add_generation_prompt=False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise InputError(
                    "messages: the chat template of the model renders earlier turns differently when others follow, so "
                    "that the answers cannot be told from the rest; mark them with {% generation %} in the template"
                )
            ends += [len(before), len(after)]
        return [whole[start:end] for start, end in itertools.pairwise([*ends, len(whole)])]

    def encode(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """See `ChatTemplate`."""
        return _encode(self._tokenizer, self.render(messages), max_tokens)

    def close(self) -> None:
        """Stop the process that renders."""
        self._renderer.close()


def _placeholder() -> str:
    return f"\ue000{secrets.token_hex(8)}\ue001"


def _parts(rendered: str, replaced: Mapping[str, str]) -> list[tuple[str, bool]]:
    """A rendered text in parts: the texts behind placeholders are plain, in the others special tokens are tokens."""
    if not replaced:
        return [(rendered, True)]
    parts = re.split(f"({'|'.join(map(re.escape, replaced))})", rendered)
    return [(replaced.get(part, part), part not in replaced) for part in parts]


def _encode(tokenizer: Tokenizer, parts: Sequence[tuple[str, bool]], max_tokens: int | None) -> list[int]:
    if max_tokens is not None and sum(tokenizer.min_tokens(text) for text, _ in parts) > max_tokens:
        raise TooLongError(f"messages: the conversation has more than {max_tokens} tokens")
    return [token for ids in _encode_parts(tokenizer, parts) for token in ids]


def _encode_parts(tokenizer: Tokenizer, parts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Token ids of each part."""
    texts = {kind: [text for text, special in parts if special is kind] for kind in (False, True)}
    encoded = {kind: iter(tokenizer.encode_batch(texts[kind], kind)) for kind in texts if texts[kind]}
    return [next(encoded[special]) for _, special in parts]
