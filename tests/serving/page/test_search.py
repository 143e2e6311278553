"""Search in the conversations that this browser has saved."""

from __future__ import annotations

import pytest
from page_driver import PHONE, WIDE, PageDriver
from page_server import Reply


@pytest.fixture
def library(ui: PageDriver) -> PageDriver:
    """Three conversations; the first has a hidden branch."""
    ui.server.replies = [Reply(["A lion roars."]), Reply(["Something else."])]
    ui.say("About cats")
    ui.tool("regenerate").click()
    ui.wait("Something else.")
    ui.done()
    ui.page.click("#new")
    ui.server.replies = [Reply(["word " * 30 + "A **fox**\n  sleeps (again) here." + " word" * 600])]
    ui.say("About [dogs]")
    ui.page.click("#new")
    ui.say("About Füchse and foxes")
    return ui


def found(ui: PageDriver) -> list[str]:
    return ui.texts(".list-open bdi")


def test_search_finds_titles_and_messages_and_marks_them(library: PageDriver) -> None:
    assert len(found(library)) == 3
    library.page.fill("#search", "FOX")
    assert found(library) == ["About Füchse and foxes", "About [dogs]"]
    assert library.texts("#list mark") == ["fox", "fox"]
    [excerpt] = library.texts(".list-excerpt")
    assert excerpt.startswith("…word word")
    assert "A **fox** sleeps (again) here." in excerpt
    library.until("document.getElementById('announcements').textContent === '2 conversations found.'")
    library.page.fill("#search", "about")
    assert len(found(library)) == 3
    assert library.texts(".list-excerpt") == []


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("  sleeps   (again)", "About [dogs]"),  # white space and special characters
        ("[dogs]", "About [dogs]"),
        ("füchse", "About Füchse and foxes"),
        ("lion", "About cats"),
    ],
)
def test_search_matches_white_space_case_and_special_characters(library: PageDriver, query: str, title: str) -> None:
    library.page.fill("#search", query)
    assert found(library) == [title]
    assert library.texts("#list mark")


def test_opening_a_hit_shows_its_branch_and_highlights_it(library: PageDriver) -> None:
    library.page.fill("#search", "lion")
    library.page.click(".list-open")
    assert library.answers() == ["A lion roars."]
    highlighted = "[...CSS.highlights.get('search') ?? []].map(String)"
    assert library.page.evaluate(highlighted) == ["lion"]
    library.page.fill("#search", "fox")
    library.page.get_by_role("button", name="About [dogs]", exact=False).first.click()
    library.until(f"{highlighted}.join() === 'fox'")
    library.page.wait_for_timeout(200)
    top, height = library.page.evaluate(
        "[[...CSS.highlights.get('search')][0].getBoundingClientRect().top, window.innerHeight]"
    )
    assert 0 < top < height - 150  # in view, although the answer is much longer than the window
    library.page.fill("#search", "")
    assert library.page.evaluate(highlighted) == []


def test_a_match_at_the_end_of_a_long_title_is_visible(ui: PageDriver) -> None:
    ui.say("A title with so many words that the list cuts off a heron")
    inside = """() => { const [mark, list] = [document.querySelector("#list mark"), document.getElementById("list")]
      .map((node) => node.getBoundingClientRect());
      return mark.width > 20 && mark.right <= list.right && mark.bottom <= list.bottom; }"""
    ui.page.fill("#search", "heron")
    assert ui.page.evaluate(inside)


def test_a_search_without_hits(library: PageDriver) -> None:
    library.page.fill("#search", "elephant.*")
    assert found(library) == []
    assert library.texts(".list-empty") == ["No conversation contains “elephant.*”."]
    library.until("document.getElementById('announcements').textContent === '0 conversations found.'")
    library.page.fill("#search", " ")
    assert len(found(library)) == 3


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_search_by_keyboard(library: PageDriver, size: dict[str, int]) -> None:
    page = library.page
    page.set_viewport_size(size)
    if size is PHONE:
        page.locator("#list-panel").wait_for(state="hidden")
    page.keyboard.press("Alt+k")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("about")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "About Füchse and foxes"
    page.keyboard.press("Alt+k")
    page.keyboard.press("Escape")  # clears the search, and does not close the panel
    assert page.input_value("#search") == ""
    assert page.locator("#list-panel").is_visible()
    assert len(found(library)) == 3
    page.keyboard.type("dogs")
    page.keyboard.press("Enter")
    library.wait("sleeps (again) here.")
    assert page.locator("#list-panel").is_visible() is (size is WIDE)


def test_a_new_message_is_found_at_once(library: PageDriver) -> None:
    library.page.fill("#search", "heron")
    assert found(library) == []
    library.server.replies = [Reply(["A heron stands."])]
    library.say("Birds?")
    assert found(library) == ["About Füchse and foxes"]


def test_markup_in_results_stays_text(ui: PageDriver) -> None:
    ui.server.replies = [Reply(["x <img src=x onerror=window.hacked=1> y"])]
    ui.say("Go")
    ui.page.fill("#search", "<img")
    assert ui.texts("#list mark") == ["<img"]
    assert ui.page.locator("img").count() == 0
