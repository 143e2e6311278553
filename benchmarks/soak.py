"""Soak test of `neolm serve` with well and badly behaved clients: no leaks, crashes or wrong answers.

    python benchmarks/soak.py runs/quickstart/model --minutes 30 --docs docs/benchmarks.md
    python benchmarks/soak.py runs/quickstart/model --minutes 2 --attack --docs docs/benchmarks.md

Some clients request completions, streamed or not, and compare each greedy answer with the answer of an idle server.
Others disconnect early, send invalid bodies, prompts longer than the context or the largest body, request unknown
models, or read slowly. The server's memory is measured every five seconds. At the end, all blocks of the KV cache
must be free and no request may be left; memory may grow by at most `--growth` from the first tenth to the end, or from
the end of the first attack to the end of the second.

With `--attack`, another client with a key of its own attacks every second quarter of the time: with chats to a model
whose chat template loops, texts of 1 MB, bodies in tiny chunks, and 1,500 connections that send nothing, 75 of them new
in each second. The time of the honest clients' completions is compared with that in the other quarters.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import multiprocessing
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from report import command_line, publish, table
from workers import log

MODEL, HOSTILE = "soaked", "hostile"
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


def request(
    port: int, method: str, path: str, body: bytes | None, authorization: str, timeout: float
) -> tuple[int, bytes]:
    """Send a request over a new connection and return the status and body of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    headers = {"Authorization": authorization}
    try:
        connection.request(method, path, body, headers | {"Content-Type": "application/json"} if body else headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Server:
    """The server's process, and requests to it."""

    def __init__(self, models: list[str], options: list[str], key: str = "") -> None:
        command = [sys.executable, "-m", "neolm", "serve", *models, "--feedback", "off", "--port", "0", *options]
        self.authorization = f"Bearer {key}"
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
        return request(self.port, method, path, body, self.authorization, 300)

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
        self.seconds: dict[bool, list[float]] = {False: [], True: []}  # of completions, without and with the attack
        self.attacked = False  # whether the attack is on
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
        prompt, attacked, start = source.choice(PROMPTS), self.attacked, time.monotonic()
        status, answer = self.server.complete(prompt=prompt, max_tokens=40)
        if status == 429:
            return None
        if attacked == self.attacked:
            self.seconds[attacked].append(time.monotonic() - start)
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
        head += f"Authorization: {self.server.authorization}\r\n"
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


class Attack:
    """A hostile client. It has a process of its own, so that it delays no honest client."""

    def __init__(self, port: int, key: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._on, self._over, self._counts = context.Event(), context.Event(), context.Queue()
        arguments = (port, key, self._on, self._over, self._counts)
        self._process = context.Process(target=_Attackers.run, args=arguments, daemon=True)
        self._process.start()

    def set(self, on: bool) -> None:
        """Begin or interrupt the attack."""
        if on:
            self._on.set()
        else:
            self._on.clear()

    def stop(self) -> collections.Counter[str]:
        """End the attack and return the number of attempts of each kind."""
        self._over.set()
        done: collections.Counter[str] = self._counts.get(timeout=60)
        self._process.join()
        return done


class _Attackers:
    """The threads of a hostile client."""

    def __init__(self, port: int, key: str, on: Event, over: Event) -> None:
        self._port, self._key, self._on, self._over = port, f"Bearer {key}", on, over
        self.done: collections.Counter[str] = collections.Counter()
        chat = {"model": HOSTILE, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
        large = {"model": MODEL, "prompt": text, "max_tokens": 1}
        actions = [
            *[lambda: self._post("/v1/chat/completions", chat, 3.0)] * 6,
            *[lambda: self._post("/v1/completions", large | {"truncate_prompt_tokens": 9}, 30.0)] * 4,
            *[lambda: self._post("/v1/completions", large, 30.0)] * 2,
            self._chunks,
            self._connect,
        ]
        self.threads = [threading.Thread(target=self._repeat, args=(action,)) for action in actions]
        self._idle: collections.deque[socket.socket] = collections.deque()

    @staticmethod
    def run(port: int, key: str, on: Event, over: Event, counts: Any) -> None:
        """The main function of the process."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        attackers = _Attackers(port, key, on, over)
        for thread in attackers.threads:
            thread.start()
        for thread in attackers.threads:
            thread.join()
        counts.put(attackers.done)

    def _repeat(self, action: Callable[[], None]) -> None:
        while not self._over.is_set():
            if self._on.wait(0.2):
                try:
                    action()
                except (OSError, http.client.HTTPException):
                    self._over.wait(0.05)

    def _post(self, path: str, body: dict[str, Any], timeout: float) -> None:
        self.done["large texts" if "prompt" in body else "chats with a looping template"] += 1
        request(self._port, "POST", path, json.dumps(body).encode(), self._key, timeout)

    def _chunks(self) -> None:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.done["bodies in tiny chunks"] += 1
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
            connection.sendall(f"{head}Authorization: {self._key}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            connection.sendall(b"1\r\n \r\n" * 100_000)
            while connection.recv(65536):
                pass

    def _connect(self) -> None:
        self.done["idle connections"] += 1
        connection = socket.socket()
        self._idle.append(connection)
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self._port))
        if len(self._idle) > 1500:
            self._idle.popleft().close()
            self._over.wait(1 / 75)


def hostile_model(model: str, directory: Path) -> Path:
    """A link to each file of a model, with a chat template that loops."""
    directory.mkdir()
    for path in Path(model).iterdir():
        (directory / path.name).symlink_to(path.resolve())
    template = directory / "chat_template.jinja"
    template.unlink(missing_ok=True)
    template.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    return directory


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as temporary:
        soak(arguments, Path(temporary))


def soak(arguments: argparse.Namespace, temporary: Path) -> None:
    """Run the clients, and the attack, for the time of the arguments."""
    models, keys = [f"{MODEL}={arguments.model}"], ["", ""]
    # The KV cache takes memory as it is filled: a small one is full soon, and no growth of memory is due to it.
    options = ["--set", "text_memory=0.0625", *arguments.options]
    if arguments.attack:
        models.append(f"{HOSTILE}={hostile_model(arguments.model, temporary / HOSTILE)}")
        options += ["--keys", str(temporary / "keys.json")]
        command = [sys.executable, "-m", "neolm", "keys", "new", str(temporary / "keys.json")]
        keys = [
            subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout.strip()
            for name in ("honest", "attacker")
        ]
    server = Server(models, options, keys[0])
    attack = Attack(server.port, keys[1]) if arguments.attack else None
    attempts: collections.Counter[str] = collections.Counter()
    try:
        clients = Clients(server, expected_answers(server))
        blocks = server.metric("neolm_pages_free")
        end = time.monotonic() + 60 * arguments.minutes

        def client(number: int) -> None:
            source = random.Random(number)
            while time.monotonic() < end and server.process.poll() is None:
                clients.act(source)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        memory: list[int] = []
        while time.monotonic() < end and server.process.poll() is None:
            memory.append(server.memory())
            time.sleep(min(arguments.every, 15 * arguments.minutes))
            clients.attacked = attack is not None and int(4 * (time.monotonic() - begin) / (end - begin)) % 2 == 1
            if attack is not None:
                attack.set(clients.attacked)
        for thread in threads:
            thread.join()
        checks = final_checks(server, clients, blocks, memory, arguments)
    finally:
        if attack is not None:
            attempts = attack.stop()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=60)
    checks.append(("exit code after SIGTERM", str(code), code == 0))
    rows = [(name, shown, "yes" if good else "NO") for name, shown, good in checks]
    actions = ", ".join(f"{action} {count:,}" for action, count in clients.done.most_common())
    text = "\n\n".join(
        [
            f"{arguments.minutes:g} minutes, {arguments.clients} clients, "
            f"{clients.done.total():,} requests: {actions}.",
            *([attack_report(clients, attempts)] if attack is not None else []),
            table(("check", "measured", "passed"), rows),
            f"`{command_line('soak')}`",
        ]
    )
    publish(
        "soak under attack" if attack is not None else "soak",
        text,
        {"verdicts": rows, "memory": memory, "wrong": clients.wrong},
        arguments.output,
        arguments.docs,
    )
    for error_message in clients.wrong[:10]:
        log(error_message)
    sys.exit(0 if all(good for _, _, good in checks) else 1)


def attack_report(clients: Clients, attempts: collections.Counter[str]) -> str:
    """The attack, and the time of completions with and without it."""
    done = ", ".join(f"{count:,} {action}" for action, count in attempts.most_common())
    rows = [
        (name, f"{len(seconds):,}", *(f"{1e3 * value:.0f} ms" for value in (quantiles[9], quantiles[18])))
        for name, seconds in (("alone", clients.seconds[False]), ("under attack", clients.seconds[True]))
        if (quantiles := statistics.quantiles(seconds, n=20))
    ]
    ratio = statistics.median(clients.seconds[True]) / statistics.median(clients.seconds[False])
    head = (
        f"The attack, in two quarters of the time: {done}. Ratio of the medians of the honest completions: {ratio:.2f}."
    )
    return f"{head}\n\n{table(('honest completions', 'number', 'median', '95%'), rows)}"


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
    count = len(memory)
    if arguments.attack:  # the ends of its two quarters
        parts = [memory[3 * count // 8 : count // 2], memory[7 * count // 8 :]]
    else:
        parts = [memory[count // 20 : max(1, count // 10) + 1], memory[-max(1, count // 20) :]]
    first, last = map(statistics.median, parts)
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
            "memory, first and second attack" if arguments.attack else "memory, first tenth and end",
            f"{first / 2**20:.0f}, {last / 2**20:.0f} MiB",
            last < first * (1 + arguments.growth),
        ),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--attack", action="store_true", help="with a hostile client in two quarters of the time")
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
