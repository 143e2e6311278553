"""`/v1/decisions` and `/v1/systemone`: what `neolm decide` says, over HTTP, in the forms of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Decision
from served import Running, running, write_model
from tiny_encoders import write_classifier, write_encoder

import neolm
from neolm.serving.server.decision_schema import Decisions, NamedDecisions
from neolm.serving.server.keys import new_key

LISTED, NAMED = "/v1/decisions", "/v1/systemone"
STATE = "the cold sea, and the water of the day"
KINDS = ("bert", "nli", "tiny")
QUESTIONS: list[dict[str, Any]] = [
    {"type": "choice", "name": "topic", "instructions": "what is it"}
    | {"choices": [{"value": "sea"}, {"value": "clock", "description": "the day"}, {"value": True}, {"value": "true"}]},
    {"type": "predicate", "instructions": [{"type": "input_text", "text": "it is cold"}]},
    {"type": "score", "name": "wet", "instructions": "how wet", "levels": [{"label": "day"}, {"label": "sea"}]},
]
MAPPING: dict[str, Any] = {
    "topic": {"type": "choice", "instructions": "what is it", "criteria": {"sea": None, "clock": {"a": "day"}}},
    "cold": {"type": "noul", "instructions": ["it is", "cold"], "criteria": {"true": "cold", "false": "the day"}},
    "wet": {"type": "score", "criteria": ["day", "sea", {"a": 1}]},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("deciders")
    labels = ("entailment", "not_entailment")
    found = {
        "bert": write_encoder(place / "bert"),
        "nli": write_classifier(place / "nli", {"pair": True, "temperature": 1.5}, num_labels=2, labels=labels),
        "tiny": write_model(place / "tiny", context=160),
        "topics": write_classifier(place / "topics"),
    }
    settings = {"temperature": {"choice": 2.0}, "predicate_cosine": 0.5}
    (found["bert"] / "decision.json").write_text(json.dumps(settings), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def server(models: dict[str, Path]) -> Iterator[Running]:
    with running([str(path) for path in models.values()], inputs=100, queue=60) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def same(found: Any, expected: Any) -> None:
    """Equal up to the rounding of probabilities."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list):
        for pair in zip(found, expected, strict=True):
            same(*pair)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def post(server: Running, path: str, **body: Any) -> dict[str, Any]:
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    (Decisions if path == LISTED else NamedDecisions).model_validate(answer.json())
    return dict(answer.json())


@pytest.mark.parametrize("model", KINDS)
def test_the_official_client_gets_what_decide_says(client: openai.OpenAI, models: dict[str, Path], model: str) -> None:
    found = client.decisions.create(model=model, input=STATE, questions=QUESTIONS)  # type: ignore[arg-type]
    Decision.model_validate(found.to_dict(), strict=True)
    same(
        json.loads(found.model_dump_json(exclude={"model", "usage"}))["answers"],
        ordered(neolm.decide(models[model], STATE, QUESTIONS), found),
    )
    topic, cold, wet = found.answers
    assert topic.type == "choice"
    assert [type(one.value) for one in topic.probabilities] == [str, str, bool, str]
    assert (topic.name, cold.name, wet.name) == ("topic", None, "wet")
    assert (found.model, found.usage.output_tokens) == (model, 0)
    assert found.usage.total_tokens == found.usage.input_tokens > 20


def ordered(expected: Any, found: Decision) -> list[dict[str, Any]]:
    """The expected answers with their keys in the order in which the client has them."""
    shown = json.loads(found.model_dump_json())["answers"]
    answers = []
    for answer, one in zip(shown, expected, strict=True):
        row = {key: one[key] for key in answer}
        if "probabilities" in row:
            row["probabilities"] = [
                {key: chance[key] for key in answer["probabilities"][0]} for chance in one["probabilities"]
            ]
        answers.append(row)
    return answers


@pytest.mark.parametrize("model", KINDS)
def test_system_one_gets_what_decide_says(server: Running, models: dict[str, Path], model: str) -> None:
    for state in (STATE, {"message": STATE, "n": [1, None]}, [STATE, {"é": "sea"}]):
        found = post(server, NAMED, model=model, state=state, questions=MAPPING)
        same(found["answers"], neolm.decide(models[model], state, MAPPING))
        assert found["usage"]["output_tokens"] == 0


@pytest.mark.parametrize("model", KINDS)
def test_requests_at_once_get_what_they_get_alone(server: Running, models: dict[str, Path], model: str) -> None:
    states = [f"{STATE} {word}" for word in ("sea", "clock", "day", "cold", "water", "is", "was", "of")]
    expected = [neolm.decide(models[model], state, MAPPING) for state in states]
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda state: post(server, NAMED, model=model, state=state, questions=MAPPING), states)
        for found, one in zip(answers, expected, strict=True):
            same(found["answers"], one)


def test_what_has_no_text_in_it_is_computed_once(server: Running) -> None:
    for model in ("bert", "tiny"):
        asked = {"q": {"type": "choice", "criteria": dict.fromkeys(f"{model} is {word}" for word in ("sea", "day"))}}
        used = [
            post(server, NAMED, model=model, state=STATE, questions=asked)["usage"]["input_tokens"] for _ in range(2)
        ]
        assert 0 < used[1] < used[0]


def test_options_of_a_decoder_share_the_text(server: Running, models: dict[str, Path]) -> None:
    post(server, NAMED, model="tiny", state="the sea", questions=MAPPING)
    engine = server.service.pool.models["tiny"].engine
    run, computed = engine.model_runner.run, []

    def counted(cache: Any, spans: Any) -> Any:
        computed.append(sum(len(span.ids) for span in spans))
        return run(cache, spans)

    engine.model_runner.run = counted
    try:
        criteria = dict.fromkeys(f"the {word} is cold" for word in ("sea", "day", "clock", "water", "april"))
        asked = {"q": {"type": "choice", "instructions": "what is it now", "criteria": criteria}}
        long = STATE + " it was a bright cold day in april" * 2
        found = post(server, NAMED, model="tiny", state=long, questions=asked)
        assert sum(computed) < 0.6 * found["usage"]["input_tokens"]
    finally:
        engine.model_runner.run = run
    same(found["answers"], neolm.decide(models["tiny"], long, asked))


def test_cached_options_are_scored_whole(server: Running, models: dict[str, Path]) -> None:
    criteria = {"the sea and the day and the clock " * 4: None, "cold water in april " * 6: None}
    asked = {"q": {"type": "choice", "criteria": criteria}}
    for _ in range(2):  # the second time, all blocks of tokens are in the KV cache
        found = post(server, NAMED, model="tiny", state="the sea", questions=asked)
        same(found["answers"], neolm.decide(models["tiny"], "the sea", asked))


def test_strict_servers_decide_too(models: dict[str, Path]) -> None:
    with running([str(models["tiny"])], strict=True, text_memory=0.05) as strict:
        found = post(strict, NAMED, model="tiny", state=STATE, questions=MAPPING)
        same(found["answers"], neolm.decide(models["tiny"], STATE, MAPPING))
        assert post(strict, NAMED, model="tiny", state=STATE, questions=MAPPING)["answers"] == found["answers"]


def test_messages_are_read_as_text(server: Running, models: dict[str, Path]) -> None:
    def asked(given: Any) -> list[Any]:
        return list(post(server, LISTED, model="bert", input=given, questions=QUESTIONS)["answers"])

    def expected(text: str) -> Any:
        return neolm.decide(models["bert"], text, QUESTIONS)

    parts = [{"type": "input_text", "text": "the sea"}, {"type": "input_json", "data": {"a": ["cold"]}}]
    same(asked([{"role": "user", "content": STATE}]), expected(STATE))
    same(asked([{"role": "user", "content": parts}]), expected('the sea\n{"a": ["cold"]}'))
    conversation = [
        {"type": "message", "role": "system", "content": "the day"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "cold"}]},
        {"type": "function_call", "name": "clock", "call_id": "1", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "1", "output": "the sea"},
    ]
    whole = 'system: the day\n\nassistant: cold\n\nclock: {"a": 1}\n\nfunction_call_output: the sea'
    same(asked(conversation), expected(whole))


@pytest.mark.parametrize("model", ["bert", "nli"])
def test_a_long_state_is_read_whole(server: Running, models: dict[str, Path], model: str) -> None:
    long = "the sea is cold " * 20
    found = post(server, NAMED, model=model, state=long, questions=MAPPING)
    same(found["answers"], neolm.decide(models[model], long, MAPPING))
    assert found["usage"]["input_tokens"] > 80


CHOICE: Mapping[str, Any] = {"type": "choice", "instructions": "a"}
PREDICATE: Mapping[str, Any] = {"type": "predicate", "instructions": "a"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"questions": []}, "questions", "at least 1 item"),
        ({"questions": None}, "questions", "valid list"),
        ({"questions": [CHOICE]}, "questions", "questions.0: it needs at least two options, and there is none"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}]}]}, "questions", "two options, and there is one"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}] * 2}]}, "questions", "the option 'a' occurs twice"),
        ({"questions": [{**CHOICE, "choices": [{"value": 3}]}]}, "questions.0.choices.0.value.str", "valid string"),
        (
            {"questions": [{**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}]},
            "questions.0.choices",
            "at most 255",
        ),
        (
            {"questions": [{"type": "rank", "instructions": "a"}]},
            "questions.0.type",
            "'predicate', 'choice' or 'score'",
        ),
        ({"questions": [{**PREDICATE, "criteria": {}}]}, "questions.0.criteria", "unknown field"),
        ({"questions": [PREDICATE] * 401}, "questions", "at most 400"),
        (
            {
                "questions": [
                    {**PREDICATE, "instructions": f"{chr(97 + n % 26)} {chr(97 + n // 26)}"} for n in range(100)
                ]
            },
            "questions",
            "101 texts to read, the limit is 100",
        ),
        (
            {"model": "tiny", "questions": [{**PREDICATE, "instructions": f"a {n}"} for n in range(40)]},
            "questions",
            "texts to read, the limit is 60",
        ),
        ({"input": ""}, "input", "input: the state is empty"),
        ({"input": [{"role": "user", "content": " "}]}, "input", "input: the state is empty"),
        ({"input": []}, "input", "input: the state is empty"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input",
            "input: 0: a part",
        ),
        ({"input": [{"type": "reasoning"}]}, "input", "input: 0: the type 'reasoning' is not known"),
        ({"input": [{"content": "a"}]}, "input", "input: 0: a message needs a text, and who it is from"),
        ({"input": "\ud800"}, None, "half of a surrogate pair"),
        ({"questions": [{**PREDICATE, "instructions": "sea " * 50}]}, "input", "input: an option is"),
        ({"model": "tiny", "input": "sea " * 170}, "input", "the context of the model is 160"),
        ({"model": "topics"}, "model", "topics is a classifier with labels of its own: POST /v1/classify"),
        ({"temperature": 1}, "temperature", "unknown field"),
    ],
)
def test_mistakes_are_explained(server: Running, body: dict[str, Any], param: str | None, message: str) -> None:
    whole = {"model": "bert", "input": STATE, "questions": [PREDICATE], **body}
    answer = server.client.post(LISTED, content=json.dumps(whole), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"state": {}}, "state", "state: the state is empty"),
        ({"state": {"a": float("1e999")}}, None, "not finite"),
        ({"state": 3}, "state.str", "valid string"),
        ({"questions": {}}, "questions", "at least 1"),
        (
            {"questions": {"a": {"type": "choice", "criteria": {"b": None}}}},
            "questions",
            "questions.a: it needs at least two",
        ),
        ({"questions": {"a": {"type": "noul"}}}, "questions", "questions.a: it has neither instructions nor"),
        ({"assets": {"a": {}}}, "assets", "unknown field"),
    ],
)
def test_mistakes_of_system_one(server: Running, body: dict[str, Any], param: str | None, message: str) -> None:
    whole = json.dumps({"model": "bert", "state": STATE, "questions": MAPPING, **body}).replace("Infinity", "1e999")
    answer = server.client.post(NAMED, content=whole, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize("depth", [300, 900, 980, 990, 2000])
def test_nesting_is_no_failure(server: Running, depth: int) -> None:
    state = "[" * depth + "1" + "]" * depth
    body = f'{{"model": "bert", "state": {state}, "questions": {json.dumps(MAPPING)}}}'
    answer = server.client.post(NAMED, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400), answer.text


def test_ignored_fields_and_unknown_models(server: Running) -> None:
    ignored = {"prompt_cache_key": "a", "safety_identifier": "b", "prompt_cache_options": {"ttl": "30m"}, "assets": {}}
    post(server, LISTED, model="bert", input=STATE, questions=[PREDICATE], **ignored)
    assert server.error(LISTED, {"model": "none", "input": STATE, "questions": [PREDICATE]}, 404)["code"]


def test_keys_do_not_see_what_others_have_asked(models: dict[str, Path], tmp_path: Path) -> None:
    keys = [new_key(tmp_path / "keys", name, None, None) for name in ("ann", "bob")]
    with running([str(models["bert"])], key=keys[0], keys=str(tmp_path / "keys")) as server:
        body = {"model": "bert", "state": STATE, "questions": MAPPING}
        first = post(server, NAMED, **body)["usage"]["input_tokens"]
        assert post(server, NAMED, **body)["usage"]["input_tokens"] < first
        server.client.headers["Authorization"] = f"Bearer {keys[1]}"
        assert post(server, NAMED, **body)["usage"]["input_tokens"] == first


def test_limits_of_tokens(models: dict[str, Path]) -> None:
    with running([str(models[name]) for name in KINDS], prompt_tokens=30) as server:
        for model in KINDS:
            error = server.error(NAMED, {"model": model, "state": "the sea " * 30, "questions": MAPPING})
            assert "this server takes 30" in error["message"]
            assert (error["param"], error["code"]) == ("state", "context_length_exceeded")
