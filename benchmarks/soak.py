"""Soak test of `neolm serve` with well and badly behaved clients: no leaks, crashes or wrong answers.

    python benchmarks/soak.py runs/quickstart/model --minutes 30 --docs docs/benchmarks.md

Some clients request completions, streamed or not, and compare each greedy answer with the answer of an idle server.
Others disconnect early, send invalid bodies, prompts longer than the context or the largest body, request unknown
models, or read slowly. The server's memory is measured every five seconds. At the end, all blocks of the KV cache
must be free and no request may be left; memory may grow by at most `--growth` from the first tenth to the end.
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
from workers import log

MODEL = "soaked"
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
    """The server's process, and requests to it."""

    def __init__(self, model: str, options: list[str]) -> None:
        command = [
            sys.executable,
            "-m",
            "neolm",
            "serve",
            f"{MODEL}={model}",
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
            raise SystemExit("the server did not start")
        self.log: collections.Counter[str] = collections.Counter()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                event = json.loads(line)
                self.log[event["event"]] += 1
                if event["event"] == "failure":
                    log(line.strip())

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request and return the status and body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, **body: Any) -> tuple[int, Any]:
        """Request a completion; return the status, and the JSON or the raw body of an error."""
        fields = {"model": MODEL, "temperature": 0, **body}
        status, raw = self.request("POST", "/v1/completions", json.dumps(fields).encode())
        return status, json.loads(raw) if status == 200 else raw

    def metric(self, name: str) -> float:
        """Return the value of one metric of /metrics."""
        text = self.request("GET", "/metrics")[1].decode()
        found = re.search(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def memory(self) -> int:
        """Resident memory in bytes."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * 4096


def expected_answers(server: Server) -> dict[str, str]:
    """Return the greedy answers, requested one at a time."""
    return {prompt: server.complete(prompt=prompt, max_tokens=40)[1]["choices"][0]["text"] for prompt in PROMPTS}


class Clients:
    """Random actions of clients. `wrong` collects unexpected answers."""

    def __init__(self, server: Server, expected: dict[str, str]) -> None:
        self.server, self.expected = server, expected
        self.done: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._actions: list[tuple[int, Callable[[random.Random], str | None]]] = [
            (10, self._complete),
            (10, self._stream),
            (6, self._disconnect),
            (4, self._invalid_body),
            (2, self._too_long),
            (1, self._too_large),
            (2, self._unknown_model),
            (1, self._read_slowly),
            (2, self._many),
        ]

    def act(self, source: random.Random) -> None:
        """Perform one random action."""
        [(_, action)] = source.choices(self._actions, [weight for weight, _ in self._actions])
        try:
            error_message = action(source)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            error_message = f"{type(error).__name__}: {error}"
        self.done[action.__name__.strip("_").replace("_", " ")] += 1
        if error_message:
            self.wrong.append(f"{action.__name__}: {error_message}"[:300])

    def _complete(self, source: random.Random) -> str | None:
        prompt = source.choice(PROMPTS)
        status, answer = self.server.complete(prompt=prompt, max_tokens=40)
        if status == 429:
            return None
        correct = status == 200 and answer["choices"][0]["text"] == self.expected[prompt]
        return None if correct else f"{status} {answer!r}"

    def _many(self, source: random.Random) -> str | None:
        prompts = source.sample(PROMPTS, 4)
        status, answer = self.server.complete(prompt=prompts, max_tokens=40, n=2)
        if status == 429:
            return None
        texts = [choice["text"] for choice in answer["choices"]] if status == 200 else []
        return (
            None if texts == [self.expected[prompt] for prompt in prompts for _ in range(2)] else f"{status} {answer!r}"
        )

    def _stream(self, source: random.Random) -> str | None:
        prompt = source.choice(PROMPTS)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 40, "temperature": 0, "stream": True}
        status, raw = self.server.request("POST", "/v1/completions", json.dumps(body).encode())
        if status == 429:
            return None
        lines = [line.removeprefix("data: ") for line in raw.decode().splitlines() if line.startswith("data: ")]
        text = "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])
        return None if lines[-1] == "[DONE]" and text == self.expected[prompt] else f"{status} {raw[:200]!r}"

    def _open(self, body: dict[str, Any]) -> socket.socket:
        raw = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=300)
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return connection

    def _disconnect(self, source: random.Random) -> str | None:
        body = {"model": MODEL, "prompt": source.choice(PROMPTS), "max_tokens": 200, "ignore_eos": True, "n": 2}
        with self._open(body | {"stream": source.random() < 0.7}) as connection:
            if source.random() < 0.5:
                # A reset instead of a normal close.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            time.sleep(source.random() * 0.3)
        return None

    def _read_slowly(self, source: random.Random) -> str | None:
        body = {"model": MODEL, "prompt": source.choice(PROMPTS), "max_tokens": 60, "ignore_eos": True, "stream": True}
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

    def _invalid_body(self, source: random.Random) -> str | None:
        bodies = [
            *(b"", b"{", b"[" * 5000, b"\xff\xfe\x00", b'{"model": 5}', b"null", b'{"model": "soaked", "n": -1}'),
            *(json.dumps({"model": MODEL, "temperature": "hot"}).encode(), source.randbytes(200)),
        ]
        status, raw = self.server.request("POST", "/v1/completions", source.choice(bodies))
        return None if status == 400 else f"{status} {raw[:200]!r}"

    def _too_long(self, source: random.Random) -> str | None:
        status, raw = self.server.complete(prompt="x y " * 30_000, max_tokens=1)
        return None if status == 400 and b"context" in raw else f"{status} {raw[:200]!r}"

    def _too_large(self, source: random.Random) -> str | None:
        try:
            status, raw = self.server.complete(prompt="x" * 3_000_000)
        except OSError:  # the server closes the connection during the upload
            return None
        return None if status == 413 else f"{status} {raw[:200]!r}"

    def _unknown_model(self, source: random.Random) -> str | None:
        status, raw = self.server.complete(model=f"none {source.random()}", prompt="x")
        return None if status == 404 else f"{status} {raw[:200]!r}"


def main() -> None:
    arguments = parse()
    server = Server(arguments.model, arguments.options)
    try:
        clients = Clients(server, expected_answers(server))
        blocks = server.metric("neolm_pages_free")
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
        checks = final_checks(server, clients, blocks, memory, arguments)
    finally:
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=60)
    checks.append(("exit code after SIGTERM", str(code), code == 0))
    rows = [(name, shown, "yes" if good else "NO") for name, shown, good in checks]
    actions = ", ".join(f"{action} {count:,}" for action, count in clients.done.most_common())
    text = "\n\n".join(
        [
            f"{arguments.minutes:g} minutes, {arguments.clients} clients, "
            f"{clients.done.total():,} requests: {actions}.",
            table(("check", "measured", "passed"), rows),
            f"`{command_line('soak')}`",
        ]
    )
    publish(
        "soak", text, {"verdicts": rows, "memory": memory, "wrong": clients.wrong}, arguments.output, arguments.docs
    )
    for error_message in clients.wrong[:10]:
        log(error_message)
    sys.exit(0 if all(good for _, _, good in checks) else 1)


def final_checks(
    server: Server, clients: Clients, free_blocks: float, memory: list[int], arguments: argparse.Namespace
) -> list[tuple[str, str, bool]]:
    """Return the name of each check, the measured value, and whether the check passed."""
    if server.process.poll() is not None:
        return [("the server is running", f"exit code {server.process.returncode}", False)]
    deadline = time.monotonic() + 60
    while server.metric("neolm_requests_running") + server.metric("neolm_requests_waiting") > 0:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    left = server.metric("neolm_requests_running") + server.metric("neolm_requests_waiting")
    again = expected_answers(server)
    first = statistics.median(memory[len(memory) // 20 : max(1, len(memory) // 10) + 1])
    last = statistics.median(memory[-max(1, len(memory) // 20) :])
    free = server.metric("neolm_pages_free")
    return [
        ("wrong answers", str(len(clients.wrong)), not clients.wrong),
        ("failures in the log", str(server.log["failure"]), server.log["failure"] == 0),
        (
            "correct greedy answers at the end",
            f"{sum(again[p] == clients.expected[p] for p in PROMPTS)} of {len(PROMPTS)}",
            again == clients.expected,
        ),
        ("requests left", f"{left:.0f}", left == 0),
        ("free blocks, before and after", f"{free_blocks:.0f}, {free:.0f}", free_blocks == free),
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
    parser.add_argument("--every", type=float, default=5.0, help="seconds between measurements of memory (5)")
    parser.add_argument("--growth", type=float, default=0.05, help="largest relative growth of memory (0.05)")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="further options of `neolm serve`; must come last"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
