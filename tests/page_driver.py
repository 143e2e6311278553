"""Drives the page in a browser, for the tests of the page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from page_server import FakeServer

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}

# Runs in every document before the scripts of the page.
WATCH = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", ({ blockedURI, violatedDirective }) =>
    window.violations.push(`${blockedURI} ${violatedDirective}`));
"""


class PageDriver:
    """A browser page with methods for the actions of a user."""

    def __init__(self, context: Any, server: FakeServer) -> None:
        self.context, self.server = context, server
        self.errors: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of console errors that a test causes: the browser logs one for every failed request."""
        self.foreign_requests: list[str] = []
        context.add_init_script(WATCH)
        context.on("request", self._saw)
        self.page = self.watched(context.new_page())

    def watched(self, page: Any) -> Any:
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.set_default_timeout(60_000)
        return page

    def _saw(self, request: Any) -> None:
        if urlsplit(request.url).scheme not in ("blob", "data") and not request.url.startswith(self.server.url):
            self.foreign_requests.append(request.url)

    def open(self) -> PageDriver:
        self.page.goto(self.server.url)
        self.page.wait_for_selector("#model option", state="attached")
        return self

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_selector("#model option", state="attached")

    def mode(self, mode: str) -> None:
        self.page.check(f"#mode-{mode}")

    def send(self, text: str) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def say(self, text: str) -> str:
        """Send a message, wait for the end of the answer, and return it."""
        count = self.page.locator(".turn-answer").count()
        self.send(text)
        self.until("count => document.querySelectorAll('.turn-answer').length > count", count)
        self.done()
        return self.answers()[-1]

    def done(self) -> None:
        self.until(
            "() => document.querySelector('.turn-answer') && !document.querySelector('.turn-answer.generating') "
            "&& document.querySelector('.send').dataset.shows !== 'Stop'"
        )

    def until(self, script: str, argument: Any = None) -> None:
        """Wait until `script` is true. (Playwright's `wait_for_function` violates the content security policy.)"""
        for _ in range(6000):
            if self.page.evaluate(script, argument):
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"still false: {script}")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).evaluate_all("all => all.map(one => one.textContent)")
        return found

    def answers(self) -> list[str]:
        return self.texts(".turn-answer .turn-body")

    def user_messages(self) -> list[str]:
        return self.texts(".turn-user .user-text")

    def tool(self, action: str, nth: int = -1) -> Any:
        """A visible button of a message."""
        return self.page.locator(f"[data-action='{action}']:visible").nth(nth)

    def wait(self, text: str, selector: str = "#conversation") -> None:
        self.page.locator(selector).get_by_text(text).first.wait_for()

    def stored(self) -> dict[str, Any]:
        """The contents of `localStorage`."""
        script = """() => Object.fromEntries(Object.entries(localStorage).map(([key, value]) => {
            try { return [key, JSON.parse(value)]; } catch { return [key, value]; }
        }))"""
        found: dict[str, Any] = self.page.evaluate(script)
        return found

    def conversations(self) -> list[dict[str, Any]]:
        return [value for key, value in self.stored().items() if key.startswith("neolm.conversation.")]

    def check(self) -> None:
        """Check that there were no unexpected errors, policy violations or requests to other hosts."""
        for page in self.context.pages:
            if page.url.startswith(self.server.url):
                assert page.evaluate("window.violations") == []
        assert self.foreign_requests == []
        assert [error for error in self.errors if not any(part in error for part in self.expected)] == []
