"""`/v1/classify`: what `neolm predict` says, over HTTP, beside models of other kinds; limits and mistakes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from served import TEXT, Running, running, waiting_for
from tiny_encoders import VOCABULARY, write_classifier, write_encoder
from tiny_models import tiny_decoder

import neolm
from neolm.models.hf import save_model
from neolm.serving.server.classify_schema import ClassificationList
from neolm.serving.server.keys import new_key
from neolm.tokenizer.tokenizer import train_tokenizer

PATH = "/v1/classify"
TEXTS = ["the sea", "cold water in the sea, and the clock", "?", "a day " * 30]  # the last one is read in windows
LABELS = ("sea", "day", "clock")


def write_decoder(directory: Path) -> Path:
    save_model(tiny_decoder("gpt-neo", 32, head="sequence", num_labels=3, window_size=24), directory)
    train_tokenizer(iter([TEXT] * 3), 310).save(directory)
    return directory


@pytest.fixture(scope="module")
def models(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifiers of all kinds, an encoder and a model that writes."""
    place = tmp_path_factory.mktemp("classifiers")
    several = {"num_labels": 3, "labels": LABELS, "problem": "multi_label_classification"}
    return {
        "topics": write_classifier(place / "topics", {"temperature": 1.7, "abstain_below": 0.41}, labels=LABELS),
        "cut": write_classifier(place / "cut", {"long_text": "truncate", "window_tokens": 8}),
        "several": write_classifier(place / "several", {"thresholds": {"day": 0.2, "sea": 0.9}}, **several),
        "number": write_classifier(place / "number", num_labels=1),
        "pairs": write_classifier(place / "pairs", {"pair": True}, labels=LABELS),
        "gpt": write_decoder(place / "gpt"),
        "bert": write_encoder(place / "bert"),
        "tiny": directory,
    }


@pytest.fixture(scope="module")
def all_kinds(models: dict[str, Path]) -> Iterator[Running]:
    with running([str(path) for path in models.values()], inputs=100, scores=250) as server:
        yield server


def classify(server: Running, model: str, given: Any, **body: Any) -> list[dict[str, Any]]:
    answer = server.client.post(PATH, json={"model": model, "input": given, **body})
    assert answer.status_code == 200, answer.text
    found = ClassificationList.model_validate(answer.json())
    assert [row.index for row in found.data] == list(range(len(found.data)))
    return [{name: value for name, value in row.items() if name != "index"} for row in answer.json()["data"]]


def predicted(path: Path, texts: Any) -> list[dict[str, Any]]:
    """What `neolm predict` says of the texts, in the form of the API."""
    rows = []
    for row in neolm.predict(path, texts):
        found = {name: value for name, value in row.items() if name != "text"}
        if isinstance(found.get("label"), list):
            chances = found["probability"]
            found |= {"probability": [chances[name] for name in found["label"]], "probabilities": chances}
        rows.append(found)
    return rows


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if name in ("label", "windows", "window", "left_out_tokens"):
                assert row[name] == value
            else:
                assert row[name] == pytest.approx(value, rel=0, abs=1e-6)


@pytest.mark.parametrize("model", ["topics", "cut", "several", "number", "gpt"])
def test_results_are_those_of_predict(all_kinds: Running, models: dict[str, Path], model: str) -> None:
    found = classify(all_kinds, model, TEXTS)
    same(found, predicted(models[model], TEXTS))
    same(classify(all_kinds, model, TEXTS[0]), found[:1])
    same(classify(all_kinds, model, [{"text": text} for text in TEXTS]), found)


def test_the_models_cover_what_prediction_json_says(all_kinds: Running) -> None:
    topics = classify(all_kinds, "topics", TEXTS)
    assert {row["label"] for row in topics} > {None}  # some abstain, not all
    assert topics[3]["windows"] > 1
    assert "windows" not in topics[0]
    assert classify(all_kinds, "cut", TEXTS)[3]["left_out_tokens"] == 54
    several = classify(all_kinds, "several", TEXTS)
    assert any(set(row["label"]) != {n for n, p in row["probabilities"].items() if p >= 0.5} for row in several)
    assert all([*row["probabilities"].values()] == sorted(row["probabilities"].values())[::-1] for row in several)


def test_pairs_are_read_together(all_kinds: Running, models: dict[str, Path]) -> None:
    pairs = [("the sea", "the day"), ("the day", "the sea"), ("the sea " * 30, "cold water")]
    found = classify(all_kinds, "pairs", [{"text": a, "second": b} for a, b in pairs])
    same(found, predicted(models["pairs"], pairs))
    assert found[0]["probability"] != found[1]["probability"]
    assert found[2]["left_out_tokens"] > 0
    same(classify(all_kinds, "pairs", {"text": "the sea", "second": "the day"}), found[:1])


def test_top_k_keeps_the_likeliest_labels(all_kinds: Running) -> None:
    whole = classify(all_kinds, "topics", TEXTS)
    for row, other in zip(classify(all_kinds, "topics", TEXTS, top_k=2), whole, strict=True):
        assert row["probabilities"] == pytest.approx(dict([*other["probabilities"].items()][:2]), abs=1e-6)
        assert row["probability"] == max(row["probabilities"].values())
    assert len(classify(all_kinds, "topics", "the sea", top_k=50)[0]["probabilities"]) == 3


@pytest.mark.parametrize("model", ["topics", "several", "number", "gpt"])
def test_words_are_left_out_in_turn(all_kinds: Running, models: dict[str, Path], model: str) -> None:
    text = "cold water, the U.S sea"
    [found] = classify(all_kinds, model, text, explain=True, top_k=1)
    words = found.pop("words")
    same([found], classify(all_kinds, model, text, top_k=1))
    rests = [
        *("water, the U.S sea", "cold, the U.S sea", "cold water the U.S sea"),
        *("cold water, U.S sea", "cold water, the sea", "cold water, the U.S"),
    ]
    whole, *others = predicted(models[model], [text, *rests])
    chances = whole.get("probabilities", {"score": whole.get("score")})
    label = max(chances, key=lambda name: chances[name])
    expected = [chances[label] - other.get("probabilities", other)[label] for other in others]
    assert [word["effect"] for word in words] == pytest.approx(expected, abs=1e-6)
    assert max(map(abs, expected)) > 1e-3
    assert [text[word["start"] : word["end"]] for word in words] == ["cold", "water", ",", "the", "U.S", "sea"]
    assert {word["field"] for word in words} == {"text"}


def test_words_of_pairs_and_of_one_word(all_kinds: Running) -> None:
    [found] = classify(all_kinds, "pairs", {"text": "sea", "second": "the day"}, explain=True)
    shown = [(word["text"], word["field"], word["effect"] is None) for word in found["words"]]
    assert shown == [("sea", "text", True), ("the", "second", False), ("day", "second", False)]


def test_requests_at_once_get_what_they_get_alone(
    all_kinds: Running, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(1)
    asked = [
        [" ".join(generator.choices(VOCABULARY[5:20], k=generator.randrange(1, 60))) for _ in range(count)]
        for count in generator.choices((1, 4), k=40)
    ]
    expected = iter(predicted(models["topics"], [text for texts in asked for text in texts]))
    classify(all_kinds, "topics", "the sea")
    engine = all_kinds.service.pool.models["topics"].engine
    compute, sizes = engine.compute, []

    def slowly(rows: Any) -> torch.Tensor:
        sizes.append(len(rows))
        time.sleep(0.01)
        return torch.as_tensor(compute(rows))

    monkeypatch.setattr(engine, "compute", slowly)
    with ThreadPoolExecutor(16) as threads:
        for texts, found in zip(asked, threads.map(lambda one: classify(all_kinds, "topics", one), asked), strict=True):
            same(found, [next(expected) for _ in texts])
    assert len(sizes) < 35  # of 40 requests


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "Field required"),
        ({"input": []}, "input", "is an empty list"),
        ({"input": None}, "input", "must be a text"),
        ({"input": ["a", 3]}, "input", "the one with index 1 is neither"),
        ({"input": [[5, 6]]}, "input", "the one with index 0 is neither"),
        ({"input": [{"second": "a"}]}, "input.0.text", "Field required"),
        ({"input": [{"text": "a", "label": "b"}]}, "input.0.label", "unknown field"),
        ({"input": ["the sea", " "]}, "input", "input.1: the text is empty"),
        ({"input": {"text": "a", "second": "b"}}, "input", "topics reads one text, and there is a second one"),
        ({"model": "pairs", "input": "a"}, "input", "input.0: pairs reads pairs: each input needs two texts"),
        ({"model": "pairs", "input": {"text": "a", "second": ""}}, "input", "input.0: the text is empty"),
        ({"input": ["a"] * 101}, "input", "has 101 texts, the limit of this server is 100"),
        ({"input": ["a"] * 2049}, "input", "has 2049 inputs, the limit is 2048"),
        ({"input": ["a"] * 90}, "top_k", "270 probabilities are requested, the limit is 250; a smaller top_k"),
        ({"input": "a", "top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"input": "a", "top_k": True}, "top_k", "must be a number"),
        ({"input": ["a", "b"], "explain": True}, "explain", "explain is for one text, and input has 2"),
        ({"input": "sea " * 61, "explain": True}, "explain", "the text has 61 words; each of at most 60"),
        ({"input": "a", "temperature": 1}, "temperature", "unknown field"),
        ({"input": "a", "model": "tiny"}, "model", "tiny is a decoder: it writes text and gives no vectors and no"),
        ({"input": "a", "model": "bert"}, "model", "bert is an encoder"),
    ],
)
def test_bad_input_is_one_clear_error(all_kinds: Running, body: dict[str, Any], param: str, message: str) -> None:
    error = all_kinds.error(PATH, {"model": "topics", **body})
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("model", ["topics", "gpt"])
def test_other_routes_say_what_a_classifier_is(all_kinds: Running, model: str) -> None:
    for path, body in (
        ("completions", {"prompt": "a"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("embeddings", {"input": "a"}),
    ):
        error = all_kinds.error(f"/v1/{path}", {"model": model, **body})
        assert f"{model} is a classifier: it gives texts labels or a number" in error["message"]
        assert "POST /v1/classify" in error["message"]
        assert (error["param"], error["code"]) == ("model", "model_not_supported")


def test_kind_and_labels_are_listed(all_kinds: Running) -> None:
    entries = {entry["id"]: entry for entry in all_kinds.client.get("/v1/models").json()["data"]}
    kinds = {name: (entry["kind"], entry["labels"], entry["pair"]) for name, entry in entries.items()}
    assert kinds["topics"] == ("classify", [*LABELS], False)
    assert kinds["pairs"] == ("classify", [*LABELS], True)
    assert kinds["number"] == ("classify", None, False)
    assert kinds["gpt"] == ("classify", ["LABEL_0", "LABEL_1", "LABEL_2"], False)
    assert kinds["bert"] == ("embed", None, None)
    assert entries["several"]["problem"] == "multi_label_classification"
    assert (entries["topics"]["context"], entries["cut"]["context"]) == (40, 8)
    card = all_kinds.client.get("/api/models/topics").json()
    assert (card["kind"], card["labels"]) == ("classify", [*LABELS])


def test_tokens_are_counted(all_kinds: Running) -> None:
    def counted() -> float:
        lines = all_kinds.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('neolm_tokens_total{kind="prompt",model="topics"}')]
        return float(found[0].split()[-1]) if found else 0.0

    before = counted()
    answer = all_kinds.client.post(PATH, json={"model": "topics", "input": ["the sea", "day"]})
    assert answer.json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert answer.headers["x-request-id"]
    waiting_for(lambda: counted() - before == 7)  # counted after the last byte is sent


def test_a_result_that_is_not_finite_fails_alone(all_kinds: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = classify(all_kinds, "topics", "the sea")
    engine = all_kinds.service.pool.models["topics"].engine
    compute = engine.compute

    def overflowing(rows: Any) -> torch.Tensor:
        found = torch.as_tensor(compute(rows))
        found[[len(ids) == 9 for ids, _ in rows]] = float("inf")
        return found

    monkeypatch.setattr(engine, "compute", overflowing)
    body = {"model": "topics", "input": ["the sea " * 30, "the day is a day in the"]}
    error = all_kinds.error(PATH, body, 500)
    assert "the result of input.1 is not finite" in error["message"]
    same(classify(all_kinds, "topics", "the sea"), expected)


def test_long_texts_and_keys_are_limited(models: dict[str, Path], tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json", "someone", None, 100)
    with running([str(models["topics"])], key, keys=str(tmp_path / "keys.json"), prompt_tokens=120) as server:
        assert httpx.post(f"{server.url}{PATH}", json={"model": "topics", "input": "a"}).status_code == 401
        error = server.error(PATH, {"model": "topics", "input": ["sea", "sea " * 150]})
        assert error["message"].startswith("input.1 is ")
        assert error["message"].endswith(" tokens, this server takes 120")
        assert error["code"] == "context_length_exceeded"
        classify(server, "topics", ["sea " * 90, "sea " * 10])  # allowed once, then owed
        assert server.error(PATH, {"model": "topics", "input": "sea"}, 429)["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.txt", "a\nb\n", "the vocabulary has no"),
        ("prediction.json", '{"task": "span"}', "task: 'span' is not done by a model with the head 'sequence'"),
        ("prediction.json", '{"task": "classification", "thresholds": {"x": 0.5}}', "the model has no label 'x'"),
    ],
)
def test_a_broken_classifier_is_one_line(
    file: str, content: str, message: str, tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]
) -> None:
    directory = write_classifier(tmp_path / "topics")
    (directory / file).write_text(content, encoding="utf-8")
    code, out, err = neolm_("serve", directory, "--port", 0, "--feedback", "off")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
