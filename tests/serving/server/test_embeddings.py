"""`/v1/embeddings`: the vectors of `neolm.load_embedder` over HTTP, beside models that write; limits and mistakes."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from served import Running, running, waiting_for
from tiny_encoders import VOCABULARY, write_encoder, write_json

import neolm
from neolm.embedding.embedder import Embedder
from neolm.serving.server.embedding_schema import EmbeddingList
from neolm.serving.server.keys import new_key

TEXTS = ["the sea", "", "cold water in the sea, and the clock", "?", "a day"]
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("an encoder") / "bert")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("another") / "plain", seed=1, pooling=None)


@pytest.fixture(scope="module")
def embedder(bert: Path) -> Embedder:
    return neolm.load_embedder(bert, "cpu")


@pytest.fixture(scope="module")
def both(directory: Path, bert: Path, plain: Path) -> Iterator[Running]:
    """A server with a decoder and two encoders."""
    with running([str(directory), str(bert), str(plain)], inputs=100) as server:
        yield server


def vectors(server: Running, **body: Any) -> torch.Tensor:
    answer = server.client.post(PATH, json={"model": "bert", **body})
    assert answer.status_code == 200, answer.text
    found = EmbeddingList.model_validate(answer.json())
    assert [row.index for row in found.data] == list(range(len(found.data)))
    return torch.tensor([row.embedding for row in found.data])


def same(found: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=2e-6)


def test_vectors_are_those_of_python(both: Running, embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS)
    same(vectors(both, input=TEXTS), expected)
    same(vectors(both, input=TEXTS[0]), expected[:1])
    ids = [embedder.tokenizer.with_special(embedder.tokenizer.encode(text))[0] for text in TEXTS]
    same(vectors(both, input=ids), expected)
    same(vectors(both, input=ids[2], encoding_format="float"), expected[2:3])
    same(vectors(both, input=TEXTS, normalize=False), embedder.embed(TEXTS, normalize=False))
    assert not torch.allclose(embedder.embed(TEXTS, normalize=False), expected)


def test_without_files_vectors_are_scaled_unless_the_request_says_otherwise(both: Running, plain: Path) -> None:
    raw = neolm.load_embedder(plain, "cpu").embed(TEXTS)
    same(vectors(both, model="plain", input=TEXTS), torch.nn.functional.normalize(raw))
    same(vectors(both, model="plain", input=TEXTS, normalize=False), raw)


def test_base64_has_the_same_numbers(both: Running, embedder: Embedder) -> None:
    answer = both.client.post(PATH, json={"model": "bert", "input": TEXTS, "encoding_format": "base64"}).json()
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
    same(np.stack(rows), embedder.embed(TEXTS))


def test_fewer_dimensions_are_the_first_ones_scaled_again(both: Running, embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS)[:, :8]
    same(vectors(both, input=TEXTS, dimensions=8), torch.nn.functional.normalize(expected))
    raw = embedder.embed(TEXTS, normalize=False)[:, :8]
    same(vectors(both, input=TEXTS, dimensions=8, normalize=False), raw)
    same(vectors(both, input=TEXTS, dimensions=32), embedder.embed(TEXTS))
    error = both.error(PATH, {"model": "bert", "input": "x", "dimensions": 33})
    assert error["message"] == "dimensions is 33, the vectors of bert have 32"
    assert error["param"] == "dimensions"


def test_openais_client(both: Running, embedder: Embedder) -> None:
    client = openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="bert", input=TEXTS)  # asks for base64
    same([row.embedding for row in answer.data], embedder.embed(TEXTS))
    assert (answer.object, answer.model, answer.data[0].object) == ("list", "bert", "embedding")
    tokens = sum(len(embedder.tokenizer.encode(text)) + 2 for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    answer = client.embeddings.create(model="bert", input=TEXTS, encoding_format="float", dimensions=4)
    assert len(answer.data[0].embedding) == 4
    with pytest.raises(openai.BadRequestError, match="bert is an encoder: it reads texts and writes none"):
        client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "hello"}])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="x")


def test_requests_at_once_get_what_they_get_alone(
    both: Running, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(1)
    asked = [
        [
            " ".join(generator.choices(VOCABULARY[5:20], k=generator.randrange(30)))
            for _ in range(generator.choice((1, 5)))
        ]
        for _ in range(60)
    ]
    expected = [torch.cat([embedder.embed(text) for text in texts]) for texts in asked]
    sizes: list[int] = []
    engine = both.service.pool.models["bert"].engine
    compute = engine.compute

    def embed_batch(inputs: Any) -> torch.Tensor:
        sizes.append(len(inputs))
        time.sleep(0.01)
        return torch.as_tensor(compute(inputs))

    monkeypatch.setattr(engine, "compute", embed_batch)
    with ThreadPoolExecutor(16) as threads:
        found = [threads.submit(vectors, both, input=texts) for texts in asked]
        writing = threads.submit(both.ask, prompt="the sea", max_tokens=8)  # a decoder beside it
        for future, rows in zip(found, expected, strict=True):
            same(future.result(), rows)
        assert writing.result()["usage"]["completion_tokens"] > 0
    assert sum(sizes) == sum(map(len, asked))
    assert len(sizes) < 50  # of 60 requests


def test_long_texts_are_refused_unless_truncation_is_allowed(both: Running, embedder: Embedder) -> None:
    long = "sea " * 50
    error = both.error(PATH, {"model": "bert", "input": ["sea", long]})
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"
    assert error["message"].startswith("input.1 is 52 tokens, the model's context is 40")
    same(vectors(both, input=long, truncate_prompt_tokens=-1), embedder.embed("sea " * 38))
    same(vectors(both, input=[long, "sea"], truncate_prompt_tokens=10), embedder.embed(["sea " * 8, "sea"]))
    usage = both.client.post(PATH, json={"model": "bert", "input": [long, "sea"], "truncate_prompt_tokens": 10}).json()
    assert usage["usage"] == {"prompt_tokens": 13, "total_tokens": 13, "left_out_tokens": 42}
    both.error(PATH, {"model": "bert", "input": long, "truncate_prompt_tokens": 41})  # more than the model reads
    both.error(PATH, {"model": "bert", "input": [[5] * 41]})


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": []}, "input", "is an empty list"),
        ({"input": [[]]}, "input", "is an empty list"),
        ({"input": [[5], []]}, "input", "has an empty list of token ids, index 1"),
        ({"input": None}, "input", "must be a text, a list of token ids, or a list of either"),
        ({}, "input", "Field required"),
        ({"input": 3}, "input", "must be a text"),
        ({"input": ["a", [5]]}, "input", "must have all its inputs as texts, or all as lists of token ids"),
        ({"input": [1.5]}, "input", "not whole numbers from 0"),
        ({"input": [[5, -1]]}, "input", "not whole numbers from 0"),
        ({"input": [5, 73]}, "input", "has the token id 73; the vocabulary has 73 tokens"),
        ({"input": ["a"] * 101}, "input", "has 101 texts, the limit of this server is 100"),
        ({"input": ["a"] * 2049}, "input", "has 2049 inputs, the limit is 2048"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "normalize": 1}, "normalize", "valid boolean"),
        ({"input": "a", "truncate_prompt_tokens": 2}, "truncate_prompt_tokens", "must be -1 or at least 3"),
        ({"input": "a", "temperature": 1}, "temperature", "unknown field"),
        ({"input": "a", "model": "tiny"}, "model", "tiny is a decoder: it writes text and gives no vectors"),
    ],
)
def test_bad_input_is_one_clear_error(both: Running, body: dict[str, Any], param: str, message: str) -> None:
    error = both.error(PATH, {"model": "bert", **body})
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_an_encoder_does_not_write(both: Running) -> None:
    for path, body in (
        ("completions", {"prompt": "a"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        error = both.error(f"/v1/{path}", {"model": "bert", **body})
        assert "bert is an encoder: it reads texts and writes none; POST /v1/embeddings" in error["message"]
        assert (error["param"], error["code"]) == ("model", "model_not_supported")


def test_kind_and_dimensions_are_listed(both: Running) -> None:
    entries = {entry["id"]: entry for entry in both.client.get("/v1/models").json()["data"]}
    kinds = {name: (entry["kind"], entry["dimensions"], entry["chat_template"]) for name, entry in entries.items()}
    assert kinds == {"tiny": ("generate", None, "plain"), "bert": ("embed", 32, None), "plain": ("embed", 32, None)}
    assert entries["bert"]["context"] == 40
    card = both.client.get("/api/models/bert").json()
    assert (card["kind"], card["dimensions"], card["family"]) == ("embed", 32, "bert")


def test_tokens_are_counted(both: Running) -> None:
    def counted() -> float:
        lines = both.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('neolm_tokens_total{kind="prompt",model="bert"}')]
        return float(found[0].split()[-1]) if found else 0.0

    before = counted()
    vectors(both, input=["the sea", ""])
    waiting_for(lambda: counted() - before == 6)  # counted after the last byte is sent


def test_a_client_that_leaves_is_cancelled(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running([str(bert)]) as server:
        vectors(server, input="the sea")
        engine = server.service.pool.models["bert"].engine
        compute, go_on, computed = engine.compute, threading.Event(), []

        def embed_batch(inputs: Any) -> torch.Tensor:
            go_on.wait(60)
            computed.append(len(inputs))
            return torch.as_tensor(compute(inputs))

        monkeypatch.setattr(engine, "compute", embed_batch)
        with pytest.raises(httpx.ReadTimeout):
            server.client.post(PATH, json={"model": "bert", "input": ["sea " * 30] * 1000}, timeout=0.5)
        waiting_for(lambda: 'neolm_cancelled_total{model="bert"} 1.0' in server.client.get("/metrics").text)
        go_on.set()
        vectors(server, input="the sea")
        assert sum(computed) < 100
        assert engine.num_waiting == 0


def test_the_tokens_of_a_key_are_limited(bert: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json", "someone", None, 100)
    with running([str(bert)], key, keys=str(tmp_path / "keys.json")) as server:
        assert httpx.post(f"{server.url}{PATH}", json={"model": "bert", "input": "a"}).status_code == 401
        vectors(server, input=["sea " * 30] * 4)  # 128 tokens: allowed once, then owed
        error = server.error(PATH, {"model": "bert", "input": "sea"}, 429)
        assert error["type"] == "rate_limit_error"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_whose_engine_failed_is_loaded_again(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running([str(bert)]) as server:
        expected = vectors(server, input="the sea")
        engine = server.service.pool.models["bert"].engine
        monkeypatch.setattr(engine, "compute", lambda _: 1 / 0)
        assert "the engine failed" in server.error(PATH, {"model": "bert", "input": "x"}, 500)["message"]
        same(vectors(server, input="the sea"), expected)


def test_models_of_both_kinds_take_turns_in_little_memory(directory: Path, bert: Path) -> None:
    with running([str(directory), str(bert)], memory=0.0125) as server:
        models = server.service.pool.models
        assert sum(model.size for model in models.values()) > server.service.pool.memory
        for _ in range(2):
            assert vectors(server, input="the sea").shape == (1, 32)
            assert models["tiny"].engine is None
            server.ask(prompt="the sea", max_tokens=2)
            assert models["bert"].engine is None


def test_a_server_of_encoders_is_ready_and_documented(bert: Path) -> None:
    with running([str(bert)], preload=True) as server:
        waiting_for(lambda: server.client.get("/ready").status_code == 200)
        assert server.service.pool.models["bert"].engine is not None
        assert '"model": "bert"' in server.client.get("/docs").text.replace("&#34;", '"')
        assert server.client.get("/v1/models/bert").json()["loaded"]


def test_a_context_of_the_settings_counts(bert: Path) -> None:
    with running([str(bert)], context=10) as server:
        assert "the model's context is 10" in server.error(PATH, {"model": "bert", "input": "sea " * 9})["message"]
        vectors(server, input="sea " * 8)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", '{"model": ', "not valid JSON"),
        ("vocab.txt", "a\nb\n", "the vocabulary has no"),
        ("vocab.txt", "\n".join([*VOCABULARY, "extra"]), "the tokenizer has 74 tokens and the model 73"),
        ("vocab.txt", None, "tokenizer"),
        ("modules.json", "[]", "the steps none are not supported"),
    ],
)
def test_a_broken_encoder_is_one_line(
    file: str, content: str | None, message: str, tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]
) -> None:
    directory = write_encoder(tmp_path / "bert")
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_text(content, encoding="utf-8")
    code, out, err = neolm_("serve", directory, "--port", 0, "--feedback", "off")
    assert code == 2
    assert not out
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_prompt_of_the_model_is_put_in_front_of_texts(tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "bert")
    prompts = {"prompts": {"query": "the water "}, "default_prompt_name": "query"}
    write_json(directory / "config_sentence_transformers.json", prompts)
    expected = neolm.load_embedder(write_encoder(tmp_path / "other"), "cpu").embed("the water of the sea")
    with running([str(directory)]) as server:
        same(vectors(server, input="of the sea"), expected)
