"""A real browser for the tests of the page, and a server whose answers are scripted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from page_server import FakeServer
from talk import ARGUMENTS, WIDE, Talk

# Of a module, not of the session: while playwright runs, no other test of this process can run an event loop.


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium on the path (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def new_talk(browser: Any, server: FakeServer) -> Iterator[Any]:
    """Makes a `Talk` in a fresh profile, and looks at the end that all was well."""
    server.reset()
    made: list[Talk] = []

    def make(**given: Any) -> Talk:
        made.append(Talk(browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **given}), server))
        return made[-1]

    yield make
    try:
        for talk in made:
            talk.check()
    finally:
        for talk in made:
            talk.context.close()


@pytest.fixture
def talk(new_talk: Any) -> Talk:
    opened: Talk = new_talk().open()
    return opened
