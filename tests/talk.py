"""A browser, and a person in front of the page, for the tests of the page."""

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

# In every document, before anything of the page runs.
WATCH = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", ({ blockedURI, violatedDirective }) =>
    window.violations.push(`${blockedURI} ${violatedDirective}`));
"""


class Talk:
    """A page, with the words for what one does on it."""

    def __init__(self, context: Any, server: FakeServer) -> None:
        self.context, self.server = context, server
        self.errors: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of console errors that a test provokes: the browser writes one for every refused request."""
        self.strangers: list[str] = []
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
            self.strangers.append(request.url)

    def open(self) -> Talk:
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
        """Sends, waits for the end of the answer, and gives it."""
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
        """Waits until `script` gives something true. (Playwright's own way evaluates strings, which is forbidden.)"""
        for _ in range(6000):
            if self.page.evaluate(script, argument):
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"never came true: {script}")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).evaluate_all("all => all.map(one => one.textContent)")
        return found

    def answers(self) -> list[str]:
        return self.texts(".turn-answer .turn-body")

    def said(self) -> list[str]:
        return self.texts(".turn-user .user-text")

    def tool(self, action: str, nth: int = -1) -> Any:
        """A button of an answer or of what was said, that can be seen."""
        return self.page.locator(f"[data-action='{action}']:visible").nth(nth)

    def wait(self, text: str, selector: str = "#conversation") -> None:
        self.page.locator(selector).get_by_text(text).first.wait_for()

    def kept(self) -> dict[str, Any]:
        """What lies in the browser's storage."""
        script = """() => Object.fromEntries(Object.entries(localStorage).map(([key, value]) => {
            try { return [key, JSON.parse(value)]; } catch { return [key, value]; }
        }))"""
        found: dict[str, Any] = self.page.evaluate(script)
        return found

    def conversations(self) -> list[dict[str, Any]]:
        return [value for key, value in self.kept().items() if key.startswith("neolm.conversation.")]

    def check(self) -> None:
        """No errors but expected ones, no violations of the policy, and no request to anywhere else."""
        for page in self.context.pages:
            if page.url.startswith(self.server.url):
                assert page.evaluate("window.violations") == []
        assert self.strangers == []
        assert [error for error in self.errors if not any(part in error for part in self.expected)] == []
