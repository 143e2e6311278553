"""A server with a moderation policy: blocked prompts, answers stopped in the middle, counters, published shapes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from scripted_decoder import write_scripted_decoder
from served import Running, running, waiting_for
from tiny_encoders import write_encoder
from word_classifier import CATEGORY, write_policy, write_word_classifier

from neolm.moderation.moderator import Moderator
from neolm.moderation.policy import OPENAI_CATEGORIES
from neolm.serving.server.moderation_schema import ModerationList
from neolm.serving.server.response_schema import ChatCompletion, Completion

SCRIPT = " the sea and the day and the clock in the sea was cold and the day was of water in the sea and the clock"
SCRIPT += " was in the water of the day and the sea was the clock of the day and the water was in the sea"
HARMLESS = " the sea and the day and the clock in the"  # the parts before the one with the word
ASK = {"model": "script", "prompt": "a", "max_tokens": 100, "temperature": 0}
Start = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("moderated")
    write_scripted_decoder(place / "script", SCRIPT)
    write_word_classifier(place / "words", {"fine": [], "bad": ["cold"]})
    write_word_classifier(place / "soft", {"fine": [], "bad": ["cold"]}, {"window_tokens": 12}, sharpness=40.0)
    write_encoder(place / "bert")
    return place


def served(place: Path, category: Any = None, **keys: Any) -> contextlib.AbstractContextManager[Running]:
    """A server whose policy has these keys, and one category."""
    fields = {"part_characters": 20, "categories": {"coldness": {**CATEGORY, **(category or {})}}, **keys}
    policy = write_policy(place / "policy.yaml", place / "words", **fields)
    models = [place / "script", place / "words", place / "bert"]
    return running([str(path) for path in models], moderation=str(policy))


@pytest.fixture(scope="module")
def blocking(place: Path) -> Iterator[Running]:
    names = {"openai": "harassment/threatening", "perspective": "TOXICITY", "prompt": "block"}
    with served(place, names, canaries=None) as server:
        yield server


def events(server: Running, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which must end properly."""
    answer = server.client.post(path, json={**ASK, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    *parts, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert end == "data: [DONE]".removeprefix("data: ")
    return [json.loads(part) for part in parts]


def counts(server: Running) -> dict[tuple[str, str, str], float]:
    """Decisions by category, side and action."""
    found = {}
    for metric in server.service.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "neolm_moderation_decisions_total":
                assert sample.labels["policy"] == server.service.moderation.moderator.digest[:12]
                found[sample.labels["category"], sample.labels["side"], sample.labels["action"]] = sample.value
    return found


# ---- answers ----


def test_a_stream_ends_where_its_text_is_blocked(blocking: Running) -> None:
    before = counts(blocking)
    parts = [chunk["choices"][0] for chunk in events(blocking, "/v1/completions")]
    assert "".join(part["text"] for part in parts) == HARMLESS
    assert len(parts) > 2  # it was sent in parts
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["content_filter"]
    assert parts[-1]["moderation"] == {
        "action": "block",
        "categories": {"coldness": 1.0},
        "sent_characters": len(HARMLESS),
        "message": "the answer was stopped by the moderation policy of this server (coldness); "
        f"{len(HARMLESS)} characters of it were sent before",
    }
    after = counts(blocking)
    assert {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)} == {
        ("coldness", "prompt", "allow"): 1,
        ("coldness", "answer", "block"): 1,
    }


def test_generation_ends_too_and_the_whole_answer_is_that_of_the_stream(blocking: Running) -> None:
    whole = blocking.ask(**ASK)
    (choice,) = whole["choices"]
    assert (choice["text"], choice["finish_reason"]) == (HARMLESS, "content_filter")
    assert whole["usage"]["completion_tokens"] < 40  # of 100
    chat = {"messages": [{"role": "user", "content": "the sea"}], "model": "script", "temperature": 0, "max_tokens": 60}
    answer = blocking.client.post("/v1/chat/completions", json=chat).json()
    ChatCompletion.model_validate(answer)
    assert "cold" not in answer["choices"][0]["message"]["content"]


def test_each_of_several_answers_is_judged_alone(blocking: Running) -> None:
    """A longer prompt skips the start of the script, here to where nothing is blocked."""
    tokens = blocking.service.pool.models["script"].tokenizer
    skipped = tokens.encode(SCRIPT[: SCRIPT.index(" and the day was of")] + " the the")
    body = {"prompt": [tokens.encode("a"), [tokens.encode("a")[0]] * len(skipped)], "n": 2, "max_tokens": 100}
    texts, ends = [""] * 4, [None] * 4
    for chunk in events(blocking, "/v1/completions", **body):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
            assert ends[choice["index"]] is None  # nothing follows the end
            ends[choice["index"]] = choice["finish_reason"]
    assert texts[0] == texts[1] == HARMLESS
    assert texts[2] == texts[3] == SCRIPT[SCRIPT.rindex(texts[2]) :]
    assert len(texts[2]) > 30
    assert ends == ["content_filter", "content_filter", "stop", "stop"]


def test_log_probabilities_of_what_is_blocked_are_not_sent(blocking: Running) -> None:
    (choice,) = blocking.ask(**ASK, logprobs=1)["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] == HARMLESS
    parts = events(blocking, "/v1/completions", logprobs=1)
    assert "cold" not in json.dumps([chunk["choices"][0]["logprobs"] for chunk in parts])


def test_openai_client_sees_the_filter(blocking: Running) -> None:
    with openai.OpenAI(base_url=f"{blocking.url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(client.completions.create(**ASK, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == HARMLESS
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        assert "were sent before" in chunks[-1].choices[0].moderation["message"]
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model="script", messages=[{"role": "user", "content": "so cold"}])
        assert (error.value.code, error.value.type) == ("content_filter", "invalid_request_error")
        found = client.moderations.create(input=["the cold sea", "the sea"], model="omni-moderation-latest")
    first, second = found.results
    assert (first.flagged, second.flagged) == (True, False)
    assert first.categories.harassment_threatening
    assert first.category_scores.harassment_threatening > 0.99
    assert first.category_applied_input_types.harassment_threatening == ["text"]
    assert first.category_applied_input_types.violence == []
    assert not first.categories.violence


def test_text_without_spaces_is_not_held_for_ever_and_not_sent_unjudged(place: Path) -> None:
    with served(place, {"labels": ["fine"], "threshold": 0.999}, canaries=None) as server:
        body = {"max_tokens": 0, "echo": True, "prompt": "x" * 90}
        (choice,) = server.ask(**(ASK | body))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "content_filter")
    assert choice["moderation"]["message"].endswith("nothing of it was sent")


# ---- prompts ----


COLD = {"type": "noul", "instructions": "it is cold"}
WET = {"type": "choice", "instructions": "is it wet", "choices": [{"value": "sea"}, {"value": "day"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", ASK | {"prompt": ["the sea", "the cold sea"]}),
        ("/v1/completions", ASK | {"prompt": "the cold sea", "stream": True}),
        ("/v1/completions", ASK | {"prompt": [[1]], "prompt_of": " cold"}),
        ("/v1/chat/completions", {"model": "script", "messages": [{"role": "assistant", "content": "it is cold"}]}),
        ("/v1/embeddings", {"model": "bert", "input": ["the sea", "cold"]}),
        ("/v1/classify", {"model": "words", "input": [{"text": "cold"}]}),
        ("/v1/decisions", {"model": "bert", "input": "the cold sea", "questions": [WET]}),
        ("/v1/systemone", {"model": "script", "state": "the sea", "questions": {"a": COLD}}),
    ],
)
def test_prompts_of_every_route_are_judged(blocking: Running, path: str, body: dict[str, Any]) -> None:
    body = dict(body)
    if text := body.pop("prompt_of", None):  # token ids
        body["prompt"] = blocking.service.pool.models["script"].tokenizer.encode(text)
    error = blocking.error(path, body)
    assert error["code"] == "content_filter"
    assert error["message"] == "the prompt was blocked by the moderation policy of this server: coldness"


def test_decisions_about_harmless_texts_are_made(blocking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("neolm.serving.server.run.AnswerModeration")  # there is no answer to judge
    for model in ("bert", "script"):
        found = blocking.client.post("/v1/decisions", json={"model": model, "input": "the sea", "questions": [WET]})
        assert found.status_code == 200, found.text


def test_the_log_names_categories_and_no_text(blocking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(blocking.service.log, "event", lambda name, **fields: lines.append(fields))
    blocking.error("/v1/completions", ASK | {"prompt": "the cold sea"})
    blocking.ask(**ASK)
    waiting_for(lambda: len(lines) == 2)  # a line is written after the answer was sent
    assert [line["moderation"] for line in lines] == [
        ["prompt block coldness (mode block)"],
        ["answer block coldness (mode block)"],
    ]
    assert "cold sea" not in str(lines)
    assert HARMLESS not in str(lines)


# ---- modes ----


def test_observing_changes_nothing_and_counts(place: Path) -> None:
    models = [str(place / "script")]
    with running(models) as plain, served(place, {"prompt": "block"}, mode="observe") as server:
        body = ASK | {"prompt": "the cold sea", "n": 2, "logprobs": 1}
        assert server.ask(**body)["choices"] == plain.ask(**body)["choices"]
        streams = [events(one, "/v1/completions", **body) for one in (server, plain)]
        shown = [[chunk["choices"] for chunk in stream] for stream in streams]
        assert sorted(map(json.dumps, shown[0])) == sorted(map(json.dumps, shown[1]))
        answer = server.client.post("/v1/completions", json=ASK | {"prompt": "cold"})
        assert "X-Moderation-Flags" not in answer.headers
        assert counts(server) == {
            ("coldness", "prompt", "block"): 3,
            ("coldness", "answer", "block"): 5,
        }


def test_flagging_reports_and_blocks_nothing(place: Path) -> None:
    with served(place, {"prompt": "block"}, mode="flag") as server:
        answer = server.client.post("/v1/completions", json=ASK | {"prompt": "a"})
        (choice,) = answer.json()["choices"]
        Completion.model_validate(answer.json())
        assert (choice["text"], choice["finish_reason"]) == (SCRIPT, "stop")
        assert choice["moderation"]["action"] == "flag"
        assert choice["moderation"]["categories"] == {"coldness": 1.0}
        parts = [chunk["choices"][0] for chunk in events(server, "/v1/completions")]
        assert len(parts) > 30  # nothing was held back
        assert parts[-1]["moderation"] == choice["moderation"]
        answer = server.client.post("/v1/embeddings", json={"model": "bert", "input": "cold"})
        assert (answer.status_code, answer.headers["X-Moderation-Flags"]) == (200, "coldness")


@pytest.mark.parametrize("mode", ["block", "observe"])
def test_what_cannot_be_judged_passes_only_where_nothing_is_blocked(
    place: Path, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(place, mode=mode, canaries=None) as server:
        assert server.service.moderation is not None
        classifier = server.service.moderation.moderator.classifiers["words"]
        working, calls = classifier.window_logits, []

        def broken(windows: Any) -> torch.Tensor:
            calls.append(len(windows))
            if len(calls) > 1:
                raise RuntimeError("out of order")
            return working(windows)

        classifier.window_logits = broken  # type: ignore[method-assign]
        parts = server.client.post("/v1/completions", json=ASK | {"stream": True}).text  # the prompt can be judged
        error = server.client.post("/v1/completions", json=ASK)
        del classifier.window_logits
        if mode == "block":
            assert "sea" not in parts
            assert '"code":"moderation_failed"' in parts
            assert (error.status_code, error.json()["error"]["code"]) == (503, "moderation_failed")
            assert server.ask(**ASK)["choices"][0]["finish_reason"] == "content_filter"  # it works again
        else:
            assert "moderation_failed" not in parts
            assert error.json()["choices"][0]["text"] == SCRIPT
        metric = server.service.metrics.moderation_failures
        assert metric.collect()[0].samples[0].value >= 2
    assert "out of order" not in capfd.readouterr().err


# ---- published shapes ----


def test_moderations_have_openai_shape(blocking: Running) -> None:
    answer = blocking.client.post("/v1/moderations", json={"input": "the cold sea"}).json()
    ModerationList.model_validate(answer)
    assert set(answer) == {"id", "model", "results"}
    (result,) = answer["results"]
    names = {*OPENAI_CATEGORIES, "coldness"}
    assert set(result) == {"flagged", "categories", "category_scores", "category_applied_input_types"}
    assert all(set(result[name]) == names for name in set(result) - {"flagged"})
    assert {name for name, value in result["categories"].items() if value} == {"harassment/threatening", "coldness"}
    assert answer["model"].startswith("7 sha256:")


def test_parts_of_one_input_are_judged_together(blocking: Running) -> None:
    parts = [{"type": "text", "text": "the sea"}, {"type": "text", "text": "cold"}]
    (result,) = blocking.client.post("/v1/moderations", json={"input": parts}).json()["results"]
    assert result["flagged"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "has an image at index 0: the classifiers of"),
        ({"input": []}, "has 0 inputs"),
        ({"input": ["a", 3]}, "must be a text, a list of texts, or a list of parts"),
        ({"input": ["a", " "]}, "input.1: the text is empty"),
        ({"input": "\ud800"}, "is not valid Unicode"),
        ({}, "Field required"),
        ({"input": "a", "mode": "x"}, "unknown field"),
    ],
)
def test_moderations_refuse_what_they_cannot_judge(blocking: Running, body: Any, message: str) -> None:
    answer = blocking.client.post(
        "/v1/moderations", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_unknown_models_of_moderations_are_refused(blocking: Running) -> None:
    assert blocking.error("/v1/moderations", {"input": "a", "model": "gpt-5"}, 404)["code"] == "model_not_found"
    for name in ("7", "text-moderation-stable"):
        assert blocking.client.post("/v1/moderations", json={"input": "a", "model": name}).status_code == 200


def analyzed(server: Running, text: str, attributes: Any = None, **body: Any) -> dict[str, Any]:
    asked = {"comment": {"text": text}, "requestedAttributes": attributes or {"TOXICITY": {}}, **body}
    answer = server.client.post("/v1alpha1/comments:analyze", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_comments_have_the_shape_of_perspective(blocking: Running) -> None:
    body = {
        "languages": ["en"],
        "doNotStore": True,
        "clientToken": "t",
        "comment": {"text": "cold", "type": "PLAIN_TEXT"},
    }
    found = analyzed(blocking, "", **body)
    value = found["attributeScores"]["TOXICITY"]["summaryScore"].pop("value")
    assert value > 0.99
    shape = {"TOXICITY": {"summaryScore": {"type": "PROBABILITY"}}}
    assert found == {"attributeScores": shape, "languages": ["en"], "clientToken": "t"}
    threshold = {"TOXICITY": {"scoreThreshold": 0.5, "scoreType": "PROBABILITY"}}
    assert "TOXICITY" in analyzed(blocking, "cold", threshold)["attributeScores"]
    assert analyzed(blocking, "the sea", threshold)["attributeScores"] == {}


def test_spans_are_the_windows_of_a_comment(place: Path) -> None:
    fields = {"models": {"words": str(place / "soft")}, "canaries": None}
    text = "  the sea and the day, " * 4 + "cold. " + "the clock " * 6
    with served(place, {"perspective": "INSULT"}, **fields) as server:
        asked = {"INSULT": {}}
        found = analyzed(server, text, asked, spanAnnotations=True)["attributeScores"]["INSULT"]
        assert server.service.moderation is not None
        moderator: Moderator = server.service.moderation.moderator
    spans = found["spanScores"]
    assert len(spans) > 3
    assert (spans[0]["begin"], spans[-1]["end"]) == (2, len(text.rstrip()))
    assert found["summaryScore"]["value"] == max(span["score"]["value"] for span in spans)
    for span in spans:  # a window alone has the score that it has in the text
        (alone,) = moderator.scores([moderator.encode(text[span["begin"] : span["end"]])])
        assert alone["coldness"].value == pytest.approx(span["score"]["value"], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"requestedAttributes": {"INSULT": {}}},
            "the policy of this server has no attribute 'INSULT'; it has: TOXICITY",
        ),
        ({"requestedAttributes": {"NONSENSE": {}}}, "no attribute 'NONSENSE'"),
        ({"requestedAttributes": {}}, "requestedAttributes"),
        ({"requestedAttributes": {"TOXICITY": {"scoreThreshold": 2}}}, "scoreThreshold"),
        ({"languages": ["de"]}, "the language 'de' is not supported; the policy lists en"),
        ({"comment": {"text": " "}}, "the text is empty"),
        ({"comment": {"text": "a", "type": "HTML"}}, "comment.type"),
    ],
)
def test_comments_refuse_what_they_cannot_score(blocking: Running, body: Any, message: str) -> None:
    whole = {"comment": {"text": "a"}, "requestedAttributes": {"TOXICITY": {}}, **body}
    assert message in blocking.error("/v1alpha1/comments:analyze", whole)["message"]


def test_without_a_policy_there_is_nothing_to_ask(place: Path) -> None:
    with running([str(place / "script")]) as server:
        assert server.error("/v1/moderations", {"input": "a"}, 404)["code"] == "moderation_off"
        assert "neolm_moderation_decisions_total{" not in server.client.get("/metrics").text


def test_a_policy_whose_canaries_fail_is_not_served(
    place: Path, neolm_: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    canary = {"text": "the sea", "category": "coldness", "expected": True}
    policy = write_policy(tmp_path / "policy.yaml", place / "words", canaries=[canary])
    code, _, err = neolm_("serve", place / "script", "--port", "0", "--moderation", policy)
    assert code == 2
    assert "1 of 1 canaries fail" in err
    assert "'the sea': coldness is 0.000, expected at least 0.5" in err
