"""The page of a real server with tiny models: browser, page, server and engine together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driver import PHONE, WIDE, PageDriver
from safetensors.torch import load_file, save_file
from served import Running, running, write_model

import neolm
from neolm.generation.batch import generate_ids
from neolm.generation.config import GenerationConfig
from neolm.serving.server.preferences import export


def write_endless_model(directory: Path, **options: int) -> Path:
    """A model that never generates the end of text greedily: the logit of that token is always 0."""
    write_model(directory, **options)
    weights = load_file(directory / "model.safetensors")
    weights["transformer.wte.weight"][neolm.load_tokenizer(str(directory)).eos_token_id] = 0
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("a server")
    names = [str(write_endless_model(place / name, seed=number)) for number, name in enumerate(("left", "right"))]
    names.append(str(write_endless_model(place / "long", context=4096)))
    with running(names, feedback=f"sqlite:///{place / 'feedback.sqlite'}") as server:
        yield server


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def ui(browser: Any, served: Running, request: pytest.FixtureRequest) -> Iterator[PageDriver]:
    ui = PageDriver(browser.new_context(viewport=request.param), served).open()
    try:
        yield ui
        ui.check()
    finally:
        ui.context.close()


def set_values(ui: PageDriver, **values: str) -> None:
    """Set values in the settings drawer, which stays open."""
    ui.page.click("#settings-toggle")
    for name, value in values.items():
        ui.page.fill(f"#setting-{name}", value)


def test_the_page_shows_the_output_of_the_model(ui: PageDriver, served: Running) -> None:
    model = served.service.pool.models["left"]
    set_values(ui, temperature="0", max_tokens="30")
    ui.page.keyboard.press("Escape")
    ui.mode("completion")
    [expected] = neolm.generate(
        neolm.load_model(model.facts.directory, "cpu"), model.tokenizer, "the sea", max_new_tokens=30
    )
    shown = ui.say("the sea")
    assert shown == "the sea" + expected
    ui.reload()
    assert ui.answers() == [shown]


def test_a_text_continues_beyond_the_context(ui: PageDriver, served: Running) -> None:
    model = served.service.pool.models["left"]
    set_values(ui, temperature="0", max_tokens="60")
    ui.page.keyboard.press("Escape")
    ui.mode("completion")
    ui.say("the sea")
    for _ in range(3):
        ui.send("")
        ui.done()
    answers = ui.answers()
    assert len(answers) == 4
    ids = model.tokenizer.encode("".join(answers[:3]))
    left_out = len(ids) - model.context // 2
    assert left_out > 0
    assert f"the first {left_out} tokens were left out" in ui.texts(".stats")[-1]
    decoder, tokenizer = neolm.load_model(model.facts.directory, "cpu"), model.tokenizer
    config = GenerationConfig(max_new_tokens=60)
    [expected] = generate_ids(decoder, [ids[left_out:]], config, tokenizer.eos_token_id, tokenizer.size)
    assert answers[3] == tokenizer.decode(expected)


def test_stopping_stops_the_engine(ui: PageDriver, served: Running) -> None:
    ui.page.select_option("#model", "long")
    set_values(ui, max_tokens="4000", temperature="0")
    ui.page.keyboard.press("Escape")
    ui.mode("completion")
    ui.send("the sea")
    ui.wait("tokens/s", ".stats")
    engine = served.service.pool.models["long"].engine
    assert engine is not None
    [request] = list(engine.scheduler.decoding)
    ui.page.keyboard.press("Escape")
    ui.done()
    ui.until("document.querySelector('.stats').textContent.startsWith('Stopped')")
    for _ in range(300):
        if request.finished:
            break
        ui.page.wait_for_timeout(10)
    assert request.finished is not None
    assert request.finished.reason == "cancelled"


def test_a_choice_with_consent_becomes_a_preference(ui: PageDriver, served: Running, tmp_path: Path) -> None:
    store = served.service.feedback
    assert store is not None
    before = len(list(store.rows())) if Path(str(store.url.database)).exists() else 0
    set_values(ui, temperature="0", max_tokens="20")  # a sampled answer is empty now and then, and no choice
    ui.page.check("#consent")
    ui.page.keyboard.press("Escape")
    ui.mode("completion")
    ui.page.click("#compare-toggle")
    ui.send("the sea")
    ui.done()
    ui.page.get_by_role(
        "button", name=re.compile("^(Right|Second) is better$")
    ).click()  # second where they are one below the other
    ui.until("document.getElementById('announcements').textContent.includes('Sent.')")
    row = list(store.rows())[before]
    assert (row["kind"], row["chosen"], row["prompt"]) == ("choice", 1, "the sea")
    assert [answer["model"] for answer in row["answers"]] == ["left", "right"]
    digests = {answer["digest"] for answer in row["answers"]}
    assert len(digests) == 2
    assert all(digest.startswith("sha256:") for digest in digests)
    assert export(store.place, tmp_path / "pairs.jsonl") == before + 1
    pair = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[-1])
    assert (pair["chosen"], pair["rejected"]) == (row["answers"][1]["text"], row["answers"][0]["text"])


def test_probabilities_and_the_card(ui: PageDriver, served: Running) -> None:
    set_values(ui, temperature="0", max_tokens="12")
    ui.page.keyboard.press("Escape")
    ui.mode("completion")
    ui.page.click("#probabilities-toggle")
    ui.say("the sea")
    assert ui.page.locator(".turn-answer .token").count() >= 12
    ui.page.click("#card")
    ui.wait(served.service.pool.models["left"].digest[7:20], "dialog[open]")
