"""Rendering and encoding: clients take turns, models do not wait for each other, long texts are refused unencoded."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import served

from neolm.serving.server.errors import ApiError
from neolm.serving.server.job_queue import SMALL_BYTES, JobQueue
from neolm.serving.server.keys import new_key
from neolm.tokenizer import renderer
from neolm.tokenizer.chat import Message, OwnTemplate, PlainTemplate, without_oldest
from neolm.tokenizer.tokenizer import Tokenizer

Start = Callable[..., Any]
Write = Callable[..., Path]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
HI = [{"role": "user", "content": "the sea"}]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Gate:
    """Jobs that wait until they are let through; `order` has the names of those that were begun."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.open = threading.Semaphore(0)

    def job(self, name: str) -> Callable[[], str]:
        def make() -> str:
            self.order.append(name)
            assert self.open.acquire(timeout=60)
            return name

        return make


async def queued(queue: JobQueue, gate: Gate, *requests: tuple[str, int, str]) -> list[asyncio.Task[str]]:
    made = [asyncio.ensure_future(queue.make(client, size, gate.job(name))) for client, size, name in requests]
    await asyncio.sleep(0)  # each is in the queue
    return made


def test_clients_take_turns_and_their_smallest_requests_come_first() -> None:
    async def run() -> None:
        queue, gate = JobQueue(10), Gate()
        first = await queued(queue, gate, ("a", 900, "a900"))
        made = await queued(
            queue, gate, *(("a", size, f"a{size}") for size in (500, 100, 300)), ("b", 700, "b700"), ("c", 1, "c1")
        )
        more = await queued(queue, gate, ("b", 7, "b7"))
        gate.open.release(20)
        names = await asyncio.gather(*first, *made, *more)
        assert names == ["a900", "a500", "a100", "a300", "b700", "c1", "b7"]
        assert gate.order == ["a900", "a100", "b7", "c1", "a300", "b700", "a500"]

    asyncio.run(run())


def test_small_requests_do_not_wait_for_a_large_one() -> None:
    async def run() -> None:
        queue, large, small = JobQueue(10), Gate(), Gate()
        slow = await queued(queue, large, *(("a", SMALL_BYTES + size, f"a{size}") for size in (3, 1, 2)))
        assert large.order == ["a3"]
        quick = await queued(queue, small, ("a", 5, "a5"), ("b", SMALL_BYTES, "b64"), ("b", 6, "b6"))
        small.open.release(3)
        assert await asyncio.gather(*quick) == ["a5", "b64", "b6"]
        assert large.order == ["a3"]
        large.open.release(3)
        await asyncio.gather(*slow)
        assert large.order == ["a3", "a1", "a2"]

    asyncio.run(run())


def test_cancelled_requests_lose_their_turn_and_errors_reach_their_own_request() -> None:
    def fail() -> None:
        raise ApiError(400, "no")

    async def run() -> None:
        queue, gate = JobQueue(3), Gate()
        [first, second, third, last] = await queued(queue, gate, *(("a", n, f"a{n}") for n in range(4)))
        with pytest.raises(ApiError, match="3 of your requests wait already") as caught:
            await queue.make("a", 1, fail)
        assert caught.value.status == 429
        failing = asyncio.ensure_future(queue.make("b", 1, fail))
        first.cancel()  # it is under way
        second.cancel()
        until_free = await queued(queue, gate, ("c", 1, "c1"))
        gate.open.release(20)
        assert await asyncio.gather(third, last, *until_free) == ["a2", "a3", "c1"]
        with pytest.raises(ApiError, match="no"):
            await failing
        assert gate.order == ["a0", "a2", "c1", "a3"]

    asyncio.run(run())


def test_a_job_that_never_ends_does_not_keep_the_event_loop_or_the_process() -> None:
    async def run() -> None:
        queue, gate = JobQueue(3), Gate()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.make("a", 1, gate.job("a")), 0.05)
        [thread] = [one for one in threading.enumerate() if one.name == "neolm-job"]
        assert thread.daemon
        gate.open.release()

    asyncio.run(run())


@pytest.fixture
def models(tmp_path: Path, write: Write) -> Iterator[list[str]]:
    (write(tmp_path / "bad") / "chat_template.jinja").write_text(LOOP)
    yield [str(write(tmp_path / "good")), str(tmp_path / "bad")]


def test_a_template_that_takes_for_ever_delays_chats_with_its_model_only(
    models: list[str], tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(models, feedback=f"sqlite:///{tmp_path / 'f.sqlite'}", queue=30) as server:
        template, gate = server.service.pool.models["bad"].template, threading.Event()
        render = template.render
        monkeypatch.setattr(template, "render", lambda messages: (gate.wait(60), render(messages[:0]))[1])
        rating = {"consent": True, "kind": "rating", "mode": "completion", "prompt": "x", "rating": "up"}
        rating["answers"] = [{"model": "good", "text": "y"}]
        chat = {"model": "bad", "messages": HI, "max_tokens": 1}
        with ThreadPoolExecutor(40) as pool:
            monkeypatch.setattr(renderer, "MAX_RENDER_SECONDS", 0.2)
            asked = [
                pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=chat, timeout=60) for _ in range(40)
            ]
            until(lambda: sum(one.done() for one in asked) == 9)
            for _ in range(3):
                assert server.ask(model="good", prompt="the sea", max_tokens=2)["choices"]
                good = server.client.post("/v1/chat/completions", json=chat | {"model": "good"})
                assert good.status_code == 200
                assert server.client.post("/api/feedback", json=rating).status_code == 201
                assert server.client.get("/health").status_code == 200
                assert server.client.get("/api/models/bad").status_code == 200
            assert sum(one.done() for one in asked) == 9
            gate.set()
            answers = [one.result() for one in asked]
        assert sorted(answer.status_code for answer in answers) == [400] * 31 + [429] * 9
        stopped = next(answer for answer in answers if answer.status_code == 400).json()["error"]
        assert stopped["param"] == "messages"
        assert "the chat template of the model was stopped" in stopped["message"]
        assert server.ask(model="bad", prompt="the sea", max_tokens=2)["choices"]


def test_a_server_with_a_looping_template_ends_at_sigterm(models: list[str]) -> None:
    with served(*models, "--feedback", "off") as (process, url):
        with ThreadPoolExecutor(6) as pool:
            chat = {"model": "bad", "messages": HI, "max_tokens": 1}
            asked = [pool.submit(httpx.post, f"{url}/v1/chat/completions", json=chat, timeout=60) for _ in range(6)]
            body = {"model": "good", "prompt": "the sea", "max_tokens": 2}
            assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            codes = [one.result().status_code for one in asked]
            code = process.wait(timeout=20)
            assert code == 0, process.stderr.read()[-3000:]  # not `shutdown_seconds`, which answers in progress have
        assert set(codes) <= {400, 503}
        assert 503 in codes
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_reading_a_large_directory_delays_no_answer(
    directory: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start([str(directory)], feedback="off") as server:
        model, gate = server.service.pool.models["tiny"], threading.Event()
        card, calls = model.card, []
        monkeypatch.setattr(model, "card", lambda: (calls.append(1), gate.wait(60), card())[2])
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(httpx.get, f"{server.url}/api/models/tiny", timeout=60) for _ in range(40)]
            until(lambda: sum(map(len, model.reading._waiting.values())) == 39)
            assert server.ask(prompt="the sea", max_tokens=2)["choices"]
            assert calls == [1]
            gate.set()
            assert [one.result().status_code for one in asked] == [200] * 40


def encoded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that are encoded from now on."""
    lengths: list[int] = []
    encode_batch = tokenizer.encode_batch
    monkeypatch.setattr(
        tokenizer,
        "encode_batch",
        lambda texts, special=False: (lengths.extend(map(len, texts)), encode_batch(texts, special))[1],
    )
    return lengths


def test_texts_that_cannot_fit_are_refused_before_they_are_encoded(
    directory: Path, tmp_path: Path, start: Start, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write(tmp_path / "own")
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with start([str(directory), str(own)], feedback="off") as server:
        for name in ("tiny", "own"):
            lengths = encoded(server.service.pool.models[name].tokenizer, monkeypatch)
            chat = [{"role": "user", "content": "the sea " * 60}] * 200
            for path, body in [
                ("completions", {"prompt": "the sea " * 50_000}),
                ("completions", {"prompt": ["the sea", "the sea " * 5000]}),
                ("completions", {"prompt": "the sea " * 5000, "truncate_prompt_tokens": 97}),  # more than the context
                ("chat/completions", {"messages": chat}),
                ("chat/completions", {"messages": [{"role": "user", "content": "the sea " * 50_000}]}),
                ("chat/completions", {"messages": chat, "truncate_prompt_tokens": 2**31 - 1}),
            ]:
                error = server.error(f"/v1/{path}", {"model": name, **body})
                assert error["message"] == "the prompt is too long, the model's context is 96"
                assert error["code"] == "context_length_exceeded"
            assert lengths == []
            error = server.error("/v1/completions", {"model": name, "prompt": "the sea " * 60})
            assert "tokens, the model's context is 96" in error["message"]  # this could have fitted
            kept = server.ask(model=name, prompt="the sea " * 5000, truncate_prompt_tokens=9, max_tokens=1)
            assert kept["usage"]["left_out_tokens"] > 9000


@pytest.mark.parametrize("own", [True, False])
def test_shortening_a_conversation_encodes_little_more_than_is_kept(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template = OwnTemplate(source, tokenizer, tmp_path) if own else PlainTemplate(tokenizer)
    messages = [Message("user", "the sea is water " * 20) for _ in range(500)]
    lengths = encoded(tokenizer, monkeypatch)
    left, ids = without_oldest(template, messages, 300)
    assert 0 < len(left) < 10
    assert len(ids) <= 300 == min(300, len(template.encode(messages[-len(left) - 1 :])))
    assert sum(lengths) < 20 * 300 * max(map(len, tokenizer._token_bytes))


def test_a_flood_of_large_texts_does_not_delay_another_client(
    directory: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    alice, bob = (new_key(file, name, None, None) for name in ("alice", "bob"))
    with start([str(directory)], key=bob, keys=str(file), feedback="off") as server:
        tokenizer, gate = server.service.pool.models["tiny"].tokenizer, threading.Semaphore(0)
        encode_batch, order = tokenizer.encode_batch, []

        def slow(texts: list[str], special: bool = False) -> list[list[int]]:
            order.append(len(texts[0]))
            assert gate.acquire(timeout=60)
            return list(encode_batch(texts, special))

        monkeypatch.setattr(tokenizer, "encode_batch", slow)
        large = {"model": "tiny", "prompt": "the sea " * 1000, "truncate_prompt_tokens": 9, "max_tokens": 1}
        middle = "the day " * 600
        headers, waiting = {"Authorization": f"Bearer {alice}"}, server.service.pool.models["tiny"].jobs._waiting

        def flood() -> int:
            return httpx.post(f"{server.url}/v1/completions", json=large, headers=headers, timeout=60).status_code

        with ThreadPoolExecutor(11) as pool:
            asked = [pool.submit(flood) for _ in range(10)]
            until(lambda: order == [8000] and [len(tasks) for tasks in waiting.values()] == [9])
            mine = pool.submit(server.ask, prompt=middle, truncate_prompt_tokens=9, max_tokens=1)
            until(lambda: len(waiting) == 2)
            gate.release(3)  # one under way, one of each client
            assert mine.result()["choices"]
            assert sorted(order[:3]) == [4800, 8000, 8000]
            gate.release(20)
            assert [one.result() for one in asked] == [200] * 10


def test_requests_that_wait_for_their_turn_end_with_their_client(
    directory: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start([str(directory)], feedback="off") as server:
        model, gate = server.service.pool.models["tiny"], threading.Event()
        encode_batch = model.tokenizer.encode_batch
        calls: list[str] = []

        def waiting() -> list[asyncio.Future[Any]]:
            return [task.result for tasks in list(model.jobs._waiting.values()) for task in list(tasks)]

        monkeypatch.setattr(
            model.tokenizer, "encode_batch", lambda *a: (gate.wait(60), calls.append(a[0][0]), encode_batch(*a))[2]
        )
        body = json.dumps({"model": "tiny", "prompt": "the day " * 600, "max_tokens": 1, "truncate_prompt_tokens": 9})
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        port = int(server.url.rpartition(":")[2])
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.ask, prompt="the sea " * 1000, truncate_prompt_tokens=9, max_tokens=1)
            until(lambda: any(model.jobs._busy.values()))
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", port)) as leaving:
                    leaving.sendall(raw)
                    until(lambda: not all(map(asyncio.Future.cancelled, waiting())))
            until(lambda: all(map(asyncio.Future.cancelled, waiting())))
            gate.set()
            assert first.result()["choices"]
        assert calls == ["the sea " * 1000]
