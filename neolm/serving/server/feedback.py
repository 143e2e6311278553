"""What people say of answers, kept if they agree: in SQLite, or in any database that SQLAlchemy knows."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sql
from pydantic import Field, model_validator
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from neolm.core.errors import InputError, NeoLMError
from neolm.serving.server.schema import ChatMessage, Shape, Text

_metadata = sql.MetaData()
_table = sql.Table(
    "neolm_feedback",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("created", sql.DateTime(timezone=True), nullable=False),
    sql.Column("consent", sql.Boolean, nullable=False),
    sql.Column("kind", sql.String(16), nullable=False),  # rating, choice
    sql.Column("mode", sql.String(16), nullable=False),  # chat, completion
    sql.Column("prompt", sql.JSON, nullable=False),  # messages, or a text
    sql.Column("answers", sql.JSON, nullable=False),  # a list of model, digest, text, settings
    sql.Column("chosen", sql.Integer),  # of a choice: 0, 1, null for a tie
    sql.Column("rating", sql.String(8)),  # of a rating: up, down
    sql.Column("client", sql.String(64), nullable=False),  # the name of the key
)


Key = Annotated[Text, Field(max_length=64)]
Word = Annotated[Text, Field(max_length=256)]
Setting = Word | float | int | bool | None | Annotated[list[Word], Field(max_length=16)]


class Answer(Shape):
    """An answer that somebody judges."""

    model: Annotated[Text, Field(max_length=512)]
    text: Annotated[Text, Field(max_length=2**18)]
    settings: Annotated[dict[Key, Setting], Field(default_factory=dict, max_length=32)]


class Feedback(Shape):
    """A thumb on an answer, or a choice between two; nothing is kept without consent."""

    consent: Literal[True]
    kind: Literal["rating", "choice"]
    mode: Literal["chat", "completion"]
    prompt: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)] | Text
    answers: Annotated[list[Answer], Field(min_length=1, max_length=2)]
    chosen: Annotated[int, Field(ge=0, le=1)] | None = None
    """The better answer of a choice; null: neither."""
    rating: Literal["up", "down"] | None = None
    """Of a rating."""

    @model_validator(mode="after")
    def _complete(self) -> Feedback:
        if len(self.answers) != (2 if self.kind == "choice" else 1):
            raise ValueError("a rating is of one answer, a choice is between two")
        if (self.rating is None) == (self.kind == "rating") or (self.kind == "rating" and self.chosen is not None):
            raise ValueError("a rating has a rating (up or down), a choice has chosen (0, 1 or null)")
        if isinstance(self.prompt, str) == (self.mode == "chat"):
            raise ValueError("the prompt of a chat is a list of messages, that of a completion is a text")
        return self


class Kept(Shape):
    """Feedback is kept."""

    id: int


_PATIENCE = 5  # seconds for a database to answer
_WAITING = 16  # judgements that may wait for it


class FeedbackError(NeoLMError):
    """The database does not answer."""

    exit_code = 1


def default_url() -> str:
    """A file of this user's."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return f"sqlite:///{Path(home) / 'neolm' / 'feedback.sqlite'}"


class FeedbackStore:
    """A table of a database; made when something is kept for the first time."""

    def __init__(self, url: str) -> None:
        """Note where it is; nothing is opened yet.

        Raises:
            InputError: not a URL of a database that can be reached from here.
        """
        try:
            self.url = sql.make_url(url)
            self._engine = sql.create_engine(self.url, pool_pre_ping=True, connect_args=self._patience())
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(
                f"feedback: '{_shown(url)}' is not a database that can be used here ({_reason(error)}); "
                "sqlite:////path/to/file.sqlite is one, postgresql+psycopg://user@host/name another"
            ) from None
        self._ready: object = None  # what was prepared
        self._preparing = threading.Lock()
        # Threads of its own: a database that does not answer holds up nobody but feedback.
        self._threads = ThreadPoolExecutor(2, "neolm-feedback")
        self._waiting = 0

    def _patience(self) -> dict[str, Any]:
        """How long the driver waits, in its own words, where they are known."""
        if self.url.get_backend_name() == "sqlite":
            return {"timeout": _PATIENCE}
        return {"connect_timeout": _PATIENCE} if self.url.get_driver_name().startswith("psycopg") else {}

    @property
    def place(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def keep(self, feedback: Feedback, digests: Mapping[str, str], client: str) -> int:
        """Keep it, with the digests of the models that answered; returns its number.

        Raises:
            FeedbackError: the database does not take it.
        """
        answers = [answer.model_dump() | {"digest": digests.get(answer.model)} for answer in feedback.answers]
        prompt = feedback.prompt
        row = {
            "created": datetime.now(UTC),
            "consent": feedback.consent,
            "kind": feedback.kind,
            "mode": feedback.mode,
            "prompt": prompt if isinstance(prompt, str) else [message(turn.role, turn.content) for turn in prompt],
            "answers": answers,
            "chosen": feedback.chosen,
            "rating": feedback.rating,
            "client": client,
        }
        try:
            self._prepare()
            with self._engine.begin() as connection:
                result = connection.execute(sql.insert(_table).values(**row))
                return int(result.inserted_primary_key[0])  # type: ignore[index]
        except (SQLAlchemyError, OSError) as error:
            raise FeedbackError(f"feedback: {self.place} does not take it ({_reason(error)})") from error

    async def keep_soon(self, feedback: Feedback, digests: Mapping[str, str], client: str) -> int:
        """`keep` in a thread of the store's own.

        Raises:
            FeedbackError: as `keep`, or the database takes too long.
        """
        if self._waiting >= _WAITING:
            raise FeedbackError(f"feedback: {self.place} is slow; {self._waiting} wait already")
        self._waiting += 1
        kept = asyncio.get_running_loop().run_in_executor(self._threads, self.keep, feedback, digests, client)
        kept.add_done_callback(self._one_less)
        try:
            return await asyncio.wait_for(asyncio.shield(kept), 3 * _PATIENCE)
        except TimeoutError:
            raise FeedbackError(f"feedback: {self.place} does not answer") from None

    def _one_less(self, kept: asyncio.Future[int]) -> None:
        self._waiting -= 1
        if not kept.cancelled():
            kept.exception()  # whoever asked may have left

    def rows(self) -> Iterator[dict[str, Any]]:
        """All that is kept, in its order.

        Raises:
            InputError: there is nothing of the kind.
        """
        if self._file is not None and not self._file.is_file():
            raise InputError(f"feedback: {self._file}: no such file; nothing was kept there")
        try:
            with self._engine.connect() as connection:
                if not sql.inspect(connection).has_table(_table.name):
                    raise InputError(f"feedback: {self.place} has no table {_table.name}: nothing was kept there")
                for row in connection.execute(sql.select(_table).order_by(_table.c.id)).mappings():
                    yield dict(row)
        except SQLAlchemyError as error:
            raise InputError(f"feedback: {self.place} cannot be read ({_reason(error)})") from None

    def close(self) -> None:
        """Let go of connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _prepare(self) -> None:
        with self._preparing:
            if self._ready is None or self._ready != self._there():
                self._engine.dispose()  # connections to a file that is no longer there
                self._make()
                self._ready = self._there()

    @property
    def _file(self) -> Path | None:
        """Where SQLite's database lies; None for all others, and for one in memory."""
        database = self.url.database or ":memory:"
        own = self.url.get_backend_name() == "sqlite" and not database.startswith((":memory:", "file:"))
        return Path(database) if own else None

    def _there(self) -> object:
        """Which file it is now, None if it is gone; the URL where it is no file."""
        if self._file is None:
            return self.url
        try:
            state = self._file.stat()
        except FileNotFoundError:
            return None
        return state.st_dev, state.st_ino

    def _make(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)  # what people wrote is not for everybody on the machine
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
        try:
            _metadata.create_all(self._engine)
        except SQLAlchemyError:
            if not sql.inspect(self._engine).has_table(_table.name):  # else another server was faster
                raise


def message(role: str, content: Any) -> dict[str, str]:
    """One turn as it is kept and exported."""
    return {"role": role, "content": content}


def _shown(url: str) -> str:
    """The URL, whose password nobody needs to see."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0][:200]
