"""The ranks of a run that `torchrun` started: they meet, agree on what they run, and fail together.

`torchrun` gives each process its rank in the environment (RANK, WORLD_SIZE, MASTER_ADDR and others). The ranks meet at
a key-value store of rank 0. Rank 0 builds the stages that are not trainings while the others wait; all of them train.
A process group exists only while they train, so that what rank 0 does alone is the work of a single process.

Not supported: output directories that the ranks do not share.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from neolm.core.errors import InputError, NeoLMError
from neolm.core.progress import mute

T = TypeVar("T")
R = TypeVar("R")
POLL = 0.1  # seconds
HEARTBEAT = 2.0  # seconds between the signs of life of a rank
REPLY = 6.0  # seconds in which the store of rank 0 answers; more than `GRACE`
GRACE = 3.0  # seconds in which rank 0 may report the same error first


class LostRankError(NeoLMError):
    """A rank ended, or cannot be reached. What was saved stays valid."""


class Ranks:
    """This process among those of a run. The methods must be called by all ranks, in the same order."""

    def __init__(self, timeout: float = 600.0, environment: Mapping[str, str] = os.environ) -> None:
        """Meet the other ranks, which have `timeout` seconds to come; `environment` is what torchrun has set.

        Raises:
            InputError: the port is in use.
            LostRankError: ranks did not come in time; the message names them.
        """
        self.number, self.count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self._local = int(environment.get("LOCAL_RANK", "0"))
        self.timeout = timeout
        self._turn = self._told = 0
        self._ended = self.first
        """Whether rank 0 will tell nothing more."""
        host, port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
        serves = self.first and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun itself does
        limit = timedelta(seconds=timeout)
        try:
            store = TCPStore(host, int(port), is_master=serves, timeout=limit, wait_for_workers=False)
        except (dist.DistError, ValueError, RuntimeError) as error:
            if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
                raise InputError(
                    f"MASTER_PORT: {port} is in use by another program; choose another port, such as "
                    "torchrun --master-port 29501"
                ) from None
            raise LostRankError(f"rank 0 cannot be reached at {host}:{port}: {_first_line(error)}") from None
        # torchrun keeps its store when it starts the ranks again
        self._store = PrefixStore(f"start/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        self._store.set_timeout(limit)
        self._store.set(f"here/{self.number}", "1")
        missing = self._wait(lambda: [rank for rank in range(self.count) if not self._store.check([f"here/{rank}"])])
        if missing:
            raise LostRankError(f"{_names(missing)} of {self.count} did not come within {timeout:g} s")
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.number == 0

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send `message`, which must be JSON, from rank 0 to the others."""
        self._store.set(f"told/{self._told}", json.dumps(message))
        self._told += 1

    def heard(self) -> Iterator[dict[str, Any]]:
        """The messages of rank 0, until its run ends. There is no time limit: a stage of rank 0 may take days.

        Raises:
            SystemExit: the run of rank 0 failed; with its exit code.
            LostRankError: rank 0 ended.
        """
        while not self._ended:
            key = f"told/{self._told}"
            while not self._asked(lambda key=key: self._store.check([key])):  # type: ignore[misc]
                time.sleep(POLL)
            message = json.loads(self._asked(lambda key=key: self._store.get(key)))  # type: ignore[misc]
            self._told += 1
            if "exit" in message:
                self._ended = True
                if message["exit"]:
                    raise SystemExit(message["exit"])
                return
            yield message

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Check that all ranks run the same thing, described by the words and values of `facts`.

        Raises:
            InputError: a fact of a rank differs from that of rank 0; the message names both.
        """
        key, self._turn = f"turn/{self._turn}", self._turn + 1
        texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
        self._store.set(f"{key}/{self.number}", json.dumps(texts))
        for rank in range(1, self.count):
            first, other = (json.loads(self._asked(lambda r=r: self._store.get(f"{key}/{r}"))) for r in (0, rank))  # type: ignore[misc]
            different = [name for name in texts if first[name] != other[name]]
            if different:
                name = different[0]
                raise InputError(
                    f"rank {rank} has another {name} than rank 0: {_difference(first[name], other[name])}. "
                    "All ranks must run the same command with the same code"
                )

    @contextlib.contextmanager
    def connected(self, device: str, timeout: float = 600.0) -> Iterator[None]:
        """A process group of all ranks inside the `with` block: NCCL between GPUs, gloo between CPUs.

        `timeout` is how long a rank waits for another one, in seconds.

        Raises:
            LostRankError: a rank ended or stopped answering inside the block.
        """
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(self._local % max(torch.cuda.device_count(), 1))
        store = PrefixStore(f"group/{self._turn}", self._store)
        self._turn += 1
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=store,
                rank=self.number,
                world_size=self.count,
                timeout=timedelta(seconds=timeout),
            )
            yield
        except RuntimeError as error:
            if isinstance(error, NeoLMError) or not _is_lost_connection(error):
                raise
            raise LostRankError(self._describe_loss(error)) from error
        finally:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def map(self, compute: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item and what `compute` gives for it, in order and on every rank. See `RunRanks.map`.

        Item k is computed by rank k mod `count`. The results are exchanged after one item of each rank.

        Raises:
            NeoLMError: `compute` raised it on one of the ranks.
        """
        items = iter(items)
        while block := list(itertools.islice(items, self.count)):
            own: tuple[R | None, NeoLMError | None] = None, None
            if self.number < len(block):
                try:
                    own = compute(block[self.number]), None
                except NeoLMError as error:
                    own = None, error
            results: list[Any] = [None] * self.count
            failure = own[1] and (str(own[1]), own[1].exit_code)
            dist.all_gather_object(results, (own[0], failure))
            for failed in (failed for _, failed in results if failed is not None):
                raise own[1] or _error(*failed)
            yield from zip(block, [result for result, _ in results], strict=False)

    def reports(self, message: str) -> bool:
        """Whether this rank should print the error `message`: one rank prints an error that several have."""
        key = f"failure/{hashlib.sha256(message.encode()).hexdigest()}"

        def ask() -> bool:
            deadline = time.monotonic() + (0 if self.first else GRACE)
            while time.monotonic() < deadline and not self._store.check([key]):
                time.sleep(POLL)
            return bool(self._store.add(key, 1) == 1)

        return self._answered(ask, True)

    def close(self, code: int) -> None:
        """End with exit code `code`. Rank 0 waits for the others for a while, because its store lives as long as it."""
        self._stopped.set()

        def say_so() -> None:
            if self.first:
                self.tell({"exit": code})
            self._store.set(f"done/{self.number}", "1")
            if self.first:
                self._wait(lambda: [r for r in range(self.count) if not self._store.check([f"done/{r}"])], GRACE)

        self._answered(say_so, None)

    def _wait(self, missing: Callable[[], list[int]], timeout: float | None = None) -> list[int]:
        """The ranks that are still missing when none is, or when the time is over."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while (found := missing()) and time.monotonic() < deadline:
            time.sleep(POLL)
        return found

    def _answered(self, ask: Callable[[], T], otherwise: T) -> T:
        """The result of `ask`, or `otherwise` if the store of rank 0 has ended or does not answer in time.

        A call of the store that waits for a host that is cut off cannot be interrupted, so a thread makes it.
        """
        answers = list[T]()

        def call() -> None:
            with contextlib.suppress(dist.DistError, RuntimeError):
                answers.append(ask())

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(REPLY)
        return answers[0] if answers else otherwise

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (dist.DistError, RuntimeError) as error:
            raise LostRankError(f"rank 0 cannot be reached: {_first_line(error)}") from None

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(HEARTBEAT):
            count += 1
            try:
                self._store.set(f"beat/{self.number}", str(count))
            except (dist.DistError, RuntimeError):
                return

    def _describe_loss(self, error: Exception) -> str:
        """Name the ranks whose heartbeat stands still. The ranks' clocks are not compared."""

        def beats() -> dict[int, bytes]:
            others = [rank for rank in range(self.count) if rank != self.number]
            return {r: self._store.get(f"beat/{r}") if self._store.check([f"beat/{r}"]) else b"" for r in others}

        before = self._answered(beats, None)
        time.sleep(2.5 * HEARTBEAT if before else 0)
        after = self._answered(beats, None) if before else None
        lost = [0] if before is None or after is None else [r for r, beat in after.items() if beat == before[r]]
        who = f"{_names(lost)} ended or cannot be reached" if lost else "the connection to another rank was lost"
        return f"{who} ({_first_line(error)}). The same command resumes from the last checkpoint"


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other ranks. Only rank 0 prints progress, and an error that several ranks have is printed once."""
    if os.environ["RANK"] != "0":
        mute()
    ranks = Ranks()
    code = 1
    try:
        yield ranks
        for _ in ranks.heard():  # rank 0 may still fail
            pass
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
    except NeoLMError as error:
        code = error.exit_code
        if not ranks.reports(str(error)):
            raise SystemExit(error.exit_code) from None
        if not ranks.first:
            error.args = (f"rank {ranks.number}: {error}",)
        raise
    finally:
        ranks.close(code)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective operation failed because of another process; gloo raises plain RuntimeErrors."""
    words = ("gloo", "Connection closed", "Connection reset", "Timed out waiting", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _error(message: str, exit_code: int) -> NeoLMError:
    """The error of another rank."""
    error = NeoLMError(message)
    error.exit_code = exit_code
    return error


def _difference(first: str, other: str) -> str:
    """The first difference of two settings in JSON, or both values."""
    values = [json.loads(text) for text in (first, other)]
    path = ""
    while all(isinstance(value, dict) for value in values):
        name = next(key for key in sorted({*values[0], *values[1]}) if values[0].get(key) != values[1].get(key))
        path, values = f"{path}.{name}" if path else name, [value.get(name) for value in values]
    return f"{f'{path} is ' if path else ''}{values[1]!s:.60} instead of {values[0]!s:.60}"


def _names(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0][:200]
