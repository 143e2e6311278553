"""API keys: a file of their hashes with limits, and who has used how much of them in the last minute.

A key is 256 random bits, so a plain SHA-256 of it can be kept: there is nothing to guess. The file is read again when
it changes; a key that is removed is refused from then on.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit, load_config
from neolm.core.errors import InputError
from neolm.core.files import storage_errors, write_json
from neolm.core.progress import say
from neolm.serving.server.failure import ApiError

_MARK = "nlm-"
Limit = Annotated[int, Field(ge=1)]


class KeyEntry(Config):
    """A key as the file has it."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s:]+$")]
    """Who has it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key."""
    requests_per_minute: Annotated[Limit, Unit("requests")] | None = None
    """Null: any number."""
    tokens_per_minute: Annotated[Limit, Unit("tokens")] | None = None
    """Of prompts and answers; null: any number."""


class KeyFile(Config):
    """All keys."""

    keys: tuple[KeyEntry, ...] = ()
    """One by one."""


def read_keys(path: Path) -> KeyFile:
    """The keys in a file.

    Raises:
        InputError: there is none, or it is not one of keys.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of keys; `neolm keys new {path} NAME` makes one")
    return load_config(KeyFile, path)


def new_key(path: Path, name: str, requests: int | None, tokens: int | None) -> str:
    """Add a key to the file, which is made if need be, and return it: it is told once, here.

    Raises:
        InputError: the name is taken.
        StorageError: the file cannot be written.
    """
    entries = read_keys(path).keys if path.exists() else ()
    if any(entry.name == name for entry in entries):
        raise InputError(f"{path}: there is a key named {name} already")
    key = _MARK + secrets.token_urlsafe(32)
    entry = KeyEntry(name=name, sha256=_hash(key), requests_per_minute=requests, tokens_per_minute=tokens)
    _write(path, (*entries, entry))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        InputError: it has none of that name.
    """
    entries = read_keys(path).keys
    kept = tuple(entry for entry in entries if entry.name != name)
    if len(kept) == len(entries):
        raise InputError(f"{path}: no key is named {name}")
    _write(path, kept)


def _write(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, KeyFile(keys=entries).model_dump())
        path.chmod(0o600)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class Allowance:
    """A bucket that holds a minute's worth and fills evenly; it may be overdrawn by what nobody knew before."""

    def __init__(self, a_minute: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = float(a_minute), clock
        self._left, self._then = self._most, clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is there, or a whole minute's worth if that is less."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._then) * self._most / 60)
        self._then = now
        return max(0.0, (min(amount, self._most) - self._left) * 60 / self._most)

    def take(self, amount: float) -> None:
        """Use some."""
        self._left -= amount


class Client:
    """Who asks, and how much they have left."""

    def __init__(self, entry: KeyEntry | None, clock: Callable[[], float]) -> None:
        self.name = entry.name if entry else "anyone"
        limits = (entry.requests_per_minute, entry.tokens_per_minute) if entry else (None, None)
        self._requests, self._tokens = (Allowance(limit, clock) if limit else None for limit in limits)

    def enter(self) -> None:
        """Count a request.

        Raises:
            ApiError: 429, too many of them.
        """
        if self._requests is None:
            return
        if (seconds := self._requests.wait(1)) > 0:
            raise ApiError(429, "this key has made its requests of a minute", None, "rate_limit_exceeded", seconds)
        self._requests.take(1)

    def reserve(self, tokens: int) -> None:
        """Use tokens that a request may need; `give_back` what it did not.

        Raises:
            ApiError: 429, too many of them.
        """
        if self._tokens is None:
            return
        if (seconds := self._tokens.wait(tokens)) > 0:
            raise ApiError(429, "this key has used its tokens of a minute", None, "rate_limit_exceeded", seconds)
        self._tokens.take(tokens)

    def give_back(self, tokens: int) -> None:
        """Tokens that were not used after all."""
        if self._tokens is not None:
            self._tokens.take(-tokens)


class KeyRing:
    """Who a key belongs to; without a file everybody is one client without limits."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys.

        Raises:
            InputError: as `read_keys`, or there is not one key in it.
        """
        self._path, self._clock = path, clock
        self._anyone = Client(None, clock)
        self._clients: dict[str, tuple[KeyEntry, Client]] = {}
        self._seen: tuple[int, int] | None = None
        self._trouble = ""  # what was wrong with the file and has been said
        if path is not None:
            self._read(path)
            if not self._clients:
                raise InputError(f"{path}: holds no key; `neolm keys new {path} NAME` makes one")

    @property
    def required(self) -> bool:
        """Whether a key is asked for."""
        return self._path is not None

    def client(self, authorization: str | None) -> Client:
        """Whose request this is, by its Authorization header.

        Raises:
            ApiError: 401, no key or none that is known.
        """
        if self._path is None:
            return self._anyone
        self._look_again(self._path)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "an API key is needed: Authorization: Bearer KEY", None, "invalid_api_key")
        found = self._clients.get(_hash(key.strip()))
        if found is None:
            raise ApiError(401, "this API key is not known here", None, "invalid_api_key")
        return found[1]

    def _look_again(self, path: Path) -> None:
        try:
            state = path.stat()
            seen = (state.st_mtime_ns, state.st_ino)
            if seen != self._seen and state.st_size:  # an empty one is being written
                self._seen = seen
                self._read(path)
        except (OSError, InputError) as error:  # what was read last holds
            if str(error) != self._trouble:
                say(f"serve: the keys are those read before: {error}")
            self._trouble = str(error)

    def _read(self, path: Path) -> None:
        state = path.stat() if path.exists() else None
        known = {}
        for entry in read_keys(path).keys:
            before = self._clients.get(entry.sha256)
            client = before[1] if before and before[0] == entry else Client(entry, self._clock)
            known[entry.sha256] = (entry, client)
        self._clients, self._trouble = known, ""
        self._seen = (state.st_mtime_ns, state.st_ino) if state else None
