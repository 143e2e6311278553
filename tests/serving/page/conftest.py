"""Fixtures: Chromium, and a server with scripted answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from page_driver import ARGUMENTS, WIDE, PageDriver
from page_server import FakeServer

# Module scope, not session: while playwright runs, no other test of this process can run an event loop.


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
def new_ui(browser: Any, server: FakeServer) -> Iterator[Any]:
    """Creates a `PageDriver` in a new browser context; checks for errors at the end."""
    server.reset()
    made: list[PageDriver] = []

    def make(**given: Any) -> PageDriver:
        made.append(PageDriver(browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **given}), server))
        return made[-1]

    yield make
    try:
        for ui in made:
            ui.check()
    finally:
        for ui in made:
            ui.context.close()


@pytest.fixture
def ui(new_ui: Any) -> PageDriver:
    opened: PageDriver = new_ui().open()
    return opened
