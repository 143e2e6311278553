"""That everybody can use the page: by keyboard, with a screen reader, on a telephone, in the dark, without motion."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from page_server import PAGE, Reply
from talk import PHONE, WIDE, Talk

pytestmark = pytest.mark.xdist_group("page")

MARKDOWN = (
    "# Title\n\nSome **bold** text with `code`, a [link](https://example.org/) and\n\n"
    "- one\n  - two\n\n1. three\n\n> quote\n\n"
    "```python\nprint('a long line of code that is surely wider than a telephone is wide, and then some more')\n```\n\n"
    "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| one | two words | three | four | five | six and more |\n\n"
    "https://example.org/a/very/long/address/that/cannot/be/broken/anywhere/at/all/because/it/has/no/spaces/in/it\n"
)


# ---- the files ----


class Markup(HTMLParser):
    """What the page's HTML asks the browser to fetch, run and style."""

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


def test_the_files_hold_together_and_nothing_is_fetched_from_elsewhere() -> None:
    markup = Markup()
    markup.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert markup.wrong == []
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    used = {"index.html"} | {address.removeprefix("/static/") for address in markup.fetched}
    for name, text in files.items():
        if name.endswith(".js"):
            used |= set(re.findall(r'from "\./([^"]+)"', text))
            # No way from text to markup or code.
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
    assert set(files) - used <= {"api.css"}  # of the page about the API, which the server makes


# ---- keyboard ----


# Tab starts from where the focus was last, even after it has gone.
BEGINNING = "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"


def test_a_whole_talk_by_keyboard_alone(talk: Talk) -> None:
    keys = talk.page.keyboard
    focused = lambda script: talk.page.evaluate(f"document.activeElement.{script}")  # noqa: E731
    talk.page.evaluate(BEGINNING)
    keys.press("Tab")
    assert focused("textContent") == "Skip to the message box"
    keys.press("Enter")
    assert focused("id") == "message"
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second")
    keys.press("Enter")
    talk.done()
    assert talk.said() == ["first line\nsecond"]
    assert focused("id") == "message"
    keys.press("Alt+r")
    talk.until("document.querySelectorAll('.turn-answer .versions:not([hidden])').length === 1")
    talk.done()
    keys.press("ArrowUp")  # the last message, to be edited
    talk.until("document.activeElement.className === 'editor-field'")
    keys.press("Control+A")
    keys.type("third")
    keys.press("Enter")
    talk.until("document.querySelector('.user-text')?.textContent === 'third'")
    talk.done()
    keys.press("Alt+m")
    assert focused("id") == "message"
    keys.press("Alt+n")
    talk.page.locator("#welcome").wait_for()
    assert focused("id") == "message"


def test_every_shortcut_of_the_help_does_what_it_says(talk: Talk) -> None:
    talk.expected = ("404",)
    press = talk.page.keyboard.press
    press("Alt+/")
    helped = talk.page.get_by_role("dialog", name="Help")
    shown = helped.locator("dt").all_text_contents()
    press("Escape")
    assert helped.count() == 0
    for keys, selector, attribute in (
        ("Alt+p", "#probabilities-toggle", "aria-pressed"),
        ("Alt+c", "#compare-toggle", "aria-pressed"),
        ("Alt+l", "#list-toggle", "aria-expanded"),
        ("Alt+s", "#settings-toggle", "aria-expanded"),
    ):
        before = talk.page.get_attribute(selector, attribute)
        press(keys)
        assert talk.page.get_attribute(selector, attribute) != before, keys
        press(keys)
        assert talk.page.get_attribute(selector, attribute) == before, keys
    press("Alt+i")
    talk.page.get_by_role("dialog", name="About the model").wait_for()
    press("Escape")
    press("Alt+l")
    press("Alt+k")
    assert talk.page.evaluate("document.activeElement.id") == "search"
    letters = {text.removeprefix("Alt + ") for text in shown if text.startswith("Alt")}
    assert letters == set("NRMPCLKSI/")  # the others are pressed in the talk above


def tab_stops(talk: Talk) -> list[str]:
    """What Tab leads to, from the beginning to the end."""
    talk.page.evaluate(BEGINNING)
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
        talk.page.keyboard.press("Tab")
        found = talk.page.evaluate(describe)
        if found is None or (stops and found[0] == stops[0]):
            return stops
        assert found[1], f"the focus on {found[0]} is not seen"
        stops.append(found[0])
    raise AssertionError(f"Tab never comes to an end: {stops}")


def test_tab_reaches_everything_in_the_order_it_is_read(talk: Talk) -> None:
    talk.server.replies = [Reply([MARKDOWN])]
    talk.say("Go")
    talk.page.click("#settings-toggle")
    stops = tab_stops(talk)
    wanted = [
        "Skip to the message box", "Close conversations", "new", "search", "import", "export", "help", "list-toggle",
        "model", "card", "settings-toggle", "copy-message", "edit-message", "Copy the code", "regenerate", "copy",
        "edit", "rate-up", "rate-down", "message", "compare-toggle", "probabilities-toggle",
        "Close settings", "setting-temperature", "setting-stop", "system", "formatted", "consent",
    ]  # fmt: skip
    places = [stops.index(name) for name in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_escape_closes_settings_and_returns_the_focus_to_its_button(new_talk: Any, size: dict[str, int]) -> None:
    talk = new_talk(viewport=size).open()
    panel = talk.page.locator("#settings-panel")
    for focused in ("#setting-temperature", "#setting-stop", "#settings-panel .drawer-close"):
        talk.page.click("#settings-toggle")
        talk.page.focus(focused)
        talk.page.keyboard.press("Escape")
        assert panel.is_hidden(), focused
        assert talk.page.evaluate("document.activeElement.id") == "settings-toggle", focused
    assert talk.page.locator("#list-panel").is_visible() is (size is WIDE)


def test_escape_outside_settings_stops_the_answer_first_and_then_closes_them(talk: Talk) -> None:
    gate = threading.Event()
    talk.server.replies = [Reply(["Once", " never"], gate=gate)]
    talk.page.click("#settings-toggle")
    talk.send("Go")
    talk.wait("Once")
    panel = talk.page.locator("#settings-panel")
    talk.page.keyboard.press("Escape")
    talk.done()
    gate.set()
    assert talk.answers() == ["Once"]
    assert panel.is_visible()
    talk.page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert talk.page.evaluate("document.activeElement.id") == "message"


def test_dialogs_keep_the_focus_and_give_it_back(talk: Talk) -> None:
    talk.page.focus("#help")
    talk.page.keyboard.press("Enter")
    dialog = talk.page.get_by_role("dialog", name="Help")
    dialog.wait_for()
    for _ in range(5):
        talk.page.keyboard.press("Tab")
        assert talk.page.evaluate(
            "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    talk.page.keyboard.press("Escape")
    assert talk.page.evaluate("document.activeElement.id") == "help"


def test_the_focus_stays_where_it_is_while_an_answer_is_written(talk: Talk) -> None:
    talk.say("One")
    gate = threading.Event()
    talk.server.replies = [Reply(["a ", "b ", "c "] * 50, gate=gate)]
    talk.send("Two")
    talk.wait("a")
    copy = talk.tool("copy", 0)
    copy.focus()
    gate.set()
    talk.done()
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

# Text against what lies behind it: 4.5:1, or 3:1 where it is large. Buttons that are not to be pressed are left out.
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


def everywhere(talk: Talk, look: Any) -> None:
    """Brings the page into its states, one after the other, and looks at each."""
    drawers = talk.page.viewport_size["width"] <= 960  # 60 rem
    talk.server.cards["fox-7m"] = {
        "id": "fox-7m", "family": "gpt-neo", "card": MARKDOWN, "digest": "sha256:" + "0" * 64,
        "config": {"a": [1] * 60},
        "lineage": [{"stage": "pretrain", "directory": "a/long/" * 20, "created": "2026-11", "details": {"steps": 1}}],
    }  # fmt: skip
    look("empty")
    talk.mode("completion")
    look("empty text")
    talk.server.replies = [Reply(["word" * 200, "\n    x = 1\n"])]
    talk.say("def f" + "(a)" * 60)
    look("text")
    if drawers:
        talk.page.click("#list-toggle")
    talk.page.click("#new")
    talk.mode("chat")
    gate = threading.Event()
    talk.server.replies = [Reply([MARKDOWN, "\n\nAnd **more"], gate=gate)]
    talk.send("A message with aveeeeeeeeery" + "long" * 40 + " word")
    talk.wait("Title")
    look("writing")
    gate.set()
    talk.done()
    look("answer")
    talk.page.click("#probabilities-toggle")
    talk.server.replies = [Reply(["Some", " tokens", " with", " tints", "\n", " " * 30, "long" * 50])]
    talk.say("Tokens")
    talk.page.focus(".token >> nth=6")
    look("tokens")
    talk.page.keyboard.press("Escape")
    talk.page.click("#compare-toggle")
    talk.server.replies = [Reply([MARKDOWN]), Reply(["b " * 30])]
    talk.say("Compare")
    look("compare")
    talk.server.replies = [Reply(status=429, retry_after=60), Reply(["half"], ending="error", message="m" * 200)]
    talk.send("Fail")
    talk.done()
    look("problems")
    talk.page.click("#compare-toggle")
    talk.tool("edit-message").click()
    talk.page.wait_for_selector(".editor-field:focus")
    look("editing")
    talk.page.keyboard.press("Escape")
    for panel in ("settings", "list"):
        if talk.page.locator(f"#{panel}-panel").is_hidden():
            talk.page.click(f"#{panel}-toggle")
        look(panel)
        if drawers and panel == "settings":
            talk.page.keyboard.press("Escape")
    talk.page.click(".list-more")
    look("menu")
    talk.page.keyboard.press("Escape")
    talk.page.click("#help")
    look("help")
    talk.page.keyboard.press("Escape")
    if drawers:
        talk.page.keyboard.press("Escape")
    talk.page.click("#card")
    talk.page.wait_for_selector(".lineage")
    look("card")
    talk.page.keyboard.press("Escape")
    talk.page.locator("[data-action=rate-up]:visible").first.click()
    look("consent")


def test_everything_has_a_name(talk: Talk) -> None:
    talk.expected = ("429",)

    def look(state: str) -> None:
        found = talk.page.evaluate(NAMES)
        assert found == {
            "nameless": [], "headings": 1, "doubled": [], "dangling": [], "landmarks": [1, 1, 1], "live": 0,
            "pictures": 0, "lang": "en-GB",
        }, state  # fmt: skip

    everywhere(talk, look)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(new_talk: Any, scheme: str) -> None:
    talk = new_talk(color_scheme=scheme).open()
    talk.expected = ("429",)
    everywhere(talk, lambda state: check_equal(talk.page.evaluate(CONTRAST), [], state))


def check_equal(found: Any, wanted: Any, state: str) -> None:
    assert found == wanted, state


# ---- sizes ----


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(new_talk: Any, width: int) -> None:
    talk = new_talk(viewport={"width": width, "height": 740}, has_touch=width < 600).open()
    talk.expected = ("429",)
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
        talk,
        lambda state: check_equal(
            talk.page.evaluate(script), {"page": True, "thread": True, "panels": True, "out": []}, state
        ),
    )


def test_on_a_telephone_the_controls_are_in_a_drawer(new_talk: Any) -> None:
    talk = new_talk(viewport=PHONE, has_touch=True).open()
    panel = talk.page.locator("#settings-panel")
    assert panel.is_hidden()
    assert talk.page.locator("#list-panel").is_hidden()
    talk.page.tap("#settings-toggle")
    assert panel.is_visible()
    assert talk.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close settings"
    assert talk.page.evaluate("document.getElementById('centre').inert")
    talk.page.fill("#setting-temperature", "0.5")
    talk.page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert talk.page.evaluate("document.activeElement.id") == "settings-toggle"
    assert not talk.page.evaluate("document.getElementById('centre').inert")
    talk.page.tap("#list-toggle")
    talk.page.touchscreen.tap(350, 400)  # beside it
    assert talk.page.locator("#list-panel").is_hidden()
    talk.say("Go")
    assert talk.server.asked[0][1]["temperature"] == 0.5
    talk.page.set_viewport_size(WIDE)
    talk.page.locator("#list-panel").wait_for()


def test_on_a_telephone_two_answers_stand_one_below_the_other(new_talk: Any) -> None:
    talk = new_talk(viewport=PHONE, has_touch=True).open()
    talk.page.tap("#compare-toggle")
    talk.say("Go")
    boxes = [talk.page.locator(".columns .turn").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert boxes[0]["x"] == boxes[1]["x"]
    talk.page.get_by_role("button", name="Second is better").tap()
    assert talk.texts(".turn-answer .versions:visible .versions-count") == ["2/2"]


# ---- colours and motion ----

BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
LIGHT, DARK = "rgb(250, 249, 246)", "rgb(20, 23, 26)"


def test_the_theme_follows_the_system_until_one_is_chosen(talk: Talk) -> None:
    assert talk.page.evaluate(BACKGROUND) == LIGHT
    talk.page.emulate_media(color_scheme="dark")
    assert talk.page.evaluate(BACKGROUND) == DARK
    talk.page.get_by_text("Light", exact=True).click()
    assert talk.page.evaluate(BACKGROUND) == LIGHT
    talk.reload()
    assert talk.page.evaluate(BACKGROUND) == LIGHT
    assert talk.page.get_by_role("radio", name="Light").is_checked()
    # It is set before anything is drawn.
    assert talk.page.evaluate(
        "document.querySelector('script').src.endsWith('theme-at-start.js') && !document.querySelector('script').defer"
    )
    talk.page.get_by_text("System", exact=True).click()
    assert talk.page.evaluate(BACKGROUND) == DARK


def test_nothing_moves_for_those_who_want_no_motion(new_talk: Any) -> None:
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    for motion, some in (("no-preference", True), ("reduce", False)):
        talk = new_talk(reduced_motion=motion).open()
        gate = threading.Event()
        talk.server.replies = [Reply(["a", "b"], gate=gate)]
        talk.send("Go")
        talk.wait("a")
        assert (talk.page.evaluate(moving) > 0) is some
        gate.set()
        talk.done()
