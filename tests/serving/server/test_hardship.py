"""Clients, files and databases that misbehave do not affect other requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from neolm.serving.server import connection, keys
from neolm.serving.server.keys import new_key, read_keys
from neolm.serving.server.wire import AnswerResponse

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Start = Callable[..., Any]
Write = Callable[..., Path]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30)


def request(body: dict[str, Any]) -> bytes:
    raw = json.dumps(body)
    return f"{HEAD}Content-Length: {len(raw)}\r\n\r\n{raw}".encode()


def test_a_client_that_never_reads_is_disconnected(tmp_path: Path, start: Start, write: Write) -> None:
    places = [str(write(tmp_path / name, context=4096)) for name in ("a", "b")]
    with start(places, memory=0.02, body_seconds=0.5, feedback="off", max_tokens=4096) as server:
        server.ask(model="a", prompt="x", max_tokens=1)
        body = {"model": "a", "prompt": "x", "n": 4, "logprobs": 20, "stream": True}
        with connect(server) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.sendall(request(body | {"max_tokens": 4000, "ignore_eos": True}))
            until(lambda: server.service.pool.models["a"].engine.num_running > 0)
            assert server.ask(model="b", prompt="x", max_tokens=1)["choices"]  # which needs the memory of a
            until(lambda: server.service.pool.slots["a"].num_requests == 0)


def test_a_client_that_disconnects_at_once_is_cancelled_and_logged(
    tmp_path: Path, start: Start, write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    with start([str(write(tmp_path / "long", context=4096))], feedback="off") as server:
        server.ask(model="long", prompt="x", max_tokens=1)
        body = {"model": "long", "prompt": "x", "max_tokens": 4000, "ignore_eos": True}
        registry = server.service.metrics.registry

        def leave(data: bytes, path: str, count: int) -> None:
            with connect(server) as leaving:
                leaving.sendall(data)
                leaving.shutdown(socket.SHUT_WR)
                assert leaving.recv(1) == b""
            labels = {"method": "POST", "path": path, "status": "499"}
            until(lambda: registry.get_sample_value("neolm_requests_total", labels) == count)

        for number in range(1, 6):
            leave(request(body), "/v1/completions", number)
        leave(request(body)[:-9], "other", 1)  # in the middle of the body, before the route is known
        assert server.service.pool.slots["long"].num_requests == 0
    log = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [(entry["event"], entry["status"]) for entry in log] == [("request", 200)] + [("request", 499)] * 6
    assert all(entry["completion_tokens"] < 1000 for entry in log[:6])


def status(one: socket.socket, raw: bytes = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") -> int:
    """Send a request on an open connection, and read the answer to its end."""
    one.sendall(raw)
    head, _, body = one.recv(65536).partition(b"\r\n\r\n")
    while len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
        body += one.recv(65536)
    return int(head.split()[1])


def test_idle_connections_are_closed_after_a_while(
    directory: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 1.0)
    with start([str(directory)], feedback="off") as server:
        idle = [connect(server) for _ in range(4)]
        for one in idle[:2]:
            one.sendall(HEAD.encode()[:30])
        for one in idle:
            assert one.recv(1) == b""
            one.close()
        with connect(server) as slow:  # other timeouts apply after the headers
            head, _, body = request({"model": "tiny", "prompt": "x", "max_tokens": 1}).partition(b"\r\n\r\n")
            slow.sendall(head + b"\r\n\r\n")
            time.sleep(1.5)
            slow.sendall(body)
            assert slow.recv(12) == b"HTTP/1.1 200"
        with connect(server) as again:  # the timeout starts again with each request of a connection
            for _ in range(4):
                assert status(again) == 200
                time.sleep(0.4)


def closed(one: socket.socket) -> bool:
    """Whether the server closed the connection, now or before the timeout."""
    with contextlib.suppress(ConnectionResetError):
        while one.recv(65536):
            pass
    return True


def test_connections_that_wait_for_their_clients_keep_nobody_out(directory: Path, tmp_path: Path, start: Start) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "alice", None, None)
    settings = {"keys": str(file), "connections": 20, "feedback": "off"}
    with start([str(directory)], key=key, **settings) as server, contextlib.ExitStack() as opened:
        body = json.dumps({"model": "tiny", "prompt": "the sea", "max_tokens": 3})
        whole = f"{HEAD}Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        mine = opened.enter_context(connect(server))
        for part in (b"", whole[:40], b"GET / HTTP/1.1\r\n", whole[:-5]):  # nothing, half a head, most of a body
            assert status(mine, whole) == 200  # connections without a key are closed first
            held = [opened.enter_context(connect(server)) for _ in range(50)]
            for one in held:
                with contextlib.suppress(OSError):
                    one.sendall(part)
            for path in ("/health", "/v1/models") * 3:
                answer = httpx.get(server.url + path, headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code == 200, answer.text
            assert all(map(closed, held[:20]))


def test_a_request_that_was_sent_is_answered_though_many_connect_before_it_is_read(
    directory: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = []
    original = connection.Connection.connection_made

    def connection_made(self: connection.Connection, transport: asyncio.Transport) -> None:
        loops.append(self.loop)
        original(self, transport)

    monkeypatch.setattr(connection.Connection, "connection_made", connection_made)
    with start([str(directory)], connections=3, feedback="off") as server, contextlib.ExitStack() as opened:
        assert server.client.get("/health").status_code == 200
        server.client.close()
        busy = threading.Event()
        loops[0].call_soon_threadsafe(busy.wait)
        first = opened.enter_context(connect(server))
        first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle = [opened.enter_context(connect(server)) for _ in range(10)]
        busy.set()
        assert first.recv(12) == b"HTTP/1.1 200"
        assert sum(one.recv(1) == b"" for one in idle[:7]) == 7


def test_a_flood_does_not_put_off_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SPARE", 5)
    connections: set[Any] = set()

    class Idle:
        waits_for_client, bonus = True, 0.0

        def __init__(self) -> None:
            self.quiet_since = asyncio.get_running_loop().time()

        def abort(self) -> None:
            connections.discard(self)

    async def flood() -> int:
        limit, most = connection.ConnectionLimit(3), 0
        for _ in range(200):  # one in each iteration of the event loop
            connections.add(Idle())
            limit.check(connections, asyncio.get_running_loop())
            most = max(most, len(connections))
            await asyncio.sleep(0)
        return most

    assert asyncio.run(flood()) <= 3 + 5 + 3


def test_requests_in_progress_are_not_closed_for_others(tmp_path: Path, start: Start, write: Write) -> None:
    places = [str(write(tmp_path / "long", context=4096))]
    with start(places, connections=3, feedback="off") as server, contextlib.ExitStack() as opened:
        body = {"model": "long", "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        server.client.post("/v1/completions", json=body | {"max_tokens": 1})
        engine = server.service.pool.models["long"].engine
        under_way = []
        for number in range(3):
            under_way.append(opened.enter_context(connect(server)))
            under_way[-1].sendall(request(body))
            until(lambda: engine.num_running == number + 1)  # noqa: B023
        with httpx.Client(base_url=server.url) as late:
            refused = late.get("/v1/models")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error"]["code"] == "too_many_connections"
            assert late.get("/health").status_code == 200
        for one in under_way:
            assert one.recv(12) == b"HTTP/1.1 200"


def test_a_client_that_does_not_read_makes_room(directory: Path, start: Start) -> None:
    with start([str(directory)], connections=2, feedback="off") as server, contextlib.ExitStack() as opened:
        for _ in range(2):
            stalled = opened.enter_context(connect(server))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stalled.sendall(b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)
        until(lambda: httpx.get(f"{server.url}/v1/models").status_code == 200)


def test_bodies_in_tiny_chunks_are_refused(directory: Path, start: Start) -> None:
    with start([str(directory)], feedback="off") as server:
        raw = json.dumps({"model": "tiny", "prompt": "the sea " * 100, "max_tokens": 1, "truncate_prompt_tokens": 9})
        head = f"{HEAD}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()

        def send(data: str) -> bytes:
            with connect(server) as one:
                one.sendall(head + b"".join(b"1\r\n%s\r\n" % byte.encode() for byte in data) + b"0\r\n\r\n")
                return one.recv(65536)

        assert send(raw).startswith(b"HTTP/1.1 200")  # a thousand are allowed
        assert send(raw + " " * 1000).startswith(b"HTTP/1.1 400")


def test_bytes_that_are_not_http_end_a_connection_without_a_failure(
    directory: Path,
    tmp_path: Path,
    start: Start,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 1.0)
    file = tmp_path / "keys.json"
    key = new_key(file, "alice", None, None)
    with start([str(directory)], key=key, keys=str(file), feedback="off") as server:
        for end in (b"zz\r\n", b"-1\r\nx", b"\0" * 100):
            with connect(server) as one:  # refused with 401 after the head, or with 400
                one.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + end)
                assert one.recv(12) in (b"HTTP/1.1 401", b"HTTP/1.1 400")
            with connect(server) as one:
                one.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
                assert one.recv(65536).startswith(b"HTTP/1.1 401")
                one.sendall(end)
                assert closed(one)
        assert server.client.get("/v1/models").status_code == 200
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert '"failure"' not in said


def test_invalid_hosts_and_origins_are_refused(server: Any) -> None:
    hosts = ("[", "[::1", "evil@127.0.0.1", "127.0.0.1/evil", "localhost:abc", "127.0.0.1, evil", "")
    for host in hosts:
        assert server.client.get("/health", headers={"Host": host}).status_code == 421, host
    for origin in ("http://[", "null", "http://", "http://x@localhost", "localhost", "://"):
        answer = server.client.get("/health", headers={"Origin": origin})
        assert answer.status_code == 403, origin
    assert server.client.get("/health", headers={"Host": "[::1]:80"}).status_code == 200


def test_unknown_methods_share_one_label_of_the_metrics(server: Any) -> None:
    for number in range(5):
        with connect(server) as one:
            one.sendall(f"M{number} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert one.recv(12) == b"HTTP/1.1 405"
    page = server.client.get("/metrics").text
    assert 'method="other"' in page
    assert 'method="M' not in page


def test_too_many_texts_and_logprobs_are_refused(directory: Path, start: Start) -> None:
    with start([str(directory)], queue=20, scores=100, feedback="off") as server:
        error = server.error("/v1/completions", {"model": "tiny", "prompt": ["x"] * 7, "n": 3, "max_tokens": 1})
        assert "21 texts are requested, 20 may wait" in error["message"]
        body = {"model": "tiny", "prompt": [[5] * 20] * 2, "max_tokens": 0, "echo": True}
        assert server.client.post("/v1/completions", json=body | {"logprobs": 1}).status_code == 200
        error = server.error("/v1/completions", body | {"logprobs": 2})
        assert (error["param"], "120 log-probabilities" in error["message"]) == ("logprobs", True)


def test_generated_tokens_count_for_the_limit_even_if_unread(
    tmp_path: Path, start: Start, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_sent(*_: Any) -> None:
        await asyncio.sleep(3600)

    directory, file = write(tmp_path / "long", context=4096), tmp_path / "keys.json"
    key = new_key(file, "alice", None, 10_000)
    with start([str(directory)], key=key, keys=str(file), feedback="off") as server:
        server.ask(model="long", prompt="x", max_tokens=1)
        monkeypatch.setattr(AnswerResponse, "_send", never_sent)
        body = {"model": "long", "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with connect(server) as slow:
            slow.sendall(request(body).replace(b"\r\n", f"\r\nAuthorization: Bearer {key}\r\n".encode(), 1))
            decoding = server.service.pool.models["long"].engine.scheduler.decoding
            until(lambda: bool(decoding))
            [unread] = decoding
            until(lambda: unread.finished is not None)
        until(lambda: server.service.pool.slots["long"].num_requests == 0)
        client = server.service.keys.client(f"Bearer {key}")
        assert 10_000 - client.tokens.level == pytest.approx(4001, abs=3)


def test_samples_of_a_prompt_are_counted_as_one_prompt(
    tmp_path: Path, start: Start, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, file = write(tmp_path / "long", context=512), tmp_path / "keys.json"
    key = new_key(file, "alice", None, 100_000)
    with start([str(directory)], key=key, keys=str(file), feedback="off") as server:
        server.ask(model="long", prompt="x", max_tokens=1)
        engine = server.service.pool.models["long"].engine
        read: list[int] = []
        logits = engine._logits
        monkeypatch.setattr(engine, "_logits", lambda spans: (read.extend(len(s.ids) for s in spans), logits(spans))[1])
        client = server.service.keys.client(f"Bearer {key}")
        monkeypatch.setattr(client.tokens, "_clock", lambda: client.tokens._updated)  # nothing is refilled
        ids = [(7 * number) % 300 for number in range(240)]
        for more in ({"max_tokens": 0}, {"max_tokens": 1, "temperature": 1}, {"max_tokens": 0, "prompt": [ids, ids]}):
            client.tokens.level = 100_000.0
            read.clear()
            body = {"model": "long", "prompt": ids, "echo": True, "logprobs": 1, "n": 16, "ignore_eos": True} | more
            answer = server.ask(**body)
            [alone] = server.ask(**body | {"n": 1, "prompt": ids})["choices"]
            computed = sum(read)
            prompts = answer["usage"]["prompt_tokens"]
            assert prompts == 240 * len(answer["choices"]) // 16
            used = 100_000 - client.tokens.level
            assert prompts + 240 <= used <= prompts + 240 + 17 * more["max_tokens"]
            assert computed <= used + 16 * 16 * more["max_tokens"]  # the rest of a prompt after its last full block
            for choice in answer["choices"]:
                scores = choice["logprobs"]["token_logprobs"][:240]
                assert scores == pytest.approx(alone["logprobs"]["token_logprobs"][:240], abs=1e-5)
            stream = server.client.post("/v1/completions", json=body | {"stream": True}).text
            chunks = [json.loads(line[6:])["choices"][0] for line in stream.splitlines() if line.startswith("data: {")]
            for index in range(len(answer["choices"])):
                own = [chunk for chunk in chunks if chunk["index"] == index]
                assert sum(len(chunk["logprobs"]["tokens"]) for chunk in own) == 240 + more["max_tokens"]
                assert [bool(chunk["finish_reason"]) for chunk in own].index(True) == len(own) - 1


def test_prefixes_are_shared_among_the_requests_of_one_key(tmp_path: Path, start: Start, write: Write) -> None:
    directory, file = write(tmp_path / "long", context=512), tmp_path / "keys.json"
    keys = [new_key(file, name, None, None) for name in ("alice", "carol")]
    ids = [(7 * number) % 300 for number in range(240)]
    for settings, found in [({}, [0, 0, 224, 224]), ({"share_prefixes": True}, [0, 224, 224, 224])]:
        with start([str(directory)], key=keys[0], keys=str(file), feedback="off", **settings) as server:
            server.ask(model="long", prompt="x", max_tokens=1)
            scheduler = server.service.pool.models["long"].engine.scheduler
            taken = []
            reserve = scheduler._reserve
            scheduler._reserve = lambda one: (reserve(one), taken.append(one.num_computed_tokens))[0]  # noqa: B023
            texts = set()
            for key in (keys[0], keys[1], keys[0], keys[1]):
                body = {"model": "long", "prompt": ids, "max_tokens": 3, "temperature": 0}
                headers = {"Authorization": f"Bearer {key}"}
                answer = server.client.post("/v1/completions", json=body, headers=headers)
                texts.add(answer.json()["choices"][0]["text"])
            assert taken == found
            assert len(texts) == 1


def test_a_slow_database_delays_feedback_only(
    directory: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start([str(directory)], feedback=f"sqlite:///{tmp_path / 'f.sqlite'}") as server:
        gate = threading.Event()
        save = server.service.feedback.save

        def slow(*rating: Any) -> int:
            assert gate.wait(60)
            return int(save(*rating))

        monkeypatch.setattr(server.service.feedback, "save", slow)
        rating = {"consent": True, "kind": "rating", "mode": "completion", "prompt": "x", "rating": "up"}
        rating["answers"] = [{"model": "tiny", "text": "y"}]
        with ThreadPoolExecutor(20) as pool:
            asked = [pool.submit(httpx.post, f"{server.url}/api/feedback", json=rating, timeout=60) for _ in range(20)]
            until(lambda: sum(one.done() for one in asked) == 4)
            assert server.ask(prompt="the sea", max_tokens=3)["choices"]
            gate.set()
            codes = sorted(one.result().status_code for one in asked)
        assert codes == [201] * 16 + [503] * 4


def test_a_deleted_database_file_is_created_again(directory: Path, tmp_path: Path, start: Start) -> None:
    place = tmp_path / "f.sqlite"
    with start([str(directory)], feedback=f"sqlite:///{place}") as server:
        rating = {"consent": True, "kind": "rating", "mode": "completion", "prompt": "x", "rating": "up"}
        rating["answers"] = [{"model": "tiny", "text": "y"}]
        with ThreadPoolExecutor(6) as pool:  # at once, before the table exists
            kept = list(pool.map(lambda _: server.client.post("/api/feedback", json=rating), range(6)))
        assert [one.status_code for one in kept] == [201] * 6
        for path in tmp_path.glob("f.sqlite*"):
            path.unlink()
        assert server.client.post("/api/feedback", json=rating).json() == {"id": 1}
        assert len(list(server.service.feedback.rows())) == 1


def test_a_broken_key_file_is_reported_and_the_previous_keys_stay_valid(
    directory: Path,
    tmp_path: Path,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "alice", None, None)
    whole = file.read_text()
    said: list[str] = []
    monkeypatch.setattr(keys, "say", said.append)
    with start([str(directory)], key=key, keys=str(file), feedback="off") as server:
        for broken in ("", '{"keys": [{"name": "a b"}]}', "&a [*a]", "2020-01-01: x", "[" * 2000):
            file.write_text(broken)
            for _ in range(2):
                assert server.client.get("/v1/models").status_code == 200
            assert len(said) == (1 if broken else 0), (broken, said)
            assert all("the previous keys stay valid" in line for line in said)
            said.clear()
        file.unlink()
        for _ in range(2):
            assert server.client.get("/v1/models").status_code == 200
        assert len(said) == 1
        reads: list[Path] = []
        monkeypatch.setattr(keys, "read_keys", lambda path: (reads.append(path), read_keys(path))[1])
        file.write_text("[")
        for _ in range(3):
            assert server.client.get("/v1/models").status_code == 200
        assert len(reads) == 1
        file.write_text(whole.replace("alice", "bob"))
        assert server.client.get("/v1/models").status_code == 200
        assert server.service.keys.client(f"Bearer {key}").name == "bob"


def test_a_request_that_waits_for_memory_is_served(tmp_path: Path, start: Start, write: Write) -> None:
    places = [str(write(tmp_path / name)) for name in ("a", "b")]
    with start(places, memory=0.015, feedback="off") as server:
        over = threading.Event()

        def keep_busy(number: int) -> int:
            count = 0
            while not over.is_set():
                server.ask(model="a", prompt=f"x{number}", max_tokens=30)
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            busy = [pool.submit(keep_busy, number) for number in range(3)]
            until(lambda: server.service.pool.slots["a"].num_users > 0)
            try:
                for _ in range(3):
                    assert server.ask(model="b", prompt="x", max_tokens=3)["usage"]["completion_tokens"] == 3
            finally:
                over.set()
            assert all(one.result() > 0 for one in busy)


def test_no_model_is_closed_for_a_cancelled_request_or_a_broken_model(
    tmp_path: Path, start: Start, write: Write
) -> None:
    places = [str(write(tmp_path / name, context=4096)) for name in ("a", "b", "c")]
    with start(places, memory=0.015, feedback="off") as server:
        slots = server.service.pool.slots
        long = {"model": "a", "prompt": "x", "max_tokens": 4000, "n": 16, "ignore_eos": True, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=long) as answer:
            lines = answer.iter_lines()  # kept alive: otherwise the connection is closed
            next(lines)
            with connect(server) as leaving:
                leaving.sendall(request({"model": "b", "prompt": "x"}))
                until(lambda: slots["b"].num_requests == 1)
            until(lambda: slots["b"].num_requests == 0)
            assert slots["a"].num_users == 1
        until(lambda: slots["a"].num_requests == 0 and slots["b"].loading is None)
        assert (slots["a"].loaded, slots["b"].loaded) == (True, False)
        shutil.rmtree(tmp_path / "c")
        assert server.error("/v1/completions", {"model": "c", "prompt": "x"}, 503)["code"] == "model_not_loaded"
        assert slots["a"].loaded
        assert server.client.get("/api/models/c").status_code == 503
        assert server.ask(model="b", prompt="x", max_tokens=2)["choices"]
