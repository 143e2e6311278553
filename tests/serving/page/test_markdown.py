"""Markdown is rendered as a few kinds of nodes; all other output stays text, hostile markup included."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from page_server import Reply, model

# A DOM tree as a list: text, or [tag, children ...] for an element, without copy buttons.
OUTLINE = """
const outline = (node) => node.nodeType === 3 ? node.data
  : [node.tagName.toLowerCase() + (node.href ? " " + node.getAttribute("href") : ""), ...[...node.childNodes]
      .filter((child) => !child.classList?.contains("code-head")).map(outline)];
"""

RENDER = (
    """async (text) => {
  const { renderMarkdown } = await import("/static/markdown.js");
"""
    + OUTLINE
    + "return outline(renderMarkdown(text)).slice(1); }"
)

CASES: dict[str, list[Any]] = {
    "plain": [["p", "plain"]],
    "two\nlines": [["p", "two\nlines"]],
    "  kept   spaces\n    and these": [["p", "  kept   spaces\n    and these"]],
    "one\n\ntwo": [["p", "one"], ["p", "two"]],
    "# One\n## Two ##\n###### Six": [["h4", "One"], ["h5", "Two"], ["h6", "Six"]],
    "#not a heading": [["p", "#not a heading"]],
    "**bold** *em* __bold__": [["p", ["strong", "bold"], " ", ["em", "em"], " ", ["strong", "bold"]]],
    "_em_ ~~del~~": [["p", ["em", "em"], " ", ["del", "del"]]],
    "***both***": [["p", ["strong", ["em", "both"]]]],
    "**a *b* c**": [["p", ["strong", "a ", ["em", "b"], " c"]]],
    "snake_case_name 2*3*4 a * b": [["p", "snake_case_name 2*3*4 a * b"]],
    "**open *and": [["p", "**open *and"]],
    "a `b *c*` d ``e ` f``": [["p", "a ", ["code", "b *c*"], " d ", ["code", "e ` f"]]],
    r"\*not\* \`code\` C:\dir": [["p", r"*not* `code` C:\dir"]],
    "[a *b*](https://x.org/y)": [["p", ["a https://x.org/y", "a ", ["em", "b"]]]],
    '[a](https://x.org "title")': [["p", ["a https://x.org/", "a"]]],
    "[w](https://x.org/a_(b))": [["p", ["a https://x.org/a_(b)", "w"]]],
    "[m](mailto:a@b.org)": [["p", ["a mailto:a@b.org", "m"]]],
    "see https://x.org/a. And": [["p", "see ", ["a https://x.org/a", "https://x.org/a"], ". And"]],
    "(https://x.org/b)": [["p", "(", ["a https://x.org/b", "https://x.org/b"], ")"]],
    "list[0](x) and d[k]": [["p", "list[0](x) and d[k]"]],
    "![alt](https://x.org/i.png)": [["p", "![alt](https://x.org/i.png)"]],
    "- a\n- b\n  - c\n\n1. x\n2. y": [
        ["ul", ["li", ["p", "a"]], ["li", ["p", "b"], ["ul", ["li", ["p", "c"]]]]],
        ["ol", ["li", ["p", "x"]], ["li", ["p", "y"]]],
    ],
    "3) a\n4) b": [["ol", ["li", ["p", "a"]], ["li", ["p", "b"]]]],
    "It was\n1984. A year": [["p", "It was\n1984. A year"]],
    "- a\n\n  b\n\nc": [["ul", ["li", ["p", "a"], ["p", "b"]]], ["p", "c"]],
    "- code:\n  ```\n  x\n    y\n  ```": [["ul", ["li", ["p", "code:"], ["div", ["pre", ["code", "x\n  y"]]]]]],
    "> a\n> > b\n\nc": [["blockquote", ["p", "a"], ["blockquote", ["p", "b"]]], ["p", "c"]],
    "```python\nif x:\n\ty = '<b>'\n```\nafter": [["div", ["pre", ["code", "if x:\n\ty = '<b>'"]]], ["p", "after"]],
    "~~~\n```\n~~~": [["div", ["pre", ["code", "```"]]]],
    "```\nnever closed\n\n# still code": [["div", ["pre", ["code", "never closed\n\n# still code"]]]],
    "a\n\n---\n\n* * *": [["p", "a"], ["hr"], ["hr"]],
    "| a | b |\n|---|:-:|\n| 1 | `x\\|y` |\n| 2 |": [
        ["div", ["table", ["thead", ["tr", ["th", "a"], ["th", "b"]]],
                 ["tbody", ["tr", ["td", "1"], ["td", ["code", "x|y"]]], ["tr", ["td", "2"], ["td"]]]]]
    ],
    "a | b\nc | d": [["p", "a | b\nc | d"]],
    "<b>x</b> &amp; <!-- c -->": [["p", "<b>x</b> &amp; <!-- c -->"]],
    "": [],
    "\n \n": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def module_page(browser: Any, server: Any) -> Any:
    """A page in which the modules are called directly."""
    server.reset()
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    yield page
    context.close()


@pytest.mark.parametrize("text", CASES, ids=lambda text: repr(text)[:40])
def test_markdown_is_rendered(module_page: Any, text: str) -> None:
    assert module_page.evaluate(RENDER, text) == CASES[text]


BAD_ADDRESSES = [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)",
    "data:text/html,<script>x</script>",
    "vbscript:x", "file:///etc/passwd", "//evil.org", "/relative", "#here", "blob:https://x.org/1", "https://user:pass@evil.org",
    "https://", "http:evil.org", "mailto", "\x01javascript:alert(1)", "https://x.org/\u202egnp.exe",
    "javascript&colon;alert(1)", "about:blank",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD_ADDRESSES, ids=repr)
def test_unsafe_links_are_not_rendered(module_page: Any, address: str) -> None:
    for text in (f"[x]({address})", f"<{address}>", f"[x](<{address}>)", f"[![x]({address})]({address})"):
        rendered = module_page.evaluate(RENDER, text)
        links = re.findall(r"\['a (\S+)', '([^']*)'", repr(rendered))
        # A visible http(s) URL may become a link to that URL, but to no other.
        assert all(
            re.match("https?://(x|evil)\\.org/", href) and href.rstrip("/") == shown.rstrip("/")
            for href, shown in links
        )


# ---- generated texts ----

# Syntax, markup and characters that are hard to parse.
PARTS = [
    "*", "**", "***", "_", "__", "~~", "`", "``", "```", "\n", "\n\n", "\n```\n", "\n~~~\n", "# ", "## ",
    "\n- ", "\n  - ", "\n1. ", "\n> ", "\n| ", " | ",
    "\n|---|---|\n", "\n---\n", "[", "]", "](", "(", ")", "](https://x.org/", "![", "](javascript:x)",
    "<b>", "</script><script>x()</script>", "<img src=x onerror=y>",
    "https://x.org/", "mailto:", "\\", "\\*", "&lt;", "\t", "    ", "\r\n", "\r", "\0", "\u202e", "\u2028",
    "\ufeff", "🦊", "é", "\ud83e", "]]>", "<!--", "${x}", "{{x}}",
]  # fmt: skip

TRY = """async (texts) => {
  const { MarkdownView, renderMarkdown } = await import("/static/markdown.js");
  const tags = new Set(), attributes = new Set(), hrefs = new Set(), wrong = [];
  const look = (root) => root.querySelectorAll("*").forEach((node) => {
    tags.add(node.tagName.toLowerCase());
    node.getAttributeNames().forEach((name) => attributes.add(name));
    if (node.hasAttribute("href")) hrefs.add(new URL(node.href).protocol);
  });
  // The visible words, in order.
  const words = (text) => text.match(/w[0-9]+w/g) ?? [];
  const bare = (root) => {
    const copy = root.cloneNode(true);
    copy.querySelectorAll(".code-copy").forEach((node) => node.remove());
    return copy.textContent;
  };
  texts.forEach((text, index) => {
    const whole = renderMarkdown(text);
    look(whole);
    if (words(bare(whole)).join() !== words(text).join()) wrong.push([index, "words", text, bare(whole)]);
    // Streamed in parts: never throws, and the result is the same as in one part.
    const view = new MarkdownView();
    for (let end = 0; end <= text.length; end += 1 + (index % 3)) {
      view.update(text.slice(0, end), true);
      // Incomplete syntax is hidden; the block before it stays as it was rendered last.
      if (/(^|[\\n\\r]) *([-*+_`~#|]{1,3}|\\d+[.)])[ \\t]*$/.test(text.slice(0, end))) continue;
      const anew = new MarkdownView();
      anew.update(text.slice(0, end), true);
      const [grown, fresh] = [view.element.innerHTML, anew.element.innerHTML];
      if (grown !== fresh) wrong.push([index, "grown", text.slice(0, end), grown, fresh]);
    }
    look(view.element);
    view.update(text, false);
    const [streamed, once] = [view.element.innerHTML, whole.innerHTML];
    if (streamed !== once) wrong.push([index, "streamed", text, streamed, once]);
  });
  return { tags: [...tags].sort(), attributes: [...attributes].sort(), hrefs: [...hrefs].sort(), wrong };
}"""

TAGS = {
    "p", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "del", "a", "hr", "div",
    "span", "table", "thead", "tbody", "tr", "th", "td", "button", "svg", "path",
}  # fmt: skip
ATTRIBUTES = {
    "class", "dir", "href", "target", "rel", "title", "start", "scope", "tabindex", "role", "aria-label", "aria-hidden",
    "type", "viewBox", "d",
}  # fmt: skip


def generated(seed: int) -> str:
    draw = random.Random(seed)
    parts = []
    for number in range(draw.randint(1, 40)):
        parts.append(draw.choice(PARTS))
        if draw.random() < 0.6:
            parts.append(f"w{number}w")
        if draw.random() < 0.3:
            parts.append(" ")
    return "".join(parts)


def test_generated_texts_never_throw_and_keep_all_words(module_page: Any) -> None:
    texts = [generated(seed) for seed in range(600)]
    found = module_page.evaluate(TRY, texts)
    # Words in a link's URL or title, or after a code fence, are not part of the text.
    lost = [
        case
        for case in found["wrong"]
        if not (case[1] == "words" and re.search(r"\]\(\S*w\d+w|(```|~~~)[^\n]*w\d+w|https://x.org/", case[2]))
    ]
    assert lost == []
    assert set(found["tags"]) <= TAGS
    assert set(found["attributes"]) <= ATTRIBUTES
    assert set(found["hrefs"]) <= {"https:", "http:", "mailto:"}
    assert {"a", "table", "pre", "li", "strong", "blockquote"} <= set(found["tags"])  # the texts contain Markdown


@pytest.mark.parametrize(
    "part",
    [
        "[",
        "](",
        "*a ",
        "**",
        "`",
        "``` ` ",
        "![a](",
        "[a](b ",
        "> ",
        "- ",
        "| ",
        "\\",
        "<",
        "http",
        "https://x ",
        "_a_",
        "1. ",
        "#",
        "\n|-",
        "(" * 3,
    ],
)
def test_parsing_time_is_linear(module_page: Any, part: str) -> None:
    script = """async (text) => {
      const { parseLines, splitLines } = await import("/static/markdown-blocks.js");
      const { parseInline } = await import("/static/markdown-inline.js");
      const time = (times) => {
        const big = text.repeat(times);
        const start = performance.now();
        parseLines(splitLines(big), true);
        parseInline(big, true);
        return performance.now() - start;
      };
      time(1000);
      const best = (times) => Math.min(...[1, 2, 3].map(() => time(times)));
      return [best(20000), best(80000)];
    }"""
    small, large = module_page.evaluate(script, part)
    # Four times the text takes about four times as long; quadratic time would be sixteen times.
    assert large < 10 * small + 60


def test_incomplete_syntax_is_hidden_while_the_text_grows(module_page: Any) -> None:
    script = """async (text) => {
      const { MarkdownView } = await import("/static/markdown.js");
      const view = new MarkdownView();
      const seen = [];
      for (let end = 1; end <= text.length; end += 1) {
        view.update(text.slice(0, end), true);
        seen.push(view.element.querySelector("p, li, h4, td, th, code")?.textContent ?? "");
      }
      return seen;
    }"""
    for text in (
        "**bold** text",
        "*em* text",
        "`code` text",
        "~~gone~~ text",
        "# Heading",
        "- item",
        "1. item",
        "a **b** and `c` and ~~d~~ e",
        "| a | b |",
    ):
        for seen in module_page.evaluate(script, text):
            assert not re.search(r"[*`~#|-]|1\.", seen), (text, seen)


def test_only_the_last_block_is_rendered_again(module_page: Any) -> None:
    script = """async (text) => {
      const { MarkdownView } = await import("/static/markdown.js");
      const view = new MarkdownView();
      document.body.append(view.element);
      view.update(text, true);
      const before = [...view.element.children];
      const changed = new Set();
      const place = ({ target }) => before.findIndex((block) => block.contains(target));
      const observer = new MutationObserver((records) => records.forEach((record) => changed.add(place(record))));
      observer.observe(view.element, { childList: true, subtree: true, characterData: true });
      for (const more of [" more", " and more", "\\n```py\\nx = 1", "\\ny = 2"]) {
        text += more;
        view.update(text, true);
      }
      const code = view.element.querySelector("pre code"), copy = view.element.querySelector(".code-copy");
      copy.focus();
      view.update(text + "\\nz = 3\\n```\\n", false);
      await new Promise((done) => setTimeout(done));
      const same = before.slice(0, -1).every((block, index) => view.element.children[index] === block);
      const kept = document.activeElement === copy && copy.isConnected;
      view.element.remove();
      return { changed: [...changed], same, kept, code: code.textContent };
    }"""
    found = module_page.evaluate(script, "# One\n\nTwo **b**\n\n- a\n- b\n\nLast")
    assert found["same"]
    assert found["kept"]
    assert found["code"] == "x = 1\ny = 2\nz = 3"
    assert {index for index in found["changed"] if index >= 0} <= {3}


# ---- hostile answers on the page ----

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'><svg onload='window.hacked = 1'><iframe src='https://evil.org'>",
    "[a](javascript:window.hacked=1) [b](data:text/html,<script>alert(1)</script>) [c]( javascript:x) [d](vbscript:x)",
    "![x](https://evil.org/pixel.png) ![x](javascript:window.hacked=1) <img src=https://evil.org/pixel.png>",
    "<svg><script>window.hacked=1</script></svg><math><mtext><style><img src=x onerror=window.hacked=1>",
    "```html\n<script>window.hacked=1</script>\n```\n```\"><img src=x onerror=window.hacked=1>\nx\n```",
    "| <img src=x onerror=window.hacked=1> | b |\n|---|---|\n| <script>window.hacked=1</script> | [x](javascript:y) |",
    "# <img src=x onerror=window.hacked=1>\n> <script>window.hacked=1</script>\n- <a href=javascript:hacked=1>x</a>",
    "\u202edetrever\u2066 \u2069 \0 \ufeff \u200b \x1b[31m \x07",
    "<base href=https://evil.org><meta http-equiv=refresh content='0;url=https://evil.org'><form action=https://evil.org><button>x",
    "<link rel=stylesheet href=https://evil.org/x.css><style>*{display:none}</style><object data=https://evil.org>",
    "</textarea></title></script><script>window.hacked=1</script>",
    "<!--<img title=\"--><img src=x onerror=window.hacked=1>\">",
    "[" * 5000 + "x" + "](" * 5000,
    "word" * 50_000,
    "**__*_`[!<" * 200,
]  # fmt: skip

SAFE = """() => {
  const nodes = [...document.querySelectorAll("*")];
  const alive = ["script", "style", "img", "iframe", "object", "embed", "form", "input", "base", "meta", "link", "math",
    "svg script", "video", "audio", "canvas"].map((tag) => `#conversation ${tag}`).join();
  const handler = (node, name) => name.startsWith("on") || (name === "style" && node.closest(".prose"));
  const addresses = nodes.filter((node) => node.hasAttribute("href")).map((node) => node.getAttribute("href"));
  return {
    hacked: window.hacked ?? null,
    handlers: nodes.flatMap((node) => node.getAttributeNames().filter((name) => handler(node, name))),
    schemes: [...new Set(addresses.map((address) => new URL(address, location.href).protocol))],
    alive: nodes.filter((node) => node.matches(alive)).map((node) => node.tagName),
    scripts: document.scripts.length,
    wide: document.documentElement.scrollWidth > window.innerWidth,
  };
}"""


@pytest.mark.parametrize("way", ["chat", "completion", "probabilities", "plain"])
def test_hostile_answers_stay_text(new_ui: Any, way: str) -> None:
    ui = new_ui(viewport={"width": 360, "height": 740}).open()
    if way == "completion":
        ui.mode("completion")
    if way == "probabilities":
        ui.page.click("#probabilities-toggle")
    if way == "plain":
        ui.page.evaluate("localStorage.setItem('neolm.preferences', JSON.stringify({ formatted: false }))")
        ui.reload()
    for payload in HOSTILE:
        ui.server.replies = [Reply([payload[:9], payload[9:]], others=[(payload[:40], 0.3)])]
        answer = ui.say(payload)
        if way in ("completion", "plain"):
            assert answer.replace("\0", "") == ((payload if way == "completion" else "") + payload).replace("\0", "")
    if way == "probabilities":
        for number in range(0, ui.page.locator(".token").count(), 2):
            ui.page.locator(".token").nth(number).focus()
    ui.page.wait_for_timeout(200)
    found = ui.page.evaluate(SAFE)
    assert found == {
        "hacked": None,
        "handlers": [],
        "schemes": found["schemes"],
        "alive": [],
        "scripts": 2,
        "wide": False,
    }
    assert set(found["schemes"]) <= {"http:", "https:", "mailto:"}
    assert ui.server.url  # requests to other hosts fail the test at its end
    ui.reload()
    assert ui.page.evaluate(SAFE)["alive"] == []
    assert ui.page.evaluate("window.hacked ?? null") is None


def test_hostile_names_stay_text(new_ui: Any) -> None:
    name = "<img src=x onerror=window.hacked=1>\u202e'\"`${1}"
    ui = new_ui()
    ui.expected = ("404",)
    ui.server.models = [model(name), model("javascript:alert(1)")]
    ui.server.info["version"] = "<script>window.hacked=1</script>"
    ui.open()
    ui.server.replies = [Reply(status=404, message="<img src=x onerror=window.hacked=1>")]
    ui.send("Go")
    ui.done()
    ui.page.click("#card")
    ui.page.get_by_role("dialog").get_by_text("Not found").wait_for()
    ui.page.keyboard.press("Escape")
    ui.page.click("#help")
    assert "<script>" in ui.page.get_by_role("dialog").text_content()
    assert ui.page.evaluate("window.hacked ?? null") is None
    assert ui.page.locator("img").count() == 0


LEFTMOST = """([selector, one, other]) => {
    const walker = document.createTreeWalker(document.querySelector(selector), NodeFilter.SHOW_TEXT);
    const place = word => {
        walker.currentNode = walker.root;
        while (walker.nextNode()) {
            const start = walker.currentNode.data.indexOf(word);
            if (start < 0) continue;
            const range = document.createRange();
            range.setStart(walker.currentNode, start);
            range.setEnd(walker.currentNode, start + word.length);
            return range.getBoundingClientRect().left;
        }
    };
    return place(one) < place(other) ? one : other;
}"""


def test_each_line_has_its_own_writing_direction(ui: Any) -> None:
    arabic, code, english = "\u0645\u0631\u062d\u0628\u0627 \u064a\u0627", "def f(x): pass", "An English line, at last"
    ui.mode("chat")
    ui.server.replies = [Reply([f"{arabic}\n\n```python\n{code}\n```\n\n- {english}\n\n|{arabic}|b|\n|-|-|\n|x|y|"])]
    ui.say(f"{arabic}\n{english}")
    for selector in (".turn-answer .prose", ".user-text"):
        words = arabic.split()
        assert ui.page.evaluate(LEFTMOST, [selector, *words]) == words[1]  # what comes later stands further left
        assert ui.page.evaluate(LEFTMOST, [selector, "English", "last"]) == "English"
    assert ui.page.evaluate(LEFTMOST, [".code", "def", "pass"]) == "def"
    assert ui.page.evaluate(LEFTMOST, ["table", "x", "y"]) == "x"
    ui.page.click("#new")
    ui.mode("completion")
    ui.server.replies = [Reply([f"\n{code}\n{arabic}"])]
    ui.say(f"# {arabic}")
    assert ui.page.evaluate(LEFTMOST, [".passage", "def", "pass"]) == "def"
    assert ui.page.evaluate(LEFTMOST, [".passage .plain-text", *arabic.split()]) == arabic.split()[1]
