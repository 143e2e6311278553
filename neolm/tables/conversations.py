"""Conversations in a table, in the forms that are in use; the columns tell which.

| form | columns |
|---|---|
| messages | `messages`: a list of objects with `role` and `content` |
| ShareGPT | `conversations`: a list of objects with `from` and `value`, and perhaps `system` |
| Alpaca | `instruction`, `input` (may be empty or missing) and `output`, and perhaps `history` and `system` |
| prompt | `prompt` and `completion` or `response` |
| tree | `prompt`: an object with `text`, `role` and `replies`, of which the best ranked are followed (OpenAssistant) |
| columns | any two columns that are named: what is given, and the answer |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from neolm.core.errors import InputError, shortened
from neolm.tables.inventory import normalised
from neolm.tables.questions import Places, counted, reasons
from neolm.tables.table import Row, Table

ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
LISTS = ("messages", "conversations")
ANSWERS = ("completion", "response")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """system, user or assistant."""
    text: str


@dataclass(frozen=True)
class Conversation:
    """The messages of a row, up to its last answer."""

    turns: tuple[Turn, ...]
    place: str
    """Where it is, for a message."""

    @property
    def key(self) -> str:
        """What is equal for conversations that differ only in case and white space."""
        return "\n".join(f"{turn.role} {normalised(turn.text)}" for turn in self.turns)


@dataclass(frozen=True)
class Conversations:
    """The conversations of a file."""

    path: Path
    form: str
    conversations: Sequence[Conversation]
    left_out: Mapping[str, Places] = field(default_factory=dict)
    shortened: Places | None = None
    """Conversations with messages after the last answer, which are not read."""

    def lines(self) -> list[str]:
        """What was read, for a person."""
        found, total = self.conversations, len(self.conversations)
        turns = sum(len(one.turns) for one in found)
        answers = sum(turn.role == "assistant" for one in found for turn in one.turns)
        words = sorted(len(turn.text.split()) for one in found for turn in one.turns if turn.role == "assistant")
        copies = total - len({one.key for one in found})
        lines = [
            f"{self.path}: {total:,} conversations ({self.form}) of {turns:,} messages, {answers:,} of them answers",
            f"words of an answer: median {words[(answers - 1) // 2]:,}, longest {words[-1]:,}",
            *reasons(self.left_out, "row"),
        ]
        if copies:
            lines.append(f"conversations that repeat an earlier one: {copies:,}")
        if self.shortened:
            lines.append(
                f"conversations with messages after the last answer, which are not read: {self.shortened.count:,} "
                f"(first: {self.shortened.first})"
            )
        return lines


def read_conversations(table: Table, source: str = "text", target: str = "label", prompt: str = "") -> Conversations:
    """The conversations of a table. Rows without an answer, or that cannot be used, are left out and counted.

    Args:
        table: An open table.
        source: Column of what is given, where the table has it; or a column of lists of messages.
        target: Column of the answer.
        prompt: Text that is put before what is given, where the columns `source` and `target` are read.

    Raises:
        InputError: the columns are of no known form, or no row can be used.
    """
    form, columns = _form(table, source, target)
    conversations: list[Conversation] = []
    left_out: dict[str, Places] = {}
    shorter: dict[str, Places] = {}
    for row in table.rows():
        place = f"{'row' if table.schema is not None else 'line'} {row.line}"
        try:
            if row.problem:
                raise InputError(row.problem)
            turns = _turns(row, form, columns, prompt)
            last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
            if last is None:
                raise InputError("there is no answer")
            _check(turns[: last + 1])
        except InputError as error:
            counted(left_out, str(error), place)
            continue
        if last + 1 < len(turns):
            counted(shorter, "", place)
        conversations.append(Conversation(tuple(turns[: last + 1]), f"{table.path}, {place}"))
    if not conversations:
        why = "; ".join(reasons(left_out, "row")) or "it has no rows"
        raise InputError(f"{table.path}: no row is a conversation with an answer; {why}")
    return Conversations(table.path, form, conversations, left_out, shorter.get(""))


def _form(table: Table, source: str, target: str) -> tuple[str, tuple[str, ...]]:
    """The form of a table, and its columns."""
    known = table.columns
    named = (source, target) != ("text", "label")
    if named and source not in LISTS and not (source in known and _has_lists(table, source)):
        return "columns", (table.column(source), table.column(target))
    if named or any(name in known for name in LISTS):
        return "messages", (table.column(source) if named else next(name for name in LISTS if name in known),)
    if {"instruction", "output"} <= {*known}:
        return "alpaca", ()
    if "prompt" in known:
        answer = next((name for name in ANSWERS if name in known), None)
        if answer is not None:
            return "prompt", ("prompt", answer)
        if any(isinstance(row.values.get("prompt"), dict) for row in table.rows()):
            return "tree", ("prompt",)
    if {source, target} <= {*known}:
        return "columns", (source, target)
    shown = ", ".join(known[:30])
    raise InputError(
        f"{table.path}: the columns ({shown}) are not those of conversations: messages; conversations; instruction and "
        "output; prompt and completion; or name two columns: --text-column for what is given, --label-column for the "
        "answer"
    )


def _has_lists(table: Table, column: str) -> bool:
    first = next((row.values.get(column) for row in table.rows() if row.values.get(column) is not None), None)
    return isinstance(first, list)


def _turns(row: Row, form: str, columns: Sequence[str], prompt: str) -> list[Turn]:
    """The messages of a row."""
    values = row.values
    if form == "messages":
        return [*_system(values), *_listed(values.get(columns[0]))]
    if form == "tree":
        return list(_path(values.get(columns[0])))
    if form == "alpaca":
        given = [text for name in ("instruction", "input") if (text := _optional(row, name)).strip()]
        earlier = [turn for pair in values.get("history") or [] for turn in _pair(pair)]
        return [*_system(values), *earlier, Turn("user", "\n".join(given)), Turn("assistant", row.text("output"))]
    before = prompt if form == "columns" else ""
    return [Turn("user", before + row.text(columns[0])), Turn("assistant", row.text(columns[1]))]


def _system(values: Mapping[str, Any]) -> list[Turn]:
    text = values.get("system")
    return [Turn("system", text)] if isinstance(text, str) and text.strip() else []


def _optional(row: Row, name: str) -> str:
    return "" if row.values.get(name) is None else row.text(name)


def _pair(pair: Any) -> list[Turn]:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise InputError("history is not a list of pairs of texts")
    return [Turn("user", pair[0]), Turn("assistant", pair[1])]


def _listed(value: Any) -> list[Turn]:
    """The messages of a list; in a CSV, it is JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError("the messages are not a list, nor JSON") from None
    if not isinstance(value, list) or not value:
        raise InputError("there is no list of messages")
    return [_message(item) for item in value]


def _message(item: Any) -> Turn:
    if not isinstance(item, dict):
        raise InputError("a message is not an object with role and content")
    role, text = item.get("role", item.get("from")), item.get("content", item.get("value", item.get("text")))
    if isinstance(text, list):  # parts, as in OpenAI's format
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in text):
            raise InputError("a part of a message is not text")
        text = "".join(part["text"] for part in text)
    name = ROLES.get(str(role).lower())
    if name is None:
        raise InputError(f"the role {shortened(role, 30)} is unknown; roles are {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise InputError(f"a message of the {name} has no text")
    return Turn(name, text)


def _path(node: Any) -> Iterator[Turn]:
    """The messages from the root of a tree on, each the best ranked reply to the one before."""
    while isinstance(node, dict):
        yield _message(node)
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict) and not reply.get("deleted")]
        node = min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0), default=None)


def _check(turns: Sequence[Turn]) -> None:
    """Raise `InputError` if a message is empty, or an answer has nothing before it."""
    for turn in turns:
        if not turn.text.strip():
            raise InputError(
                "the answer is empty" if turn.role == "assistant" else f"a message of the {turn.role} is empty"
            )
    if all(turn.role != "user" for turn in turns):
        raise InputError("there is no message of the user before the answer")
    if turns[0].role == "assistant" or any(turn.role == "system" for turn in turns[1:]):
        raise InputError("the order of the roles is not system, user, assistant, user, assistant, ...")
