"""Feedback on answers, stored with people's consent: in SQLite, or in any database that SQLAlchemy supports."""

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
from neolm.serving.server.request_schema import NUMBER, ChatMessage, Shape, Text

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
    """An answer that is rated or compared."""

    model: Annotated[Text, Field(max_length=512)]
    """Name of the model."""
    text: Annotated[Text, Field(max_length=2**18)]
    """The answer."""
    settings: Annotated[dict[Key, Setting], Field(default_factory=dict, max_length=32)]
    """Sampling settings by name."""


class Feedback(Shape):
    """A rating of one answer, or a choice between two; nothing is stored without consent."""

    consent: Literal[True]
    """The person agrees that the feedback is stored."""
    kind: Literal["rating", "choice"]
    """A rating of one answer, or a choice between two."""
    mode: Literal["chat", "completion"]
    """Which of the two APIs gave the answers."""
    prompt: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)] | Text
    """The messages of a chat, or the text of a completion."""
    answers: Annotated[list[Answer], Field(min_length=1, max_length=2)]
    """One answer for a rating, two for a choice."""
    chosen: Annotated[int, Field(ge=0, le=1), NUMBER] | None = None
    """For a choice: index of the better answer; null: neither."""
    rating: Literal["up", "down"] | None = None
    """For a rating."""

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
    """Feedback was stored."""

    id: int
    """Its number in the database."""


_TIMEOUT = 5  # seconds for the database to answer
_MAX_WAITING = 16  # feedback that may wait for the database


class FeedbackError(NeoLMError):
    """The database cannot be used."""


def default_url() -> str:
    """URL of a SQLite file in the user's data directory."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return f"sqlite:///{Path(home) / 'neolm' / 'feedback.sqlite'}"


class FeedbackStore:
    """A table of a database, which is created when feedback is first stored."""

    def __init__(self, url: str) -> None:
        """Check the URL; nothing is opened. Raises `InputError`: it is invalid, or the driver is not installed."""
        try:
            self.url = sql.make_url(url)
            self.place = self.url.render_as_string(hide_password=True)
            self._file = _sqlite_file(self.url)
            pool = sql.NullPool if self._file else None  # a file may be deleted while it is not in use
            self._engine = sql.create_engine(
                self.url, poolclass=pool, pool_pre_ping=True, connect_args=_timeouts(self.url)
            )
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(
                f"feedback: '{_shown(url)}' is not a database that can be used ({_reason(error)}); "
                "sqlite:////path/to/file.sqlite is one, postgresql+psycopg://user@host/name another"
            ) from None
        self._creating = threading.Lock()
        # Separate threads, so that a database that does not answer delays feedback only.
        self._threads = ThreadPoolExecutor(2, "neolm-feedback")
        self._waiting = 0

    def save(self, feedback: Feedback, digests: Mapping[str, str], client: str) -> int:
        """Store feedback with the models' digests and return its number. Raises `FeedbackError` if that fails."""
        row = feedback.model_dump(exclude={"prompt": {"__all__": {"name"}}})
        row |= {"created": datetime.now(UTC), "client": client}
        for answer in row["answers"]:
            answer["digest"] = digests.get(answer["model"])
        try:
            self._create_table()
            with self._engine.begin() as connection:
                result = connection.execute(sql.insert(_table).values(**row))
                return int(result.inserted_primary_key[0])  # type: ignore[index]
        except (SQLAlchemyError, OSError) as error:
            raise FeedbackError(f"feedback: {self.place} does not accept it ({_reason(error)})") from error

    async def save_soon(self, feedback: Feedback, digests: Mapping[str, str], client: str) -> int:
        """Call `save` in a thread of the store. Raises `FeedbackError`: see `save`, or the database is too slow."""
        if self._waiting >= _MAX_WAITING:
            raise FeedbackError(f"feedback: {self.place} is slow; {self._waiting} are waiting already")
        self._waiting += 1
        saving = asyncio.get_running_loop().run_in_executor(self._threads, self.save, feedback, digests, client)
        saving.add_done_callback(self._done)
        try:
            async with asyncio.timeout(3 * _TIMEOUT):  # `wait_for` can lose a cancellation
                return await asyncio.shield(saving)
        except TimeoutError:
            raise FeedbackError(f"feedback: {self.place} does not answer") from None

    def _done(self, saving: asyncio.Future[int]) -> None:
        self._waiting -= 1
        if not saving.cancelled():
            saving.exception()  # retrieved, because the client may have disconnected

    def rows(self) -> Iterator[dict[str, Any]]:
        """All feedback, oldest first. Raises `InputError` if nothing is stored there."""
        if self._file is not None and not self._file.is_file():
            raise InputError(f"feedback: {self._file}: no such file; no feedback was stored there")
        try:
            with self._engine.connect() as connection:
                if not sql.inspect(connection).has_table(_table.name):
                    raise InputError(f"feedback: {self.place} has no table {_table.name}: no feedback was stored there")
                for row in connection.execute(sql.select(_table).order_by(_table.c.id)).mappings():
                    yield dict(row)
        except SQLAlchemyError as error:
            raise InputError(f"feedback: {self.place} cannot be read ({_reason(error)})") from None

    def close(self) -> None:
        """Close connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _create_table(self) -> None:
        """Create the table, and before it the file, if they do not exist."""
        with self._creating:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch(mode=0o600)  # not readable by other users
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
            try:
                _metadata.create_all(self._engine)
            except SQLAlchemyError:
                if not sql.inspect(self._engine).has_table(_table.name):  # another server created it meanwhile
                    raise


def _sqlite_file(url: sql.URL) -> Path | None:
    """The file of a SQLite database; None for other databases, and for one in memory."""
    database = url.database or ":memory:"
    is_file = url.get_backend_name() == "sqlite" and not database.startswith((":memory:", "file:"))
    return Path(database) if is_file else None


def _timeouts(url: sql.URL) -> dict[str, Any]:
    """The driver's arguments for timeouts, where they are known."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": _TIMEOUT}
    return {"connect_timeout": _TIMEOUT} if url.get_driver_name().startswith("psycopg") else {}


def _shown(url: str) -> str:
    """The URL without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0][:200]
