"""Accessibility of the page: keyboard, screen readers, small screens, dark theme, reduced motion."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from page_driver import PHONE, WIDE, PageDriver
from page_server import PAGE, Reply, model

MARKDOWN = (
    "# Title\n\nSome **bold** text with `code`, a [link](https://example.org/) and\n\n"
    "- one\n  - two\n\n1. three\n\n> quote\n\n"
    "```python\nprint('a long line of code that is surely wider than a telephone is wide, and then some more')\n```\n\n"
    "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| one | two words | three | four | five | six and more |\n\n"
    "https://example.org/a/very/long/address/that/cannot/be/broken/anywhere/at/all/because/it/has/no/spaces/in/it\n"
)


# ---- the files ----


class Markup(HTMLParser):
    """Collects the URLs that the HTML loads, and inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.wrong: list[str] = []
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.wrong.append(f"{tag} {name}")
            if name in ("src", "href") and value and not value.startswith("#"):
                self.fetched.append(value)

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("script", "style") and data.strip():
            self.wrong.append(f"inline {self.stack[-1]}")


def test_all_files_are_used_and_none_comes_from_another_host() -> None:
    markup = Markup()
    markup.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert markup.wrong == []
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    used = {"index.html"} | {address.removeprefix("/static/") for address in markup.fetched}
    for name, text in files.items():
        if name.endswith(".js"):
            used |= set(re.findall(r'from "\./([^"]+)"', text))
            # No API that turns text into markup or code.
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
                r"|createContextualFragment",
                text,
            ), name
        links = set(re.findall(r"https?://[^\s\"'`)]*", text)) - {"http://www.w3.org/2000/svg"}
        assert not {link for link in links if len(link) > len("https://")} - {"https://x.org"}, name
        assert text.count("\n") <= 360, name
        assert "url(" not in text or name.endswith(".js"), name
    assert used <= set(files)
    assert set(files) - used <= {"api.css"}  # used by the server's /docs


# ---- keyboard ----


# Moves the starting point of Tab to the beginning of the page.
TAB_START = "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"


def test_a_chat_by_keyboard_alone(ui: PageDriver) -> None:
    keys = ui.page.keyboard
    focused = lambda script: ui.page.evaluate(f"document.activeElement.{script}")  # noqa: E731
    ui.page.evaluate(TAB_START)
    keys.press("Tab")
    assert focused("textContent") == "Skip to the message box"
    keys.press("Enter")
    assert focused("id") == "message"
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second")
    keys.press("Enter")
    ui.done()
    assert ui.user_messages() == ["first line\nsecond"]
    assert focused("id") == "message"
    keys.press("Alt+r")
    ui.until("document.querySelectorAll('.turn-answer .versions:not([hidden])').length === 1")
    ui.done()
    keys.press("ArrowUp")  # edits the last message
    ui.until("document.activeElement.className === 'editor-field'")
    keys.press("Control+A")
    keys.type("third")
    keys.press("Enter")
    ui.until("document.querySelector('.user-text')?.textContent === 'third'")
    ui.done()
    keys.press("Alt+m")
    assert focused("id") == "message"
    keys.press("Alt+n")
    ui.page.locator("#welcome").wait_for()
    assert focused("id") == "message"


def test_every_shortcut_of_the_help_works(ui: PageDriver) -> None:
    ui.expected = ("404",)
    press = ui.page.keyboard.press
    press("Alt+/")
    helped = ui.page.get_by_role("dialog", name="Help")
    shown = helped.locator("dt").all_text_contents()
    press("Escape")
    assert helped.count() == 0
    for keys, selector, attribute in (
        ("Alt+p", "#probabilities-toggle", "aria-pressed"),
        ("Alt+c", "#compare-toggle", "aria-pressed"),
        ("Alt+l", "#list-toggle", "aria-expanded"),
        ("Alt+s", "#settings-toggle", "aria-expanded"),
    ):
        before = ui.page.get_attribute(selector, attribute)
        press(keys)
        assert ui.page.get_attribute(selector, attribute) != before, keys
        press(keys)
        assert ui.page.get_attribute(selector, attribute) == before, keys
    press("Alt+i")
    ui.page.get_by_role("dialog", name="About the model").wait_for()
    press("Escape")
    press("Alt+l")
    press("Alt+k")
    assert ui.page.evaluate("document.activeElement.id") == "search"
    letters = {text.removeprefix("Alt + ") for text in shown if text.startswith("Alt")}
    assert letters == set("NRMPCLKSI/")  # the test above covers N, R and M


def tab_stops(ui: PageDriver) -> list[str]:
    """The elements in tab order. Each must have a visible focus."""
    ui.page.evaluate(TAB_START)
    stops: list[str] = []
    describe = """() => { const node = document.activeElement; if (node === document.body) return null;
      const { outlineStyle, outlineWidth } = getComputedStyle(node);
      const card = node.closest(".mode, .segment, .composer");
      const outlined = (part) => getComputedStyle(part).outlineStyle !== "none";
      const around = card && [card, card.querySelector("span") ?? card].some(outlined) || card?.matches(".composer");
      const label = node.getAttribute("aria-label") || node.textContent.trim().slice(0, 30) || node.name;
      return [node.id || node.dataset.action || label,
              (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) || Boolean(around)]; }"""
    for _ in range(150):
        ui.page.keyboard.press("Tab")
        found = ui.page.evaluate(describe)
        if found is None or (stops and found[0] == stops[0]):
            return stops
        assert found[1], f"the focus on {found[0]} is not visible"
        stops.append(found[0])
    raise AssertionError(f"Tab does not return to the first element: {stops}")


def test_tab_order_follows_the_reading_order(ui: PageDriver) -> None:
    ui.server.replies = [Reply([MARKDOWN])]
    ui.say("Go")
    ui.page.click("#settings-toggle")
    stops = tab_stops(ui)
    wanted = [
        "Skip to the message box", "Close conversations", "new", "search", "import", "export", "help", "list-toggle",
        "model", "card", "settings-toggle", "copy-message", "edit-message", "Copy the code", "regenerate", "copy",
        "edit", "rate-up", "rate-down", "message", "compare-toggle", "probabilities-toggle",
        "Close settings", "setting-temperature", "setting-stop", "system", "formatted", "consent",
    ]  # fmt: skip
    places = [stops.index(name) for name in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_escape_closes_settings_and_returns_the_focus_to_its_button(new_ui: Any, size: dict[str, int]) -> None:
    ui = new_ui(viewport=size).open()
    panel = ui.page.locator("#settings-panel")
    for focused in ("#setting-temperature", "#setting-stop", "#settings-panel .drawer-close"):
        ui.page.click("#settings-toggle")
        ui.page.focus(focused)
        ui.page.keyboard.press("Escape")
        assert panel.is_hidden(), focused
        assert ui.page.evaluate("document.activeElement.id") == "settings-toggle", focused
    assert ui.page.locator("#list-panel").is_visible() is (size is WIDE)


def test_escape_outside_settings_stops_the_answer_first_and_then_closes_them(ui: PageDriver) -> None:
    gate = threading.Event()
    ui.server.replies = [Reply(["Once", " never"], gate=gate)]
    ui.page.click("#settings-toggle")
    ui.send("Go")
    ui.wait("Once")
    panel = ui.page.locator("#settings-panel")
    ui.page.keyboard.press("Escape")
    ui.done()
    gate.set()
    assert ui.answers() == ["Once"]
    assert panel.is_visible()
    ui.page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert ui.page.evaluate("document.activeElement.id") == "message"


def test_dialogs_trap_and_restore_the_focus(ui: PageDriver) -> None:
    ui.page.focus("#help")
    ui.page.keyboard.press("Enter")
    dialog = ui.page.get_by_role("dialog", name="Help")
    dialog.wait_for()
    for _ in range(5):
        ui.page.keyboard.press("Tab")
        assert ui.page.evaluate(
            "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    ui.page.keyboard.press("Escape")
    assert ui.page.evaluate("document.activeElement.id") == "help"


def test_the_focus_stays_during_generation(ui: PageDriver) -> None:
    ui.say("One")
    gate = threading.Event()
    ui.server.replies = [Reply(["a ", "b ", "c "] * 50, gate=gate)]
    ui.send("Two")
    ui.wait("a")
    copy = ui.tool("copy", 0)
    copy.focus()
    gate.set()
    ui.done()
    assert copy.evaluate("button => button === document.activeElement")


# ---- screen readers ----

NAMES = """() => {
  const seen = (node) => node.checkVisibility();
  const named = (node) => node.getAttribute("aria-label")?.trim() || node.textContent.trim()
    || node.labels?.[0]?.textContent.trim() || node.getAttribute("aria-labelledby")
    || (node.matches("section") && node.querySelector("h2, h3, label"));
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  const references = ["aria-labelledby", "aria-describedby", "aria-controls", "for"].flatMap((name) =>
    [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(" ")));
  const parts = "button, input, select, textarea, dialog, nav, aside, section, [role=region], [role=group]";
  const levels = all("h1, h2, h3, h4, h5, h6").map((node) => Number(node.tagName[1]));
  return {
    nameless: all(parts).filter((node) => !named(node)).map((node) => node.outerHTML.slice(0, 200)),
    headings: document.querySelectorAll("h1").length,
    doubled: ids.filter((id, index) => ids.indexOf(id) !== index),
    dangling: references.filter((id) => !document.getElementById(id)),
    landmarks: ["header", "nav", "main"].map((tag) => document.querySelectorAll(`body ${tag}`).length),
    live: document.querySelectorAll("#conversation :is([aria-live], [role=status])").length,
    pictures: all("svg").filter((node) => node.getAttribute("aria-hidden") !== "true").length,
    lang: document.documentElement.lang,
  };
}"""

# Text with a contrast below 4.5:1, or 3:1 if it is large, except in disabled buttons.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, under) => [0, 1, 2].map((i) => under[i] + (top[i] - under[i]) * top[3] / 255).concat(255);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0);
  const left = ".visually-hidden, [aria-disabled=true], [aria-hidden=true], option, .skip, noscript";
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility() || parent.closest(left)) continue;
    if (document.querySelector("dialog[open]") && !parent.closest("dialog")) continue;
    const layers = [];
    for (let at = parent; at; at = at.parentElement) layers.unshift(colour(getComputedStyle(at).backgroundColor));
    const behind = layers.reduce((under, top) => over(top, under), [255, 255, 255, 255]);
    const style = getComputedStyle(parent);
    const [one, two] = [light(over(colour(style.color), behind)), light(behind)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const size = parseFloat(style.fontSize);
    const enough = size >= 24 || (size >= 18.6 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < enough) poor.push([node.data.trim().slice(0, 40), ratio.toFixed(2), style.color, behind.join()]);
  }
  return poor;
}"""


def everywhere(ui: PageDriver, look: Any) -> None:
    """Brings the page into its states one after the other, and calls `look` with the name of each."""
    drawers = ui.page.viewport_size["width"] <= 960  # 60 rem
    ui.server.cards["fox-7m"] = {
        "id": "fox-7m", "family": "gpt-neo", "card": MARKDOWN, "digest": "sha256:" + "0" * 64,
        "config": {"a": [1] * 60},
        "lineage": [{"stage": "pretrain", "directory": "a/long/" * 20, "created": "2026-11", "details": {"steps": 1}}],
    }  # fmt: skip
    look("empty")
    ui.mode("completion")
    look("empty text")
    ui.server.replies = [Reply(["word" * 200, "\n    x = 1\n"])]
    ui.say("def f" + "(a)" * 60)
    look("text")
    if drawers:
        ui.page.click("#list-toggle")
    ui.page.click("#new")
    ui.mode("chat")
    gate = threading.Event()
    ui.server.replies = [Reply([MARKDOWN, "\n\nAnd **more"], gate=gate)]
    ui.send("A message with aveeeeeeeeery" + "long" * 40 + " word")
    ui.wait("Title")
    look("writing")
    gate.set()
    ui.done()
    look("answer")
    ui.page.click("#probabilities-toggle")
    ui.server.replies = [Reply(["Some", " tokens", " with", " tints", "\n", " " * 30, "long" * 50])]
    ui.say("Tokens")
    ui.page.focus(".token >> nth=6")
    look("tokens")
    ui.page.keyboard.press("Escape")
    ui.page.click("#compare-toggle")
    ui.server.replies = [Reply([MARKDOWN]), Reply(["b " * 30])]
    ui.say("Compare")
    look("compare")
    ui.server.replies = [Reply(status=429, retry_after=60), Reply(["half"], ending="error", message="m" * 200)]
    ui.send("Fail")
    ui.done()
    look("problems")
    ui.page.click("#compare-toggle")
    ui.tool("edit-message").click()
    ui.page.wait_for_selector(".editor-field:focus")
    look("editing")
    ui.page.keyboard.press("Escape")
    for panel in ("settings", "list"):
        if ui.page.locator(f"#{panel}-panel").is_hidden():
            ui.page.click(f"#{panel}-toggle")
        look(panel)
        if drawers and panel == "settings":
            ui.page.keyboard.press("Escape")
    ui.page.click(".list-more")
    look("menu")
    ui.page.keyboard.press("Escape")
    ui.page.click("#help")
    look("help")
    ui.page.keyboard.press("Escape")
    if drawers:
        ui.page.keyboard.press("Escape")
    ui.page.click("#card")
    ui.page.wait_for_selector(".lineage")
    look("card")
    ui.page.keyboard.press("Escape")
    ui.page.locator("[data-action=rate-up]:visible").first.click()
    look("consent")
    ui.server.models.append(model("bert" * 12, kind="embed", dimensions=384, chat_template=None))
    ui.reload()
    ui.page.select_option("#model", "bert" * 12)
    ui.page.click("#embed button")
    ui.wait("Cosine similarity", "#embed")
    look("encoder")
    ui.server.models.append(model("topics" * 9, kind="classify", labels=["weather", "7"], pair=True))
    ui.reload()
    ui.page.select_option("#model", "topics" * 9)
    ui.page.fill("#classify-text-0", "it rains " + "long" * 40)
    ui.page.click("#classify button")
    ui.page.wait_for_selector(".word-list")
    look("classifier")


def test_everything_has_an_accessible_name(ui: PageDriver) -> None:
    ui.expected = ("429",)

    def look(state: str) -> None:
        found = ui.page.evaluate(NAMES)
        assert found == {
            "nameless": [], "headings": 1, "doubled": [], "dangling": [], "landmarks": [1, 1, 1], "live": 0,
            "pictures": 0, "lang": "en-GB",
        }, state  # fmt: skip

    everywhere(ui, look)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(new_ui: Any, scheme: str) -> None:
    ui = new_ui(color_scheme=scheme).open()
    ui.expected = ("429",)
    everywhere(ui, lambda state: check_equal(ui.page.evaluate(CONTRAST), [], state))


def check_equal(found: Any, wanted: Any, state: str) -> None:
    assert found == wanted, state


# ---- sizes ----


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(new_ui: Any, width: int) -> None:
    ui = new_ui(viewport={"width": width, "height": 740}, has_touch=width < 600).open()
    ui.expected = ("429",)
    script = """() => {
      const scroller = document.getElementById("scroller");
      // What is scrolled or cut within its own box.
      const inner = ".visually-hidden, .skip, pre, .table, .drawer[hidden], svg, .tokens, .list-open";
      const out = [...document.querySelectorAll("body *")].filter((node) => {
        const { left, right, width } = node.getBoundingClientRect();
        return width && node.checkVisibility() && !node.closest(inner) && (right > innerWidth + 1 || left < -1);
      });
      const panels = [...document.querySelectorAll(".drawer:not([hidden]), dialog, .dialog-body")];
      return { page: document.documentElement.scrollWidth <= innerWidth,
        thread: scroller.scrollWidth <= scroller.clientWidth,
        panels: panels.every((node) => node.scrollWidth <= node.clientWidth),
        out: out.map((node) => node.tagName + "." + node.className).slice(0, 5) };
    }"""
    everywhere(
        ui,
        lambda state: check_equal(
            ui.page.evaluate(script), {"page": True, "thread": True, "panels": True, "out": []}, state
        ),
    )


def test_on_a_phone_the_settings_are_in_a_drawer(new_ui: Any) -> None:
    ui = new_ui(viewport=PHONE, has_touch=True).open()
    panel = ui.page.locator("#settings-panel")
    assert panel.is_hidden()
    assert ui.page.locator("#list-panel").is_hidden()
    ui.page.tap("#settings-toggle")
    assert panel.is_visible()
    assert ui.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close settings"
    assert ui.page.evaluate("document.getElementById('centre').inert")
    ui.page.fill("#setting-temperature", "0.5")
    ui.page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert ui.page.evaluate("document.activeElement.id") == "settings-toggle"
    assert not ui.page.evaluate("document.getElementById('centre').inert")
    ui.page.tap("#list-toggle")
    ui.page.touchscreen.tap(350, 400)  # outside the drawer
    assert ui.page.locator("#list-panel").is_hidden()
    ui.say("Go")
    assert ui.server.asked[0][1]["temperature"] == 0.5
    ui.page.set_viewport_size(WIDE)
    ui.page.locator("#list-panel").wait_for()


def test_on_a_phone_two_answers_are_one_below_the_other(new_ui: Any) -> None:
    ui = new_ui(viewport=PHONE, has_touch=True).open()
    ui.page.tap("#compare-toggle")
    ui.say("Go")
    boxes = [ui.page.locator(".columns .turn").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert boxes[0]["x"] == boxes[1]["x"]
    ui.page.get_by_role("button", name="Second is better").tap()
    assert ui.texts(".turn-answer .versions:visible .versions-count") == ["2/2"]


# ---- colours and motion ----

BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
LIGHT, DARK = "rgb(250, 249, 246)", "rgb(20, 23, 26)"


def test_the_theme_follows_the_system_until_one_is_chosen(ui: PageDriver) -> None:
    assert ui.page.evaluate(BACKGROUND) == LIGHT
    ui.page.emulate_media(color_scheme="dark")
    assert ui.page.evaluate(BACKGROUND) == DARK
    ui.page.get_by_text("Light", exact=True).click()
    assert ui.page.evaluate(BACKGROUND) == LIGHT
    ui.reload()
    assert ui.page.evaluate(BACKGROUND) == LIGHT
    assert ui.page.get_by_role("radio", name="Light").is_checked()
    # The theme is set before the first paint.
    assert ui.page.evaluate(
        "document.querySelector('script').src.endsWith('theme-at-start.js') && !document.querySelector('script').defer"
    )
    ui.page.get_by_text("System", exact=True).click()
    assert ui.page.evaluate(BACKGROUND) == DARK


def test_reduced_motion_disables_animations(new_ui: Any) -> None:
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    for motion, some in (("no-preference", True), ("reduce", False)):
        ui = new_ui(reduced_motion=motion).open()
        gate = threading.Event()
        ui.server.replies = [Reply(["a", "b"], gate=gate)]
        ui.send("Go")
        ui.wait("a")
        assert (ui.page.evaluate(moving) > 0) is some
        gate.set()
        ui.done()
