"""API keys: a file of hashes with limits, and rate limiting of the clients.

A key has 256 random bits, so its plain SHA-256 is stored: it cannot be guessed. The file is read again when it changes;
a key that is removed is refused from then on.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from neolm.core.config import Config, Unit, load_config, validate
from neolm.core.errors import InputError
from neolm.core.files import storage_errors, write_json
from neolm.core.progress import say
from neolm.serving.server.errors import ApiError

_PREFIX = "nlm-"
Limit = Annotated[int, Field(ge=1)]


class KeyEntry(Config):
    """A key in the file."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s:]+$")]
    """Name of its owner."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key."""
    requests_per_minute: Annotated[Limit, Unit("requests")] | None = None
    """Limit of requests; null: none."""
    tokens_per_minute: Annotated[Limit, Unit("tokens")] | None = None
    """Limit of tokens of prompts and answers; null: none."""


class KeyFile(Config):
    """The contents of the file."""

    keys: tuple[KeyEntry, ...] = ()
    """The keys."""


def read_keys(path: Path) -> KeyFile:
    """Read a file of keys. Raises `InputError` if the file does not exist or is invalid."""
    if not path.exists():
        raise InputError(f"{path}: no such file of keys; `neolm keys new {path} NAME` makes one")
    return load_config(KeyFile, path)


def new_key(path: Path, name: str, requests: int | None, tokens: int | None) -> str:
    """Add a key to the file and return it; only its hash is stored. Raises `InputError` if the name is taken."""
    entries = read_keys(path).keys if path.exists() else ()
    if any(entry.name == name for entry in entries):
        raise InputError(f"{path}: a key named {name} exists already")
    key = _PREFIX + secrets.token_urlsafe(32)
    limits = {"requests_per_minute": requests, "tokens_per_minute": tokens}
    entry = validate(KeyEntry, {"name": name, "sha256": _hash(key), **limits}, {})
    _write(path, (*entries, entry))
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove a key from the file. Raises `InputError` if the file has no key of that name."""
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


class TokenBucket:
    """A rate limit, if there is one: the bucket holds one minute's worth and fills evenly. It may become negative."""

    def __init__(self, unit: str, per_minute: int | None, clock: Callable[[], float]) -> None:
        self._unit, self._capacity, self._clock = unit, per_minute, clock
        self.level, self._updated = float(per_minute or 0), clock()

    def spend(self, amount: int) -> None:
        """Take `amount`. Raises `ApiError` (429) until it is available, or the whole capacity if that is less."""
        if self._capacity is None:
            return
        now = self._clock()
        self.level = min(self._capacity, self.level + (now - self._updated) * self._capacity / 60)
        self._updated = now
        missing = min(amount, self._capacity) - self.level
        if missing > 0:
            problem = f"the limit of {self._unit} per minute of this key is reached"
            raise ApiError(429, problem, None, "rate_limit_exceeded", missing * 60 / self._capacity)
        self.level -= amount


class Client:
    """The owner of a key, with its rate limits; None: anyone, without limits."""

    def __init__(self, entry: KeyEntry | None, clock: Callable[[], float]) -> None:
        self.entry, self.name = entry, entry.name if entry else "anyone"
        self.cache_salt = entry.sha256 if entry else ""  # prefixes are shared among the requests of one key
        requests, tokens = (entry.requests_per_minute, entry.tokens_per_minute) if entry else (None, None)
        self.requests, self.tokens = TokenBucket("requests", requests, clock), TokenBucket("tokens", tokens, clock)


class KeyRing:
    """The clients by key; without a file all requests belong to one client without limits."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys. Raises `InputError`: see `read_keys`, or the file has no key."""
        self._path, self._clock = path, clock
        self.required = path is not None  # whether requests need a key
        self._anyone = Client(None, clock)
        self._clients: dict[str, Client] = {}
        self._file_state: tuple[int, ...] | None = None
        self._reported = ""  # the last problem with the file, which is reported once
        if path is not None:
            self._read(path)
            if not self._clients:
                raise InputError(f"{path}: contains no key; `neolm keys new {path} NAME` makes one")

    def client(self, authorization: str | None) -> Client:
        """The client of an Authorization header. Raises `ApiError` (401) if the key is missing or unknown."""
        if self._path is None:
            return self._anyone
        self._reload(self._path)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "an API key is required: Authorization: Bearer KEY", None, "invalid_api_key")
        client = self._clients.get(_hash(key.strip()))
        if client is None:
            raise ApiError(401, "this API key is unknown", None, "invalid_api_key")
        return client

    def _reload(self, path: Path) -> None:
        try:
            state = path.stat()
            current = (state.st_mtime_ns, state.st_ino, state.st_size)  # times are exact to 4 ms on Linux
            if current != self._file_state and state.st_size:  # an empty file is being written
                self._file_state = current
                self._read(path)
        except (OSError, InputError) as error:
            if str(error) != self._reported:
                say(f"serve: the file of keys cannot be read, the previous keys stay valid: {error}")
            self._reported = str(error)

    def _read(self, path: Path) -> None:
        clients = {}
        for entry in read_keys(path).keys:
            client = self._clients.get(entry.sha256)
            clients[entry.sha256] = client if client and client.entry == entry else Client(entry, self._clock)
        self._clients, self._reported = clients, ""
