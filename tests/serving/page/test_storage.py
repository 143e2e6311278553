"""Stored conversations and preferences; storage that is full, damaged, blocked or shared; import and export."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from page_driver import PageDriver
from page_server import Reply

DONE = {"model": "fox-7m", "state": "done"}
GOOD = {
    "id": "abc", "mode": "chat", "title": "Foxes", "system": "", "created": 1, "updated": 2, "first": "p1",
    "messages": [
        {"id": "p1", "parent": None, "role": "user", "text": "Go", "created": 1, "next": "p2"},
        {"id": "p2", "parent": "p1", "role": "assistant", "text": "Left.", "created": 1, "next": None, **DONE},
        {"id": "p3", "parent": "p1", "role": "assistant", "text": "Right.", "created": 1, "next": None, **DONE},
    ],
}  # fmt: skip


def file_of(*conversations: Any, **fields: Any) -> str:
    return json.dumps({"format": "neolm-conversations", "version": 1, "conversations": list(conversations), **fields})


def pick(ui: PageDriver, text: str, tmp_path: Path) -> None:
    path = tmp_path / "picked.json"
    path.write_text(text, encoding="utf-8")
    with ui.page.expect_file_chooser() as chooser:
        ui.page.get_by_role("button", name="Import").click()
    chooser.value.set_files(path)


def names(ui: PageDriver) -> list[str]:
    return ui.texts(".list-open")


def test_a_reload_restores_everything(ui: PageDriver) -> None:
    ui.page.click("#probabilities-toggle")
    ui.say("A question about foxes")
    ui.tool("regenerate").click()
    ui.done()
    before = (ui.texts(".token"), ui.texts(".versions:visible"), names(ui))
    ui.reload()
    assert (ui.texts(".token"), ui.texts(".versions:visible"), names(ui)) == before
    assert before[2] == ["A question about foxes"]
    ui.page.focus(".token >> nth=1")
    assert "world" in ui.page.text_content("#token-card")


def test_conversations_are_opened_renamed_and_deleted(ui: PageDriver) -> None:
    ui.say("One")
    ui.page.keyboard.press("Alt+n")
    ui.say("Two")
    assert names(ui) == ["Two", "One"]
    ui.page.click(".list-open >> nth=1")
    ui.wait("One")
    assert ui.user_messages() == ["One"]
    ui.page.get_by_role("button", name="More for One").click()
    ui.page.get_by_role("button", name="Rename").click()
    ui.page.get_by_role("textbox", name="Name of the conversation").fill(" The  first\u202e ")
    ui.page.keyboard.press("Enter")
    ui.page.locator(".list-open", has_text="The first").wait_for()
    assert ui.page.title() == "The first · NeoLM"
    ui.page.get_by_role("button", name="More for The first").click()
    ui.page.get_by_role("button", name="Delete", exact=True).click()
    ui.page.get_by_role("button", name="Cancel").click()
    assert names(ui) == ["Two", "The first"]
    ui.page.get_by_role("button", name="More for The first").click()
    ui.page.get_by_role("button", name="Delete", exact=True).click()
    ui.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    ui.page.locator("#welcome").wait_for()
    ui.reload()
    assert names(ui) == ["Two"]
    assert len(ui.conversations()) == 1


def test_a_conversation_deleted_during_generation_stays_deleted(ui: PageDriver) -> None:
    gate = threading.Event()
    ui.server.replies = [Reply(["Once", " more"], gate=gate)]
    ui.send("Go")
    ui.wait("Once")
    ui.page.get_by_role("button", name="More for Go").click()
    ui.page.get_by_role("button", name="Delete", exact=True).click()
    ui.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    ui.page.locator("#welcome").wait_for()
    gate.set()
    ui.page.wait_for_timeout(200)
    assert ui.conversations() == []
    ui.say("Anew")
    assert names(ui) == ["Anew"]


def test_generation_continues_while_another_conversation_is_open(ui: PageDriver) -> None:
    ui.say("One")
    ui.page.click("#new")
    gate = threading.Event()
    ui.server.replies = [Reply(["Slow", " and steady"], gate=gate)]
    ui.send("Two")
    ui.wait("Slow")
    ui.page.click(".list-open >> nth=1")
    ui.wait("Hello there.")
    assert ui.page.text_content(".send") == "Send"
    gate.set()
    ui.until("JSON.stringify(localStorage).includes('steady')")
    ui.page.locator(".list-open", has_text="Two").click()
    ui.wait("Slow and steady")


def test_an_answer_interrupted_by_closing_the_page_keeps_its_text(ui: PageDriver) -> None:
    gate = threading.Event()
    ui.server.replies = [Reply(["Half", " done"], gate=gate)]
    ui.send("Go")
    ui.wait("Half")
    ui.reload()
    gate.set()
    assert ui.answers() == ["Half"]
    ui.wait("The page was closed while this answer was generated.")
    ui.tool("retry").click()
    ui.wait("Hello there.")
    ui.done()


def test_a_draft_survives_a_reload(ui: PageDriver) -> None:
    ui.page.fill("#message", "Not yet sent")
    ui.reload()
    assert ui.page.input_value("#message") == "Not yet sent"


# ---- files ----


def test_export_and_import_preserve_a_conversation(new_ui: Any, tmp_path: Path) -> None:
    ui = new_ui().open()
    ui.page.click("#probabilities-toggle")
    ui.say("Tell me of foxes")
    ui.tool("regenerate").click()
    ui.done()
    with ui.page.expect_download() as download:
        ui.page.get_by_role("button", name="Export all").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert json.loads(text)["format"] == "neolm-conversations"
    other = new_ui().open()
    pick(other, text, tmp_path)
    other.wait("Tell me of foxes")
    strip = lambda one: {**one, "updated": 0}  # noqa: E731
    assert [strip(one) for one in other.conversations()] == [strip(one) for one in ui.conversations()]
    other.page.click("#probabilities-toggle")
    assert other.texts(".token") == ui.texts(".token")
    pick(other, text, tmp_path)  # a second import adds a copy
    other.until("document.querySelectorAll('.list-open').length === 2")
    assert len({one["id"] for one in other.conversations()}) == 2


def test_one_conversation_is_exported_as_markdown_and_json(ui: PageDriver) -> None:
    ui.server.replies = [Reply(["A **fox**"])]
    ui.say("Who: me / you?")
    ui.page.click(".list-more")
    with ui.page.expect_download() as download:
        ui.page.get_by_role("button", name="Export as Markdown").click()
    assert download.value.suggested_filename == "who-me-you.md"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert "# Who: me / you?\n" in text
    assert "## You\n\nWho: me / you?\n\n## fox-7m\n" in text
    assert text.endswith("\nA **fox**\n")
    ui.page.click(".list-more")
    with ui.page.expect_download() as download:
        ui.page.get_by_role("button", name="Export as JSON").click()
    assert download.value.suggested_filename == "who-me-you.json"
    assert len(json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["conversations"]) == 1


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def with_message(index: int, **fields: Any) -> dict[str, Any]:
    return changed(
        messages=[{**message, **(fields if number == index else {})} for number, message in enumerate(GOOD["messages"])]
    )


BAD_FILES = {
    "not json": ("{", "The file is not JSON."),
    "a list": ("[]", "is not an export of NeoLM conversations"),
    "another format": (file_of(GOOD, format="other"), "is not an export of NeoLM conversations"),
    "a later version": (file_of(GOOD, version=2), "has version 2; this page reads version 1"),
    "none": (file_of(), "contains no list of conversations"),
    "null": (file_of(None), "In conversation 1 of the file: The conversation is not an object."),
    "no id": (file_of(changed(id=7)), "id is not a valid id."),
    "an id with a path": (file_of(changed(id="../x")), "id is not a valid id."),
    "a mode": (file_of(changed(mode="x")), 'mode is neither "chat" nor "completion".'),
    "no messages": (file_of(GOOD, changed(messages={})), "In conversation 2 of the file: messages is not a list"),
    "a circle": (file_of(with_message(0, parent="p2")), "messages[0].parent is not an earlier message."),
    "itself": (file_of(with_message(1, parent="p2")), "messages[1].parent is not an earlier message."),
    "twice": (file_of(with_message(2, id="p2")), "messages[2].id occurs twice."),
    "a role": (file_of(with_message(0, role="root")), "messages[0].role is neither"),
    "a text": (file_of(with_message(0, text=["x"])), "messages[0].text is not a string."),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_an_invalid_file_changes_nothing_and_is_explained(ui: PageDriver, tmp_path: Path, case: str) -> None:
    text, words = BAD_FILES[case]
    pick(ui, text, tmp_path)
    ui.wait("Nothing was imported.", "#notices")
    assert words in ui.page.text_content("#notices")
    assert ui.conversations() == []


def test_unknown_and_invalid_fields_of_a_file_are_ignored(ui: PageDriver, tmp_path: Path) -> None:
    odd = with_message(
        1, next="p3", state="flying", error={"kind": 3},
        stats={"tokensPerSecond": "fast", "firstToken": -1, "completionTokens": 3},
        tokens=[["a", -1, [["b", -2], 7]], "x"], pair={"id": "q", "side": 5}, rating="great",
        settings={"temperature": "hot", "top_p": 0.5, "__proto__": 1}, extra="<b>",
    )  # fmt: skip
    odd["first"] = "p3"  # not a first message
    text = file_of(odd).replace('"extra"', '"__proto__": {"polluted": 1}, "extra"')
    pick(ui, text, tmp_path)
    ui.wait("Left.")
    (kept,) = ui.conversations()
    assert kept["messages"][1] == {
        "id": "p2", "parent": "p1", "role": "assistant", "text": "Left.", "created": 1, "next": None, **DONE,
        "finishReason": None, "stats": {"completionTokens": 3}, "settings": {"top_p": 0.5},
    }  # fmt: skip
    assert ui.page.evaluate("({}).polluted ?? null") is None
    ui.tool("next-answer").click()
    assert ui.answers() == ["Right."]
    assert ui.say("On") == "Hello there."


def test_conversations_saved_before_version_0_1_are_read(new_ui: Any) -> None:
    ui = new_ui()
    old = {key: value for key, value in GOOD.items() if key != "messages"} | {"pieces": GOOD["messages"]}
    ui.context.add_init_script(f"localStorage.setItem('neolm.conversation.abc', {json.dumps(json.dumps(old))})")
    ui.open()
    ui.page.click(".list-open")
    ui.wait("Left.")


# ---- damaged, full and blocked storage ----

DAMAGED = {
    "neolm.conversation.abc": '{"id": "abc", "mo',
    "neolm.conversation.def": "null",
    "neolm.conversation.ghi": json.dumps({**GOOD, "id": "other"}),
    "neolm.conversation.": "[]",
    "neolm.preferences": json.dumps(
        {
            "theme": 7,
            "left": [1],
            "compare": "yes",
            "mode": "x",
            "leftModel": {},
            "right": {"temperature": "a", "stop": 3, "seed": {}},
        }
    ),
    "neolm.key": "{",
    "other": "not ours",
}


def test_damaged_storage_is_reported_and_does_not_affect_other_data(new_ui: Any) -> None:
    ui = new_ui().open()
    ui.say("Good")
    ui.page.evaluate(
        "data => Object.entries(data).forEach(([key, value]) => localStorage.setItem(key, value))", DAMAGED
    )
    ui.page.evaluate("sessionStorage.setItem('neolm.draft', '{'); sessionStorage.setItem('neolm.key', '7')")
    ui.reload()
    assert ui.answers() == ["Hello there."]
    assert names(ui) == ["Good"]
    assert "4 conversations are damaged" in ui.page.text_content("#list")
    assert ui.say("More") == "Hello there."
    with ui.page.expect_download() as download:
        ui.page.get_by_role("button", name="Save the data").click()
    assert '{"id": "abc", "mo' in Path(download.value.path()).read_text(encoding="utf-8")
    ui.page.get_by_role("button", name="Delete damaged conversations").click()
    ui.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    ui.page.locator(".list-damaged").wait_for(state="detached")
    assert len(ui.conversations()) == 1
    assert ui.stored()["other"] == "not ours"


def test_preferences_that_are_not_an_object_are_ignored(new_ui: Any) -> None:
    ui = new_ui()
    ui.context.add_init_script(
        "localStorage.setItem('neolm.preferences', '[1,2'); sessionStorage.setItem('neolm.open', '\"gone\"');"
    )
    ui.open()
    assert ui.say("Go") == "Hello there."


LIMITED = """
  const setItem = Storage.prototype.setItem;
  Storage.prototype.setItem = function (key, value) {
    const full = key.startsWith("neolm.conversation.") && value.length > window.room;
    if (full) throw new DOMException("full", "QuotaExceededError");
    setItem.call(this, key, value);
  };
  window.room = %d;
"""


def test_when_storage_is_nearly_full_probabilities_are_left_out(new_ui: Any) -> None:
    ui = new_ui()
    ui.context.add_init_script(LIMITED % 1200)
    ui.open()
    ui.page.click("#probabilities-toggle")
    ui.server.replies = [Reply(["word"] * 40)]
    ui.say("Go")
    ui.wait("saved without its probabilities", "#notices")
    assert len(ui.texts(".token")) == 40  # kept until the page is closed
    ui.reload()
    assert ui.answers() == ["word" * 40]


def test_full_storage_is_reported_and_the_chat_continues(new_ui: Any) -> None:
    ui = new_ui()
    ui.context.add_init_script(LIMITED % 100)
    ui.open()
    ui.say("Go")
    ui.wait("storage for this page is full", "#notices")
    assert ui.say("On") == "Hello there."
    assert ui.page.locator(".notice").count() == 1
    with ui.page.expect_download() as download:
        ui.page.locator("#notices").get_by_role("button", name="Export all").click()
    assert len(json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["conversations"][0]["messages"]) == 4
    ui.page.evaluate("window.room = 1e6")
    ui.say("And")
    assert ui.page.locator(".notice").count() == 0
    assert len(ui.conversations()) == 1


def test_the_page_works_where_storage_is_blocked(new_ui: Any) -> None:
    ui = new_ui()
    forbid = """for (const area of ["localStorage", "sessionStorage"])
      Object.defineProperty(window, area, { get() { throw new DOMException("no", "SecurityError"); } });"""
    ui.context.add_init_script(forbid)
    ui.open()
    assert ui.say("Go") == "Hello there."
    ui.wait("does not let this page store data", "#notices")
    ui.page.click("#new")
    assert ui.say("Two") == "Hello there."
    ui.page.locator(".list-open", has_text="Go").click()
    ui.wait("Go")
    assert ui.user_messages() == ["Go"]


def test_two_tabs_see_each_other(ui: PageDriver) -> None:
    ui.say("From the first")
    other = ui.watched(ui.context.new_page())
    other.goto(ui.server.url)
    other.locator(".list-open", has_text="From the first").click()
    other.locator("#conversation").get_by_text("Hello there.").wait_for()
    ui.server.replies = [Reply(["Something new."])]
    ui.say("Again")
    other.locator("#conversation").get_by_text("Something new.").wait_for()
    ui.page.click(".list-more")
    ui.page.get_by_role("button", name="Delete", exact=True).click()
    ui.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    other.locator(".list-open").wait_for(state="detached")


# ---- long conversations ----


def long_conversation(turns: int) -> dict[str, Any]:
    messages = []
    for turn in range(turns):
        common = {"created": 1, "next": f"{'a' if turn % 1 else ''}"}
        messages.append(
            {
                "id": f"u{turn}",
                "parent": f"a{turn - 1}" if turn else None,
                "role": "user",
                "text": f"Question {turn}",
                **common,
            }
        )
        text = f"Answer **{turn}**\n\n" + "some words of a story " * 20 + "\n\n- a\n- b\n\n```py\nx = 1\n```"
        messages.append(
            {
                "id": f"a{turn}",
                "parent": f"u{turn}",
                "role": "assistant",
                "text": text,
                "model": "fox-7m",
                "state": "done",
                **common,
            }
        )
    return {**GOOD, "id": "long", "first": "u0", "messages": messages}


def test_a_long_conversation_renders_only_new_text_at_most_once_a_frame(new_ui: Any) -> None:
    ui = new_ui().open()
    ui.page.evaluate(
        "data => localStorage.setItem('neolm.conversation.long', JSON.stringify(data))", long_conversation(200)
    )
    ui.reload()
    ui.page.click(".list-open")
    ui.until("document.querySelectorAll('.turn-answer').length === 200")
    ui.page.evaluate("""() => {
      window.frames_ = 0;
      const tick = () => { window.frames_ += 1; requestAnimationFrame(tick); };
      requestAnimationFrame(tick);
      window.older = [...document.querySelectorAll("#conversation .row")];
      window.touched = 0;
      window.draws = 0;
      const observer = new MutationObserver((records) => {
        const isOlder = ({ target }) => window.older.some((entry) => entry.contains(target));
        if (records.some(isOlder)) window.touched += 1;
        if (records.some((record) => !isOlder(record) && record.target.closest?.(".prose"))) window.draws += 1;
      });
      const everything = { childList: true, subtree: true, characterData: true };
      window.observing = () => observer.observe(document.getElementById("conversation"), everything);
    }""")
    gate = threading.Event()
    ui.server.replies = [Reply(["word "] * 20_000, gate=gate)]
    ui.send("Now a long one")
    ui.wait("word")
    ui.page.evaluate("window.frames_ = 0; window.observing()")
    gate.set()
    ui.done()
    found = ui.page.evaluate(
        """({ touched: window.touched, draws: window.draws, frames: window.frames_,
              same: window.older.every((entry) => entry.isConnected) })"""
    )
    assert found["same"]
    assert found["touched"] == 0
    assert 0 < found["draws"] <= found["frames"] + 2
    assert ui.answers()[-1] == "word " * 20_000 or ui.answers()[-1] == ("word " * 20_000).rstrip()
    # The end stays in view.
    scroller = "document.getElementById('scroller')"
    assert ui.page.evaluate(f"{scroller}.scrollHeight - {scroller}.scrollTop - {scroller}.clientHeight") < 50


def test_the_scroll_position_stays_after_scrolling_up(ui: PageDriver) -> None:
    ui.server.replies = [Reply(["line\n\n"] * 60)]
    ui.say("Go")
    gate = threading.Event()
    ui.server.replies = [Reply(["begin\n\n", *["more\n\n"] * 60], gate=gate)]
    ui.send("On")
    ui.wait("begin")
    ui.page.mouse.move(700, 300)
    ui.page.mouse.wheel(0, -600)
    ui.page.locator("#jump").wait_for()
    before = ui.page.evaluate("document.getElementById('scroller').scrollTop")
    gate.set()
    ui.done()
    assert abs(ui.page.evaluate("document.getElementById('scroller').scrollTop") - before) < 2
    ui.page.click("#jump")
    ui.page.locator("#jump").wait_for(state="hidden")


# ---- the message tree ----


def test_the_tree_keeps_every_branch(ui: PageDriver) -> None:
    found = ui.page.evaluate("""async () => {
      const { Conversation, rowsOf } = await import("/static/conversation.js");
      const { parseConversation } = await import("/static/import-export.js");
      const tree = new Conversation({ mode: "chat", system: "S" });
      const say = (parent, role, text, more) => tree.add(parent, { role, text, ...more });
      const q = say(null, "user", "q"), a1 = say(q.id, "assistant", "a1");
      const r = say(a1.id, "user", "r"), b = say(r.id, "assistant", "b");
      const a2 = say(q.id, "assistant", "a2");
      const path = () => tree.path().map(({ text }) => text).join(" ");
      const paths = [path()];
      tree.show(a1.id); paths.push(path());   // what was shown below it is shown again
      const q2 = say(null, "user", "q2"); paths.push(path());
      tree.show(q.id); paths.push(path());
      tree.show(a2.id); paths.push(path());
      const pair = { id: "p", choice: null };
      const left = say(a2.id, "assistant", "l", { pair: { ...pair, side: 0 } });
      const right = say(a2.id, "assistant", "r", { pair: { ...pair, side: 1 } });
      const two = rowsOf(tree).at(-1).answers.map(({ text }) => text);
      const again = parseConversation(JSON.parse(JSON.stringify(tree)));
      return { paths, siblings: tree.siblings(a1).length, messages: tree.promptMessages(r.id), two,
        text: tree.promptText(b.id),
        same: JSON.stringify(again.path().map(({ id }) => id)) === JSON.stringify(tree.path().map(({ id }) => id)) };
    }""")
    assert found["paths"] == ["q a2", "q a1 r b", "q2", "q a1 r b", "q a2"]
    assert found["siblings"] == 2
    system, *said = found["messages"]
    assert system == {"role": "system", "content": "S"}
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert found["two"] == ["l", "r"]
    assert found["text"] == "qa1rb"
    assert found["same"]
