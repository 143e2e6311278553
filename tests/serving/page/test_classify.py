"""Classifiers on the page: no message box, but a text with its labels, and the words that moved them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driver import WIDE, PageDriver
from page_server import Reply, model
from served import running
from tiny_encoders import write_classifier

import neolm

FIELDS = {"kind": "classify", "chat_template": None, "labels": ["weather", "7"]}
TOPICS = model("topics", **FIELDS, pair=False, problem="single_label_classification")
PAIRS = model("pairs", **FIELDS, pair=True, problem="single_label_classification")


@pytest.fixture
def mixed(new_ui: Any, server: Any) -> Iterator[PageDriver]:
    """The page of a server with classifiers beside models that write."""
    driver = new_ui()
    server.models += [TOPICS, PAIRS]
    yield driver.open()


def test_a_text_gets_labels_and_words(mixed: PageDriver) -> None:
    mixed.page.select_option("#model", "topics")
    assert not mixed.page.is_visible("#composer")
    assert "topics is a classifier: it reads a text and cannot write or chat. It gives one of 2 labels" in (
        mixed.page.inner_text("#classify")
    )
    assert not mixed.page.is_visible("#classify-text-1")
    mixed.page.fill("#classify-text-0", "it rains")
    mixed.page.keyboard.press("Tab")
    mixed.page.keyboard.press("Enter")
    mixed.wait("weather: 75.0%.", "#classify")
    assert mixed.texts(".label-row") == ["weather75.0%", "725.0%"]
    assert mixed.page.eval_on_selector_all("meter", "nodes => nodes.map(node => node.value)") == [0.75, 0.25]
    assert mixed.texts(".word-list li") == ["it +30.0%", "rains −10.0%"]
    assert "leave-one-out" in mixed.page.inner_text("#classify")
    [(kind, body)] = mixed.server.asked
    assert (kind, body["input"], body["explain"]) == ("classify", [{"text": "it rains"}], True)
    mixed.page.select_option("#model", "fox-7m")
    assert not mixed.page.is_visible("#classify")
    assert mixed.say("hello") == "Hello there."


def test_a_pair_has_two_fields(mixed: PageDriver) -> None:
    mixed.page.select_option("#model", "pairs")
    mixed.page.get_by_role("textbox", name="Text", exact=True).fill("one")
    mixed.page.get_by_role("textbox", name="Second text").fill("two")
    mixed.page.click("#classify button")
    mixed.wait("weather: 75.0%.", "#classify")
    assert mixed.server.asked[0][1]["input"] == [{"text": "one", "second": "two"}]


def test_a_text_with_too_many_words_has_labels_only(mixed: PageDriver) -> None:
    mixed.expected = ("400",)
    mixed.page.select_option("#model", "topics")
    mixed.page.fill("#classify-text-0", "word " * 61)
    mixed.server.replies = [Reply(status=400, message="the text has 61 words", code="too_many_words")]
    mixed.page.click("#classify button")
    mixed.wait("No words are shown. the text has 61 words", "#classify")
    assert len(mixed.texts(".label-row")) == 2
    assert [body["explain"] for _, body in mixed.server.asked] == [True, False]


def test_an_error_is_shown_and_the_form_works_again(mixed: PageDriver) -> None:
    mixed.expected = ("400",)
    mixed.page.select_option("#model", "topics")
    mixed.server.replies = [Reply(status=400, message="the text is empty")]
    mixed.page.click("#classify button")
    mixed.wait("The server rejected the request. Server message: the text is empty", "#classify")
    mixed.page.fill("#classify-text-0", "it rains")
    mixed.page.click("#classify button")
    mixed.wait("weather: 75.0%.", "#classify")


def test_a_real_classifier(browser: Any, tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "topics", labels=("sea", "day", "clock"))
    [expected] = neolm.predict(directory, "the cold sea")
    with running([str(directory)]) as server:
        ui = PageDriver(browser.new_context(viewport=WIDE), server).open()  # type: ignore[arg-type]
        try:
            ui.page.fill("#classify-text-0", "the cold sea")
            ui.page.click("#classify button")
            ui.wait(f"{expected['label']}: {expected['probability']:.1%}", "#classify")
            assert len(ui.texts(".word-list li")) == 3
            ui.page.click("#card")
            ui.wait("classifier: it gives texts labels and cannot write", ".card")
            ui.check()
        finally:
            ui.context.close()
