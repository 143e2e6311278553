"""The engine of models that write no text: requests are computed together, clients take turns, each gets its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import VOCABULARY, write_encoder

import neolm
from neolm.embedding.embedder import Embedder
from neolm.serving.batch_engine import BatchEngine, BatchRequest, Result
from neolm.serving.request import EngineClosedError, QueueFullError

Engine = BatchEngine[list[int]]


class Recorder:
    """A model that gives (first token, length); it records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def compute(self, rows: Sequence[list[int]]) -> torch.Tensor:
        self.batches.append([*rows])
        assert rows[0] != [666], "planted"
        return torch.tensor([[float("nan") if ids[0] == 13 else ids[0], len(ids)] for ids in rows])


def engine_of(batch_tokens: int = 100, **fields: Any) -> tuple[Engine, Recorder]:
    recorder = Recorder()
    return BatchEngine(recorder.compute, 2, batch_tokens=batch_tokens, **fields), recorder


def ask(engine: Engine, rows: list[list[int]], **fields: Any) -> tuple[Future[Result], BatchRequest[list[int]]]:
    future: Future[Result] = Future()
    return future, engine.submit(rows, future.set_result, **fields)


def test_vectors_are_those_of_the_embedder_whatever_is_computed_together(tmp_path: Path) -> None:
    embedder = neolm.load_embedder(write_encoder(tmp_path / "bert"), "cpu")
    generator = random.Random(1)
    asked = [
        [[2, *generator.choices(range(5, len(VOCABULARY)), k=generator.randrange(38)), 3] for _ in range(count)]
        for count in (1, 7, 60, 1, 2, 30, 1)
    ]
    alone = [torch.cat([embedder.embed_batch([ids]) for ids in inputs]) for inputs in asked]
    with BatchEngine(embedder.embed_batch, embedder.dimensions, batch_tokens=128) as engine:
        found = [ask(engine, inputs, client=number % 3)[0] for number, inputs in enumerate(asked)]
        for future, expected in zip(found, alone, strict=True):
            vectors = future.result(60)
            assert isinstance(vectors, torch.Tensor)
            torch.testing.assert_close(vectors, expected, rtol=0, atol=2e-6)


def test_requests_that_wait_are_computed_together() -> None:
    engine, recorder = engine_of()
    futures = [ask(engine, [[number] * 10])[0] for number in range(8)]
    assert engine.num_waiting == 8
    assert engine.step()
    assert not engine.step()
    assert len(recorder.batches) == 1
    assert [future.result(0)[0].tolist() for future in futures] == [[number, 10] for number in range(8)]  # type: ignore[index]


def test_a_client_with_many_texts_delays_others_by_one_batch() -> None:
    engine, recorder = engine_of(batch_tokens=50)
    many, request = ask(engine, [[1] * 10] * 1000, client="a")
    engine.step()
    other = ask(engine, [[2] * 10], client="b")[0]
    engine.step()
    assert other.done()
    assert not many.done()
    assert request.num_computed_tokens == 90
    assert [len(batch) for batch in recorder.batches] == [5, 5]


def test_a_cancelled_request_is_not_computed() -> None:
    engine, recorder = engine_of(batch_tokens=20)
    first, request = ask(engine, [[1] * 10] * 8)
    second = ask(engine, [[2] * 10])[0]
    engine.step()
    request.cancel()
    while engine.step():
        pass
    assert second.done()
    assert not first.done()
    assert sum(ids[0] == 1 for batch in recorder.batches for ids in batch) == 2
    assert engine.num_waiting == 0


def test_numbers_that_overflow_are_delivered_to_their_request_only() -> None:
    engine, _ = engine_of()
    bad, good = ask(engine, [[1], [13, 13]])[0], ask(engine, [[7]])[0]
    engine.step()
    assert bad.result(0).isfinite().all(dim=1).tolist() == [True, False]  # type: ignore[union-attr]
    assert good.result(0).tolist() == [[7, 1]]  # type: ignore[union-attr]


def test_the_size_of_a_row_is_what_the_function_says() -> None:
    def compute(rows: Sequence[tuple[list[int], str]]) -> torch.Tensor:
        assert sum(len(ids) for ids, _ in rows) <= 4
        return torch.ones(len(rows), 1)

    engine = BatchEngine(compute, 1, lambda row: len(row[0]), batch_tokens=4)
    result: Future[Result] = Future()
    request = engine.submit([([1, 2], "a"), ([1, 2, 3], "b"), ([1], "c")], result.set_result)
    while engine.step():
        pass
    assert result.done()
    assert request.num_computed_tokens == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_ends_every_request_and_the_engine() -> None:
    engine, _ = engine_of(batch_tokens=1)
    futures = [ask(engine, [[666]])[0], ask(engine, [[1]])[0]]
    engine.start()
    for future in futures:
        assert "the engine failed: planted" in str(future.result(60))
    assert engine.closed
    with pytest.raises(EngineClosedError):
        ask(engine, [[1]])
    engine.close()


def test_limits_and_closing() -> None:
    engine, _ = engine_of(max_waiting=2)
    futures = [ask(engine, [[1]])[0], ask(engine, [[1]])[0]]
    with pytest.raises(QueueFullError, match="2 requests are waiting already"):
        ask(engine, [[1]])
    engine.close()
    engine.start()
    assert all(isinstance(future.result(60), EngineClosedError | torch.Tensor) for future in futures)
    engine.close()


def test_a_callback_that_fails_harms_nobody() -> None:
    engine, _ = engine_of()
    engine.submit([[1]], lambda result: 1 / 0)
    good = ask(engine, [[2]])[0]
    engine.step()
    assert good.done()


def test_many_threads_ask_at_once(tmp_path: Path) -> None:
    embedder: Embedder = neolm.load_embedder(write_encoder(tmp_path / "bert"), "cpu")
    texts = [[2, 5 + number % 40, 3] for number in range(200)]
    expected = embedder.embed_batch(texts)
    found: dict[int, Result] = {}
    with BatchEngine(embedder.embed_batch, embedder.dimensions, max_waiting=200) as engine:

        def work(start: int) -> None:
            for number in range(start, 200, 8):
                found[number] = ask(engine, [texts[number]], client=start)[0].result(60)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    vectors = torch.cat([found[number] for number in range(200)])  # type: ignore[misc]
    torch.testing.assert_close(vectors, expected, rtol=0, atol=2e-6)
