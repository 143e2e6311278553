"""Leave `neolm serve` running under clients who behave in every way: nothing may leak, fall over or be wrong.

    python benchmarks/soak.py runs/quickstart/model --minutes 30 --docs docs/benchmarks.md

Some clients ask, whole or streamed, and compare each greedy answer with the one that they got alone in the beginning.
Others leave in the middle, send bodies that are none, prompts beyond the context or beyond the largest body, ask for
models that are not there, or read a few bytes a second. Every five seconds the server's memory is noted. In the end no
page may be lost and no request left over; memory may grow by no more than `--growth` from the first tenth to the end.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import command_line, publish, table
from workers import note

NAME = "soaked"
PROMPTS = [
    "import os\n",
    "def read(path):\n",
    "class Node:",
    "for i in range(10):\n    ",
    "x = {",
    "# The sea\n",
    '"""',
    "1 2 3",
]


class Server:
    """The process, and what is asked of it."""

    def __init__(self, model: str, options: list[str]) -> None:
        command = [
            sys.executable,
            "-m",
            "neolm",
            "serve",
            f"{NAME}={model}",
            "--feedback",
            "off",
            "--port",
            "0",
            *options,
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/ is the page", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server does not start")
        self.log: collections.Counter[str] = collections.Counter()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                event = json.loads(line)
                self.log[event["event"]] += 1
                if event["event"] == "failure":
                    note(line.strip())

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """An answer, whole."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, **body: Any) -> tuple[int, Any]:
        """A completion."""
        said = {"model": NAME, "temperature": 0, **body}
        status, raw = self.request("POST", "/v1/completions", json.dumps(said).encode())
        return status, json.loads(raw) if status == 200 else raw

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        page = self.request("GET", "/metrics")[1].decode()
        found = re.search(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def memory(self) -> int:
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * 4096


def right_answers(server: Server) -> dict[str, str]:
    """Greedy answers, asked alone."""
    return {prompt: server.complete(prompt=prompt, max_tokens=40)[1]["choices"][0]["text"] for prompt in PROMPTS}


class Clients:
    """What clients do, one of them at random each time; `wrong` are the answers that should not be."""

    def __init__(self, server: Server, right: dict[str, str]) -> None:
        self.server, self.right = server, right
        self.done: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._ways: list[tuple[int, Callable[[random.Random], str | None]]] = [
            (10, self._ask),
            (10, self._stream),
            (6, self._leave),
            (4, self._nonsense),
            (2, self._too_long),
            (1, self._too_large),
            (2, self._other_model),
            (1, self._read_slowly),
            (2, self._many),
        ]

    def act(self, source: random.Random) -> None:
        """Do one thing."""
        [(_, way)] = source.choices(self._ways, [weight for weight, _ in self._ways])
        try:
            complaint = way(source)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            complaint = f"{type(error).__name__}: {error}"
        self.done[way.__name__.strip("_").replace("_", " ")] += 1
        if complaint:
            self.wrong.append(f"{way.__name__}: {complaint}"[:300])

    def _ask(self, source: random.Random) -> str | None:
        prompt = source.choice(PROMPTS)
        status, answer = self.server.complete(prompt=prompt, max_tokens=40)
        if status == 429:
            return None
        right = status == 200 and answer["choices"][0]["text"] == self.right[prompt]
        return None if right else f"{status} {answer!r}"

    def _many(self, source: random.Random) -> str | None:
        prompts = source.sample(PROMPTS, 4)
        status, answer = self.server.complete(prompt=prompts, max_tokens=40, n=2)
        if status == 429:
            return None
        texts = [choice["text"] for choice in answer["choices"]] if status == 200 else []
        return None if texts == [self.right[prompt] for prompt in prompts for _ in range(2)] else f"{status} {answer!r}"

    def _stream(self, source: random.Random) -> str | None:
        prompt = source.choice(PROMPTS)
        body = {"model": NAME, "prompt": prompt, "max_tokens": 40, "temperature": 0, "stream": True}
        status, raw = self.server.request("POST", "/v1/completions", json.dumps(body).encode())
        if status == 429:
            return None
        lines = [line.removeprefix("data: ") for line in raw.decode().splitlines() if line.startswith("data: ")]
        text = "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])
        return None if lines[-1] == "[DONE]" and text == self.right[prompt] else f"{status} {raw[:200]!r}"

    def _open(self, body: dict[str, Any]) -> socket.socket:
        raw = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=300)
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return connection

    def _leave(self, source: random.Random) -> str | None:
        body = {"model": NAME, "prompt": source.choice(PROMPTS), "max_tokens": 200, "ignore_eos": True, "n": 2}
        with self._open(body | {"stream": source.random() < 0.7}) as connection:
            if source.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no farewell
            time.sleep(source.random() * 0.3)
        return None

    def _read_slowly(self, source: random.Random) -> str | None:
        body = {"model": NAME, "prompt": source.choice(PROMPTS), "max_tokens": 60, "ignore_eos": True, "stream": True}
        received = b""
        with self._open(body) as connection:
            while b"[DONE]" not in received:
                part = connection.recv(512)
                if not part:
                    return f"ended after {received[-200:]!r}"
                received += part
                if b"429" in received[:20]:
                    return None
                time.sleep(0.02)
        return None

    def _nonsense(self, source: random.Random) -> str | None:
        bodies = [
            *(b"", b"{", b"[" * 5000, b"\xff\xfe\x00", b'{"model": 5}', b"null", b'{"model": "soaked", "n": -1}'),
            *(json.dumps({"model": NAME, "temperature": "hot"}).encode(), source.randbytes(200)),
        ]
        status, raw = self.server.request("POST", "/v1/completions", source.choice(bodies))
        return None if status == 400 else f"{status} {raw[:200]!r}"

    def _too_long(self, source: random.Random) -> str | None:
        status, raw = self.server.complete(prompt="x y " * 30_000, max_tokens=1)
        return None if status == 400 and b"context" in raw else f"{status} {raw[:200]!r}"

    def _too_large(self, source: random.Random) -> str | None:
        try:
            status, raw = self.server.complete(prompt="x" * 3_000_000)
        except OSError:  # it hangs up while we are still sending
            return None
        return None if status == 413 else f"{status} {raw[:200]!r}"

    def _other_model(self, source: random.Random) -> str | None:
        status, raw = self.server.complete(model=f"none {source.random()}", prompt="x")
        return None if status == 404 else f"{status} {raw[:200]!r}"


def main() -> None:
    arguments = parse()
    server = Server(arguments.model, arguments.options)
    try:
        clients = Clients(server, right_answers(server))
        pages = server.metric("neolm_pages_free")
        end = time.monotonic() + 60 * arguments.minutes

        def client(number: int) -> None:
            source = random.Random(number)
            while time.monotonic() < end and server.process.poll() is None:
                clients.act(source)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
        for thread in threads:
            thread.start()
        memory: list[int] = []
        while any(thread.is_alive() for thread in threads) and server.process.poll() is None:
            memory.append(server.memory())
            time.sleep(arguments.every)
        for thread in threads:
            thread.join()
        verdicts = judge(server, clients, pages, memory, arguments)
    finally:
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=60)
    verdicts.append(("it ended by itself when told to", str(code), code == 0))
    rows = [(what, shown, "yes" if good else "NO") for what, shown, good in verdicts]
    did = ", ".join(f"{way} {count:,}" for way, count in clients.done.most_common())
    text = "\n\n".join(
        [
            f"{arguments.minutes:g} minutes, {arguments.clients} clients, {clients.done.total():,} requests: {did}.",
            table(("", "measured", "good"), rows),
            f"`{command_line('soak')}`",
        ]
    )
    publish(
        "soak", text, {"verdicts": rows, "memory": memory, "wrong": clients.wrong}, arguments.output, arguments.docs
    )
    for complaint in clients.wrong[:10]:
        note(complaint)
    sys.exit(0 if all(good for _, _, good in verdicts) else 1)


def judge(
    server: Server, clients: Clients, pages: float, memory: list[int], arguments: argparse.Namespace
) -> list[tuple[str, str, bool]]:
    """What should be so, what is, and whether that is good."""
    if server.process.poll() is not None:
        return [("the server lives", f"ended with {server.process.returncode}", False)]
    deadline = time.monotonic() + 60
    while server.metric("neolm_requests_running") + server.metric("neolm_requests_waiting") > 0:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    left = server.metric("neolm_requests_running") + server.metric("neolm_requests_waiting")
    again = right_answers(server)
    first = statistics.median(memory[len(memory) // 20 : max(1, len(memory) // 10) + 1])
    last = statistics.median(memory[-max(1, len(memory) // 20) :])
    free = server.metric("neolm_pages_free")
    return [
        ("answers that were wrong", str(len(clients.wrong)), not clients.wrong),
        ("failures in the log", str(server.log["failure"]), server.log["failure"] == 0),
        (
            "greedy answers afterwards",
            f"{sum(again[p] == clients.right[p] for p in PROMPTS)} of {len(PROMPTS)}",
            again == clients.right,
        ),
        ("requests left over", f"{left:.0f}", left == 0),
        ("pages free, before and after", f"{pages:.0f}, {free:.0f}", pages == free),
        (
            "memory, first tenth and end",
            f"{first / 2**20:.0f}, {last / 2**20:.0f} MiB",
            last < first * (1 + arguments.growth),
        ),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks at the memory (5)")
    parser.add_argument("--growth", type=float, default=0.05, help="of memory, as a share (0.05)")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of `neolm serve`, last")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
