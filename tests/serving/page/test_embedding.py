"""Encoders on the page: no message box, but two texts that are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driver import WIDE, PageDriver
from page_server import Reply, model
from served import running, write_model
from tiny_encoders import write_encoder

import neolm

BERT = model("bert", kind="embed", dimensions=384, chat_template=None)


@pytest.fixture
def mixed(new_ui: Any, server: Any) -> Iterator[PageDriver]:
    """The page of a server with an encoder beside models that write."""
    driver = new_ui()
    server.models.append(BERT)
    yield driver.open()


def visible(ui: PageDriver) -> dict[str, bool]:
    return {name: ui.page.is_visible(f"#{name}") for name in ("embed", "composer", "welcome", "settings-toggle")}


def test_an_encoder_has_no_message_box(mixed: PageDriver) -> None:
    assert visible(mixed) == {"embed": False, "composer": True, "welcome": True, "settings-toggle": True}
    mixed.page.select_option("#model", "bert")
    assert visible(mixed) == {"embed": True, "composer": False, "welcome": False, "settings-toggle": True}
    assert "bert is an encoder: it reads texts and cannot write or chat." in mixed.page.inner_text("#embed")
    mixed.page.select_option("#model", "fox-7m")
    assert visible(mixed) == {"embed": False, "composer": True, "welcome": True, "settings-toggle": True}
    assert mixed.say("hello") == "Hello there."


def test_two_texts_are_compared(mixed: PageDriver) -> None:
    mixed.page.select_option("#model", "bert")
    mixed.page.fill("#embed-text-0", "one")
    mixed.page.fill("#embed-text-1", "two")
    mixed.page.click("#embed button")
    mixed.wait("Cosine similarity: 0.960", "#embed")
    [(kind, body)] = mixed.server.asked
    assert kind == "embeddings"
    assert (body["model"], body["input"], body["normalize"]) == ("bert", ["one", "two"], True)


def test_an_error_is_shown_and_the_form_works_again(mixed: PageDriver) -> None:
    mixed.expected = ("503",)
    mixed.page.select_option("#model", "bert")
    mixed.server.replies = [Reply(status=503, message="it is gone")]
    mixed.page.click("#embed button")
    mixed.wait("The model is not available at the moment. Server message: it is gone", "#embed")
    mixed.page.click("#embed button")
    mixed.wait("Cosine similarity", "#embed")


def test_a_conversation_is_shown_with_a_model_that_writes(mixed: PageDriver) -> None:
    mixed.say("hello")
    mixed.page.select_option("#model", "bert")
    mixed.page.reload()
    mixed.page.wait_for_selector("#embed:visible")
    mixed.page.click("#new")
    assert visible(mixed)["composer"]
    assert mixed.page.input_value("#model") == "fox-7m"
    mixed.page.select_option("#model", "bert")
    mixed.page.click(".list-open")
    assert mixed.answers() == ["Hello there."]
    assert visible(mixed)["composer"]


def test_side_by_side_offers_models_that_write(mixed: PageDriver) -> None:
    mixed.page.click("#compare-toggle")
    options = mixed.page.eval_on_selector_all("#left-model option", "nodes => nodes.map(node => node.value)")
    assert options == ["fox-7m", "owl-20m"]


def test_a_server_of_encoders_only(new_ui: Any, server: Any) -> None:
    ui = new_ui()
    server.models = [BERT]
    ui.open()
    assert visible(ui) == {"embed": True, "composer": False, "welcome": False, "settings-toggle": True}
    server.cards["bert"] = {"id": "bert", "kind": "embed", "dimensions": 384}
    ui.page.click("#card")
    ui.wait("encoder: it reads texts and cannot write", ".card")
    assert "384" in ui.page.inner_text(".card")


def test_a_real_encoder(browser: Any, tmp_path: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    directory = write_encoder(tmp_path / "bert")
    first, second = neolm.load_embedder(directory, "cpu").embed(["the sea", "cold water"])
    with running([str(write_model(tmp_path / "tiny")), str(directory)]) as server:
        ui = PageDriver(browser.new_context(viewport=WIDE), server).open()  # type: ignore[arg-type]
        try:
            ui.page.select_option("#model", "bert")
            ui.page.fill("#embed-text-0", "the sea")
            ui.page.fill("#embed-text-1", "cold water")
            ui.page.click("#embed button")
            ui.wait(f"Cosine similarity: {first @ second:.3f}", "#embed")
            expect(ui.page.locator("#model option:checked")).to_have_text("bert")  # it is loaded
            ui.check()
        finally:
            ui.context.close()
