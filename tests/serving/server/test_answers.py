"""OpenAI's API gives the texts and log-probabilities of the model itself, alone and under load."""

from __future__ import annotations

import itertools
import json
import math
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from served import TEXT, waiting_for

import neolm
from neolm.core.errors import InputError
from neolm.generation.batch import generate_ids
from neolm.generation.chat import Session
from neolm.generation.config import GenerationConfig
from neolm.models.decoder import Decoder
from neolm.models.hf import load_model
from neolm.serving.server import generation_model
from neolm.serving.server.response_schema import ChatCompletion
from neolm.tokenizer.chat import Message, PlainTemplate
from neolm.tokenizer.tokenizer import Tokenizer

PROMPTS = ["the sea", "User: What is the", "def main():", "the clocks were striking thirteen", ""]


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def streamed(server: Any, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = server.client.post(path, json={**body, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events(answer)


def test_greedy_texts_match_generate(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    expected = neolm.generate(model, tokenizer, PROMPTS, max_new_tokens=30)
    got = server.ask(prompt=PROMPTS, max_tokens=30)
    assert [choice["text"] for choice in got["choices"]] == expected
    assert [choice["index"] for choice in got["choices"]] == list(range(5))
    counts = [max(1, len(tokenizer.encode(prompt))) for prompt in PROMPTS]
    assert got["usage"]["prompt_tokens"] == sum(counts)
    ids = [tokenizer.encode(prompt) for prompt in PROMPTS[:4]]
    again = server.ask(prompt=ids, max_tokens=30)
    assert [choice["text"] for choice in again["choices"]] == expected[:4]


def test_a_stream_matches_the_whole_answer(server: Any) -> None:
    body = {"model": "tiny", "prompt": PROMPTS, "max_tokens": 25, "temperature": 1, "seed": 4, "logprobs": 3}
    whole = server.client.post("/v1/completions", json=body).json()
    *chunks, usage = streamed(server, "/v1/completions", body)
    assert usage["usage"] == whole["usage"]
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    plain = events(server.client.post("/v1/completions", json=body | {"stream": True}))
    assert not any("usage" in chunk for chunk in plain)
    assert usage["choices"] == []
    for choice in whole["choices"]:
        own = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert [token for part in own for token in part["logprobs"]["tokens"]] == choice["logprobs"]["tokens"]
        assert [part["finish_reason"] for part in own if part["finish_reason"]] == [choice["finish_reason"]]


def test_samples_are_reproducible_with_a_seed(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    got = server.ask(prompt="the sea", n=4, temperature=1, seed=9, max_tokens=12)
    texts = [choice["text"] for choice in got["choices"]]
    assert len(set(texts)) == 4
    assert texts == neolm.generate(model, tokenizer, ["the sea"] * 4, max_new_tokens=12, temperature=1.0, seed=9)
    assert texts != [choice["text"] for choice in server.ask(prompt="the sea", n=4, temperature=1)["choices"]]


def test_stop_strings_end_the_text_and_are_left_out(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    [text] = neolm.generate(model, tokenizer, "the sea", max_new_tokens=40)
    stop = text[10:13]
    [choice] = server.ask(prompt="the sea", max_tokens=40, stop=stop)["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    [choice] = server.ask(prompt="the sea", max_tokens=40, stop=["never said", stop])["choices"]
    assert choice["text"] == text[: text.index(stop)]


def test_echo_and_logprobs_match_the_forward_pass(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    prompt = "the sea is wäter, 水 and thirteen"
    got = server.ask(prompt=prompt, max_tokens=3, echo=True, logprobs=2)
    [choice] = got["choices"]
    assert choice["text"].startswith(prompt)
    logprobs = choice["logprobs"]
    ids = tokenizer.encode(prompt)
    assert len(logprobs["tokens"]) == len(ids) + 3
    assert "".join(token for token in logprobs["tokens"][:3]) == tokenizer.decode(ids[:3])
    with torch.inference_mode():
        scores = model(torch.tensor([ids]))[0, :, : tokenizer.size].log_softmax(-1)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    for place, token in enumerate(ids[1:], start=1):
        assert logprobs["token_logprobs"][place] == pytest.approx(float(scores[place - 1, token]), abs=1e-4)
        best = max(logprobs["top_logprobs"][place].values())
        assert best == pytest.approx(float(scores[place - 1].max()), abs=1e-4)
    # Tokens that are parts of a character are written as bytes, and offsets are places in the text.
    assert any(token.startswith("bytes:\\x") for token in logprobs["tokens"])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][offset : offset + len(token)] == token
    nothing = server.ask(prompt=prompt, max_tokens=0, echo=True, logprobs=0)
    assert nothing["choices"][0]["text"] == prompt
    of_prompt = nothing["choices"][0]["logprobs"]["token_logprobs"]
    assert of_prompt == pytest.approx(logprobs["token_logprobs"][:-3], abs=1e-4)
    assert nothing["usage"]["completion_tokens"] == 0
    assert server.ask(prompt="the", max_tokens=2, echo=True)["choices"][0]["text"].startswith("the")


def test_offsets_without_echo_continue_after_the_prompt(server: Any, tokenizer: Tokenizer) -> None:
    eos = tokenizer.eos_token_id
    bias = {"logit_bias": {str(eos): 4}, "ignore_eos": True, "temperature": 1, "seed": 3}
    for prompt in (
        "the sea is wäter, 水",
        tokenizer.encode("the sea")[:-1],
        [eos, *tokenizer.encode("the sea")],
        "",
        [],
    ):
        for settings in ({}, bias):
            body = {"prompt": prompt, "max_tokens": 20, "logprobs": 0, **settings}
            [echoed] = server.ask(**body, echo=True)["choices"]
            [plain] = server.ask(**body)["choices"]
            count = len(plain["logprobs"]["tokens"])
            assert plain["logprobs"]["tokens"] == echoed["logprobs"]["tokens"][-count:]
            assert plain["logprobs"]["text_offset"] == echoed["logprobs"]["text_offset"][-count:]
            tokens = zip(plain["logprobs"]["tokens"], plain["logprobs"]["text_offset"], strict=True)
            for token, offset in itertools.takewhile(lambda pair: not pair[0].startswith("bytes:"), tokens):
                assert token == "<|endoftext|>" or echoed["text"][offset : offset + len(token)] == token


def test_bias_and_penalties_reach_the_engine(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    [token] = tokenizer.encode("q")
    [choice] = server.ask(prompt="the sea", max_tokens=5, logit_bias={str(token): 100})["choices"]
    assert choice["text"] == "qqqqq"
    body = {"prompt": "the sea", "max_tokens": 12, "logit_bias": {str(token): 5}}
    texts = set()
    for penalties in ({}, {"frequency_penalty": 2}, {"presence_penalty": 2}):
        config = {"logit_bias": {token: 5}, **penalties}
        [expected] = neolm.generate(model, tokenizer, "the sea", max_new_tokens=12, **config)
        assert server.ask(**body, **penalties)["choices"][0]["text"] == expected
        texts.add(expected)
    assert len(texts) == 3
    error = server.error("/v1/completions", {"model": "tiny", "prompt": "x", "logit_bias": {"4000": 1}})
    assert "token 4000 is not one of 0 to 309" in error["message"]


def test_chat_completions_match_the_chat_command(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(model, tokenizer, GenerationConfig(max_new_tokens=15))
    messages = []
    for text in ("What is the sea?", "and the day?"):
        messages.append({"role": "user", "content": text})
        expected = "".join(session.say(text))
        body = {"model": "tiny", "messages": messages, "max_tokens": 15, "temperature": 0}
        got = server.client.post("/v1/chat/completions", json=body).json()
        ChatCompletion.model_validate(got)
        assert got["choices"][0]["message"] == {"role": "assistant", "content": expected, "refusal": None}
        chunks = streamed(server, "/v1/chat/completions", body)
        parts = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        assert parts[0]["role"] == "assistant"
        assert "".join(part.get("content") or "" for part in parts) == expected
        messages.append({"role": "assistant", "content": expected.strip()})


def test_truncate_prompt_tokens(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    long, ids = TEXT, tokenizer.encode(TEXT)
    assert len(ids) > 96
    assert server.error("/v1/completions", {"model": "tiny", "prompt": long})["code"] == "context_length_exceeded"
    kept = tokenizer.decode(ids[-20:])
    config = GenerationConfig(max_new_tokens=9)
    [after] = generate_ids(model, [ids[-20:]], config, tokenizer.eos_token_id, tokenizer.size)
    expected = tokenizer.decode(after)
    for prompts in ([long, "the sea"], [ids, tokenizer.encode("the sea")]):
        answer = server.ask(prompt=prompts, max_tokens=9, truncate_prompt_tokens=20, echo=True)
        assert answer["choices"][0]["text"] == kept + expected
        assert answer["choices"][1]["text"].startswith("the sea")
        counts = {"prompt_tokens": 20 + len(tokenizer.encode("the sea")), "left_out_tokens": len(ids) - 20}
        assert counts.items() <= answer["usage"].items()
    turns = [{"role": "system", "content": "brief"}]
    for text in ("the sea", "the day", "the clock", "the water"):
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "it is water, and more water"}]
    turns.pop()
    body = {"model": "tiny", "messages": turns, "max_tokens": 9, "temperature": 0}
    cut = server.client.post("/v1/chat/completions", json=body | {"truncate_prompt_tokens": 60}).json()
    assert cut["usage"]["prompt_tokens"] <= 60
    whole = len(PlainTemplate(tokenizer).encode([Message(turn["role"], turn["content"]) for turn in turns]))  # type: ignore[arg-type]
    assert cut["usage"]["left_out_tokens"] == whole - cut["usage"]["prompt_tokens"] > 0
    for dropped in (2, 4, 6):
        fewer = server.client.post("/v1/chat/completions", json=body | {"messages": [turns[0], *turns[1 + dropped :]]})
        if fewer.json()["usage"]["prompt_tokens"] == cut["usage"]["prompt_tokens"]:
            break
    assert fewer.json()["choices"] == cut["choices"]


def test_openai_client(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert {"tiny"} <= {listed.id for listed in client.models.list().data}
        done = client.completions.create(model="tiny", prompt="the sea", max_tokens=20, temperature=0, logprobs=2)
        [expected] = neolm.generate(model, tokenizer, "the sea", max_new_tokens=20)
        assert done.choices[0].text == expected
        assert done.choices[0].logprobs is not None
        stream = client.completions.create(model="tiny", prompt="the sea", max_tokens=20, temperature=0, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == expected
        chat = client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "sea"}]},
            ],
            max_completion_tokens=9,
            logprobs=True,
            top_logprobs=3,
            n=2,
            seed=1,
        )
        assert len(chat.choices) == 2
        scores = chat.choices[0].logprobs
        assert scores is not None
        assert scores.content
        assert len(scores.content[0].top_logprobs) == 3
        assert math.exp(scores.content[0].logprob) <= 1
        with client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "the sea"}], max_tokens=9, stream=True
        ) as pieces:
            assert [piece for piece in pieces][-1].choices[0].finish_reason in ("length", "stop")  # noqa: C416
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.models.retrieve("none")
        with pytest.raises(openai.BadRequestError, match="context is 96"):
            client.completions.create(model="tiny", prompt="sea " * 200)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x"}, "model: Field required"),
    ({"model": "tiny", "prompt": 5}, "prompt: must be a text, a list of token ids, or a list of either"),
    ({"model": "tiny", "prompt": ["a", [1]]}, "prompt: must have all its prompts as texts, or all as lists"),
    ({"model": "tiny", "prompt": ["a"] * 129}, "prompt: has 129 prompts, the limit is 128"),
    ({"model": "tiny", "prompt": [True]}, "prompt: has token ids that are not whole numbers"),
    ({"model": "tiny", "prompt": []}, ""),
    ({"model": "tiny", "prompt": [-1]}, "prompt: has token ids that are not whole numbers"),
    ({"model": "tiny", "prompt": [5000]}, "outside the model's"),
    ({"model": "tiny", "temperature": 3}, "temperature: Input should be less than or equal to 2"),
    ({"model": "tiny", "temperature": "hot"}, "temperature"),
    ({"model": "tiny", "top_p": -0.1}, "top_p"),
    ({"model": "tiny", "n": 0}, "n: "),
    ({"model": "tiny", "n": 16, "max_tokens": 5}, "16 answers are requested, the limit is 8"),
    ({"model": "tiny", "max_tokens": -1}, "max_tokens"),
    ({"model": "tiny", "max_tokens": 10**30}, "max_tokens"),
    ({"model": "tiny", "stop": "x" * 257}, "stop.0: String should have at most 256 characters"),
    ({"model": "tiny", "top_k": -2}, "top_k"),
    ({"model": "tiny", "min_p": 0.1}, "min_p"),
    ({"model": "tiny", "tools": [{"type": "function"}]}, "tools: these models call no tools"),
    ({"model": "tiny", "store": 5}, "store"),
    ({"model": "tiny", "stop": ["x"] * 17}, "stop"),
    ({"model": "tiny", "logprobs": 21}, "logprobs"),
    ({"model": "tiny", "logprobs": False}, "logprobs: must be a number"),
    ({"model": "tiny", "temperature": "0.5"}, "temperature: must be a number"),
    ({"model": "tiny", "echo": 0}, "echo: Input should be a valid boolean"),
    ({"model": "tiny", "seed": 2**63}, "seed"),
    ({"model": "tiny", "logit_bias": {"x": 1}}, "logit_bias"),
    ({"model": "tiny", "suffix": "end"}, "suffix: is not supported: these models only continue a text"),
    ({"model": "tiny", "best_of": 3}, "best_of must be as many as n"),
    ({"model": "tiny", "stream_options": {"include_usage": True}}, "stream_options needs stream"),
    ({"model": "tiny", "tempreature": 1}, "tempreature: unknown field"),
]


def test_null_and_empty_fields_are_ignored(server: Any) -> None:
    names = ("temperature", "top_p", "top_k", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias")
    more = ("seed", "stream", "stream_options", "user", "max_tokens", "echo", "logprobs", "best_of", "suffix", "tools")
    body = {"model": "tiny", "prompt": "the sea", "ignore_eos": True, **dict.fromkeys([*names, *more, "unheard_of"])}
    assert server.client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 16
    right = server.ask(prompt="the sea", max_tokens=20)["choices"]
    for nothing in ({"stop": ""}, {"stop": ["", "q" * 9]}, {"suffix": ""}, {"top_k": 0}, {"top_k": -1}, {"tools": []}):
        assert server.ask(prompt="the sea", max_tokens=20, **nothing)["choices"] == right
    assert server.ask(prompt=None)["choices"] == server.ask(prompt="")["choices"] == server.ask(prompt=[])["choices"]


def test_fields_that_clients_and_frameworks_send_are_ignored(server: Any) -> None:
    ignored = {
        **{"store": False, "metadata": {"a": "b"}, "service_tier": "auto", "user": "me", "safety_identifier": "me"},
        **{"prompt_cache_key": "x", "parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low"},
        **{"tool_choice": "none", "function_call": "auto", "modalities": ["text"], "min_p": 0, "tools": []},
        **{"functions": None, "prediction": None, "audio": None, "response_format": {"type": "text"}},
    }
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        parts = [{"type": "text", "text": "the sea", "cache_control": {"type": "ephemeral"}}]
        turns: list[Any] = [{"role": "user", "content": parts}]
        plain = client.chat.completions.create(model="tiny", messages=turns, temperature=0, max_tokens=8)
        more = {"model": "tiny", "messages": turns, "temperature": 0, "max_tokens": 8, **ignored}
        assert server.client.post("/v1/chat/completions", json=more).json()["choices"][0]["message"]["content"] == (
            plain.choices[0].message.content
        )
        answer = plain.choices[0].message.model_dump()  # with all fields of the client's class, as null
        again = [*turns, answer, {"role": "assistant", "content": None}, {"role": "user", "content": "and the day?"}]
        assert client.chat.completions.create(model="tiny", messages=again, max_tokens=2).choices


def test_max_tokens_may_exceed_the_limit_if_the_context_ends_before(directory: Path, start: Callable[..., Any]) -> None:
    with start([str(directory)], max_tokens=40, feedback="off") as server:
        error = server.error("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 8192})
        assert "max_tokens is 8192, the limit of this server is 40" in error["message"]
        assert error["param"] == "max_tokens"
        ids = [5] * 60
        answer = server.ask(prompt=ids, max_tokens=8192, ignore_eos=True)
        assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 37)


def test_chat_ignores_stop_strings_in_the_space_before_an_answer(server: Any, tokenizer: Tokenizer) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the sea"}], "max_tokens": 20, "temperature": 0}
    [space] = tokenizer.encode(" ")
    whole = server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert whole.strip()
    cut = whole.partition(whole[2])[0]
    spaces = {"logit_bias": {str(space): 100}, "max_tokens": 3}
    stopped = server.client.post("/v1/chat/completions", json=body | {"stop": whole[2]}).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == (cut, "stop")
    blank = server.client.post("/v1/chat/completions", json=body | spaces | {"stop": " "}).json()["choices"][0]
    assert (blank["message"]["content"], blank["finish_reason"]) == ("", "length")


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_errors_name_the_field(server: Any, body: dict[str, Any], words: str) -> None:
    if body.get("prompt") == []:  # no tokens: the start of a document
        assert server.client.post("/v1/completions", json=body).status_code == 200
        return
    error = server.error("/v1/completions", body)
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000),
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "temperature": NaN}',
        b'{"model": "tiny", "model": "none", "temperature": Infinity}',
        b'{"model": "tiny", "metadata": {"a": NaN}}',
        b'{"model": "tiny", "metadata": NaN}',
        b'{"model": "tiny", "metadata": -Infinity}',
        b'{"model": "tiny", "metadata": {"a": 1e999}}',
        b'{"model": "tiny", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "x", "model": "tiny"}',
        b'{"model": "tiny", "logit_bias": {"5": 1, "5": -1}}',
        b'{"model": "tiny", "\\ud800": 1}',
        b'{"model": "tiny", "\\ud800": 1, "\\ud800": 2}',
        b'{"model": "\\ud800", "prompt": "x"}',
        b'{"model": "tiny", "user": "\\udc00"}',
        b'{"model": "tiny", "metadata": {"\\ud800": "x"}}',
        b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
        '{"model": "tiny", "prompt": "x"}'.encode("utf-16"),
        b'{"model": "tiny", "seed": ' + b"9" * 400 + b"}",
        b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "temperature": ' + b"9" * 400 + b"}",
        b'{"model": "tiny", "metadata": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"model": "tiny", "metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/api/feedback"])
def test_invalid_bodies_are_refused(server: Any, raw: bytes, path: str) -> None:
    answer = server.client.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_what_is_wrong_with_a_body_is_said(server: Any) -> None:
    cases: list[tuple[bytes, str]] = [
        (b'{"model": 1, "model": 2}', "the key 'model' occurs twice"),
        (b'{"model": NaN}', "NaN is not a JSON value"),
        (b"[" * 5000, "it is nested too deeply"),
        ('{"model": "x"}'.encode("utf-16"), "it is not UTF-8"),
        (b"9" * 5000, "a number has too many digits"),
        (b'{"model": ', "Expecting value"),
        (json.dumps({"metadata": {str(n): "" for n in range(1025)}}).encode(), "it has too many parts"),
        (json.dumps({"messages": [{}] * 8192}).encode(), "it has too many parts"),
    ]
    for raw, reason in cases:
        answer = server.client.post("/v1/completions", content=raw, headers={"Content-Type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_json")
        assert error["message"].startswith(f"the body is not valid JSON: {reason}")
    marked = b'\xef\xbb\xbf{"model": "tiny", "prompt": "x", "max_tokens": 1}'
    answer = server.client.post("/v1/completions", content=marked, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_invalid_chats_are_refused(server: Any) -> None:
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    for change, words in [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "no pictures"),
        ({"messages": [{"role": "user", "content": "sea " * 200}]}, "context is 96"),
        ({"tools": [{"type": "function"}]}, "tools: these models call no tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
    ]:
        assert words in server.error("/v1/chat/completions", {**ask, **change})["message"]
    assert server.error("/v1/chat/completions", {**ask, "model": "none"}, 404)["code"] == "model_not_found"


def test_greedy_answers_are_the_same_under_load(server: Any, model: Decoder, tokenizer: Tokenizer) -> None:
    prompts = [f"{prompt} {number}" for number in range(8) for prompt in PROMPTS[:4]]
    expected = [neolm.generate(model, tokenizer, prompt, max_new_tokens=20)[0] for prompt in prompts]

    def one(prompt: str) -> str:
        return str(server.ask(prompt=prompt, max_tokens=20)["choices"][0]["text"])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, prompts)) == expected


def test_a_disconnected_client_cancels_its_requests(
    tmp_path: Path, start: Callable[..., Any], write: Callable[..., Path]
) -> None:
    with start([str(write(tmp_path / "long", context=4096))], feedback="off") as server:
        server.ask(model="long", prompt="the", max_tokens=1)
        engine = server.service.pool.models["long"].engine
        free = engine.scheduler.block_manager.num_free
        for stream in (True, False):
            ask = {"model": "long", "prompt": "the", "max_tokens": 4000, "ignore_eos": True, "n": 16, "stream": stream}
            body = json.dumps(ask)
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
                head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                waiting_for(lambda: len(engine.scheduler.decoding) >= 2)
                under_way = list(engine.scheduler.decoding)
            waiting_for(lambda: engine.num_running == 0 and engine.num_waiting == 0)
            assert [request.finished.reason for request in under_way] == ["cancelled"] * len(under_way)
        assert engine.scheduler.block_manager.num_reserved == 0
        assert engine.scheduler.block_manager.num_free == free


def test_a_slow_reader_does_not_delay_others(server: Any) -> None:
    body = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 90, "n": 8, "ignore_eos": True, "stream": True})
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        for _ in range(5):
            assert server.ask(prompt="the sea", max_tokens=5)["usage"]["completion_tokens"] == 5
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = slow.recv(2048)
            assert part
            received += part
    assert received.count(b'"finish_reason":"length"') == 8
    assert b"[DONE]" in received


def test_a_full_queue_gives_429_with_retry_after(directory: Path, start: Callable[..., Any]) -> None:
    with start([str(directory)], queue=1, together=1, feedback="off", max_tokens=4096, choices=16) as server:
        server.ask(prompt="x", max_tokens=1)  # loads the model
        statuses: list[int] = []
        again: list[str | None] = []

        def one() -> None:
            body = {"model": "tiny", "prompt": "the", "max_tokens": 80, "ignore_eos": True}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                again.append(answer.headers.get("retry-after"))

        threads = [threading.Thread(target=one) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429}
        assert set(again) == {"5"}
        assert server.client.get("/health").status_code == 200


def test_models_are_loaded_and_closed_with_the_memory(
    tmp_path: Path, start: Callable[..., Any], write: Callable[..., Path]
) -> None:
    for number in range(3):
        write(tmp_path / f"m{number}", seed=number)
    places = [str(tmp_path / f"m{number}") for number in range(3)]
    with start(places, memory=0.025, feedback="off") as server:
        pool = server.service.pool
        texts = {}
        for name in ("m0", "m1", "m2", "m0", "m2"):
            text = server.ask(model=name, prompt="the sea", max_tokens=10)["choices"][0]["text"]
            assert texts.setdefault(name, text) == text
            assert sum(model.size for model in pool.loaded) <= pool.memory
            assert pool.models[name].engine is not None
        assert len(set(texts.values())) == 3
        for wrong in (
            {"prompt": "sea " * 200},
            {"prompt": ["sea"] * 17, "max_tokens": 2},
        ):  # no model is loaded or closed for these
            server.error("/v1/completions", {"model": "m1", **wrong})
        loaded = {entry["id"]: entry["loaded"] for entry in server.client.get("/v1/models").json()["data"]}
        assert loaded == {"m0": True, "m1": False, "m2": True}
        with ThreadPoolExecutor(9) as pool:  # all at once: the models take turns
            asked = [pool.submit(server.ask, model=f"m{n % 3}", prompt="the sea", max_tokens=10) for n in range(9)]
            for number, answer in enumerate(asked):
                assert answer.result()["choices"][0]["text"] == texts[f"m{number % 3}"]


def test_models_that_fit_are_loaded_at_the_start(
    tmp_path: Path, start: Callable[..., Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [str(write(tmp_path / f"m{number}", seed=number)) for number in range(4)]

    def load(directory: Path, *how: Any) -> Decoder:
        if directory.name == "m1":
            raise InputError("it is broken")
        return load_model(directory, *how)

    monkeypatch.setattr(generation_model, "load_decoder", load)
    with start(places, memory=0.025, feedback="off", preload=True) as server:
        waiting_for(lambda: server.client.get("/ready").status_code == 200)
        assert [model.engine is not None for model in server.service.pool.models.values()] == [
            True,
            False,
            True,
            False,
        ]
        assert (
            "the server's log says why"
            in server.error("/v1/completions", {"model": "m1", "prompt": "x"}, 503)["message"]
        )
        assert server.ask(model="m3", prompt="the sea", max_tokens=3)["usage"]["completion_tokens"] == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("message", ["no such block", "I/O operation on closed file"])
def test_a_model_whose_engine_failed_is_loaded_again(
    directory: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    with start([str(directory)], feedback="off") as server:
        right = server.ask(prompt="the sea", max_tokens=10)
        engine = server.service.pool.models["tiny"].engine

        def fail(spans: object) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(engine, "_logits", fail)
        error = server.error("/v1/completions", {"model": "tiny", "prompt": "the sea"}, 500)
        assert message in error["message"]
        assert server.ask(prompt="the sea", max_tokens=10)["choices"] == right["choices"]
        assert server.client.get("/ready").status_code == 200
