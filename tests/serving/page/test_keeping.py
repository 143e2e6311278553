"""What the page keeps in the browser, and how it bears a storage that is full, damaged, missing or shared."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from page_server import Reply
from talk import Talk

pytestmark = pytest.mark.xdist_group("page")

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


def pick(talk: Talk, text: str, tmp_path: Path) -> None:
    path = tmp_path / "picked.json"
    path.write_text(text, encoding="utf-8")
    with talk.page.expect_file_chooser() as chooser:
        talk.page.get_by_role("button", name="Import").click()
    chooser.value.set_files(path)


def names(talk: Talk) -> list[str]:
    return talk.texts(".list-open")


def test_a_reload_brings_everything_back(talk: Talk) -> None:
    talk.page.click("#probabilities-toggle")
    talk.say("A question about foxes")
    talk.tool("regenerate").click()
    talk.done()
    before = (talk.texts(".token"), talk.texts(".versions:visible"), names(talk))
    talk.reload()
    assert (talk.texts(".token"), talk.texts(".versions:visible"), names(talk)) == before
    assert before[2] == ["A question about foxes"]
    talk.page.focus(".token >> nth=1")
    assert "world" in talk.page.text_content("#token-card")


def test_conversations_are_opened_renamed_and_deleted(talk: Talk) -> None:
    talk.say("One")
    talk.page.keyboard.press("Alt+n")
    talk.say("Two")
    assert names(talk) == ["Two", "One"]
    talk.page.click(".list-open >> nth=1")
    talk.wait("One")
    assert talk.said() == ["One"]
    talk.page.get_by_role("button", name="More for One").click()
    talk.page.get_by_role("button", name="Rename").click()
    talk.page.get_by_role("textbox", name="Name of the conversation").fill(" The  first\u202e ")
    talk.page.keyboard.press("Enter")
    talk.page.locator(".list-open", has_text="The first").wait_for()
    assert talk.page.title() == "The first · NeoLM"
    talk.page.get_by_role("button", name="More for The first").click()
    talk.page.get_by_role("button", name="Delete", exact=True).click()
    talk.page.get_by_role("button", name="Cancel").click()
    assert names(talk) == ["Two", "The first"]
    talk.page.get_by_role("button", name="More for The first").click()
    talk.page.get_by_role("button", name="Delete", exact=True).click()
    talk.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    talk.page.locator("#welcome").wait_for()
    talk.reload()
    assert names(talk) == ["Two"]
    assert len(talk.conversations()) == 1


def test_what_is_deleted_while_it_is_written_does_not_come_back(talk: Talk) -> None:
    gate = threading.Event()
    talk.server.replies = [Reply(["Once", " more"], gate=gate)]
    talk.send("Go")
    talk.wait("Once")
    talk.page.get_by_role("button", name="More for Go").click()
    talk.page.get_by_role("button", name="Delete", exact=True).click()
    talk.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    talk.page.locator("#welcome").wait_for()
    gate.set()
    talk.page.wait_for_timeout(200)
    assert talk.conversations() == []
    talk.say("Anew")
    assert names(talk) == ["Anew"]


def test_an_answer_goes_on_while_another_conversation_is_read(talk: Talk) -> None:
    talk.say("One")
    talk.page.click("#new")
    gate = threading.Event()
    talk.server.replies = [Reply(["Slow", " and steady"], gate=gate)]
    talk.send("Two")
    talk.wait("Slow")
    talk.page.click(".list-open >> nth=1")
    talk.wait("Hello there.")
    assert talk.page.text_content(".send") == "Send"
    gate.set()
    talk.until("JSON.stringify(localStorage).includes('steady')")
    talk.page.locator(".list-open", has_text="Two").click()
    talk.wait("Slow and steady")


def test_an_answer_that_the_page_was_closed_on_is_kept_as_far_as_it_came(talk: Talk) -> None:
    gate = threading.Event()
    talk.server.replies = [Reply(["Half", " done"], gate=gate)]
    talk.send("Go")
    talk.wait("Half")
    talk.reload()
    gate.set()
    assert talk.answers() == ["Half"]
    talk.wait("The page was closed while this answer was generated.")
    talk.tool("retry").click()
    talk.wait("Hello there.")
    talk.done()


def test_a_draft_survives_a_reload(talk: Talk) -> None:
    talk.page.fill("#message", "Not yet sent")
    talk.reload()
    assert talk.page.input_value("#message") == "Not yet sent"


# ---- files ----


def test_export_and_import_bring_a_conversation_over_whole(new_talk: Any, tmp_path: Path) -> None:
    talk = new_talk().open()
    talk.page.click("#probabilities-toggle")
    talk.say("Tell me of foxes")
    talk.tool("regenerate").click()
    talk.done()
    with talk.page.expect_download() as download:
        talk.page.get_by_role("button", name="Export all").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert json.loads(text)["format"] == "neolm-conversations"
    other = new_talk().open()
    pick(other, text, tmp_path)
    other.wait("Tell me of foxes")
    strip = lambda one: {**one, "updated": 0}  # noqa: E731
    assert [strip(one) for one in other.conversations()] == [strip(one) for one in talk.conversations()]
    other.page.click("#probabilities-toggle")
    assert other.texts(".token") == talk.texts(".token")
    pick(other, text, tmp_path)  # once more: beside it, not over it
    other.until("document.querySelectorAll('.list-open').length === 2")
    assert len({one["id"] for one in other.conversations()}) == 2


def test_export_as_markdown_and_json_of_one(talk: Talk) -> None:
    talk.server.replies = [Reply(["A **fox**"])]
    talk.say("Who: me / you?")
    talk.page.click(".list-more")
    with talk.page.expect_download() as download:
        talk.page.get_by_role("button", name="Export as Markdown").click()
    assert download.value.suggested_filename == "who-me-you.md"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert "# Who: me / you?\n" in text
    assert "## You\n\nWho: me / you?\n\n## fox-7m\n" in text
    assert text.endswith("\nA **fox**\n")
    talk.page.click(".list-more")
    with talk.page.expect_download() as download:
        talk.page.get_by_role("button", name="Export as JSON").click()
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
def test_a_file_that_is_not_one_changes_nothing_and_says_what_is_wrong(talk: Talk, tmp_path: Path, case: str) -> None:
    text, words = BAD_FILES[case]
    pick(talk, text, tmp_path)
    talk.wait("Nothing was imported.", "#notices")
    assert words in talk.page.text_content("#notices")
    assert talk.conversations() == []


def test_what_a_file_says_beyond_what_is_known_is_left_out(talk: Talk, tmp_path: Path) -> None:
    odd = with_message(
        1, next="p3", state="flying", error={"kind": 3},
        stats={"tokensPerSecond": "fast", "firstToken": -1, "completionTokens": 3},
        tokens=[["a", -1, [["b", -2], 7]], "x"], pair={"id": "q", "side": 5}, rating="great",
        settings={"temperature": "hot", "top_p": 0.5, "__proto__": 1}, extra="<b>",
    )  # fmt: skip
    odd["first"] = "p3"  # which is not where a branch begins
    text = file_of(odd).replace('"extra"', '"__proto__": {"polluted": 1}, "extra"')
    pick(talk, text, tmp_path)
    talk.wait("Left.")
    (kept,) = talk.conversations()
    assert kept["messages"][1] == {
        "id": "p2", "parent": "p1", "role": "assistant", "text": "Left.", "created": 1, "next": None, **DONE,
        "finishReason": None, "stats": {"completionTokens": 3}, "settings": {"top_p": 0.5},
    }  # fmt: skip
    assert talk.page.evaluate("({}).polluted ?? null") is None
    talk.tool("next-answer").click()
    assert talk.answers() == ["Right."]
    assert talk.say("On") == "Hello there."


def test_conversations_saved_before_version_0_1_are_read(new_talk: Any) -> None:
    talk = new_talk()
    old = {key: value for key, value in GOOD.items() if key != "messages"} | {"pieces": GOOD["messages"]}
    talk.context.add_init_script(f"localStorage.setItem('neolm.conversation.abc', {json.dumps(json.dumps(old))})")
    talk.open()
    talk.page.click(".list-open")
    talk.wait("Left.")


# ---- storage as it is ----

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


def test_damaged_storage_is_said_and_harms_nothing_else(new_talk: Any) -> None:
    talk = new_talk().open()
    talk.say("Good")
    talk.page.evaluate(
        "data => Object.entries(data).forEach(([key, value]) => localStorage.setItem(key, value))", DAMAGED
    )
    talk.page.evaluate("sessionStorage.setItem('neolm.draft', '{'); sessionStorage.setItem('neolm.key', '7')")
    talk.reload()
    assert talk.answers() == ["Hello there."]
    assert names(talk) == ["Good"]
    assert "4 conversations are damaged" in talk.page.text_content("#list")
    assert talk.say("More") == "Hello there."
    with talk.page.expect_download() as download:
        talk.page.get_by_role("button", name="Save the data").click()
    assert '{"id": "abc", "mo' in Path(download.value.path()).read_text(encoding="utf-8")
    talk.page.get_by_role("button", name="Delete damaged conversations").click()
    talk.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    talk.page.locator(".list-damaged").wait_for(state="detached")
    assert len(talk.conversations()) == 1
    assert talk.kept()["other"] == "not ours"


def test_preferences_that_are_no_object(new_talk: Any) -> None:
    talk = new_talk()
    talk.context.add_init_script(
        "localStorage.setItem('neolm.preferences', '[1,2'); sessionStorage.setItem('neolm.open', '\"gone\"');"
    )
    talk.open()
    assert talk.say("Go") == "Hello there."


LIMITED = """
  const setItem = Storage.prototype.setItem;
  Storage.prototype.setItem = function (key, value) {
    const full = key.startsWith("neolm.conversation.") && value.length > window.room;
    if (full) throw new DOMException("full", "QuotaExceededError");
    setItem.call(this, key, value);
  };
  window.room = %d;
"""


def test_when_the_storage_is_nearly_full_probabilities_are_given_up_first(new_talk: Any) -> None:
    talk = new_talk()
    talk.context.add_init_script(LIMITED % 1200)
    talk.open()
    talk.page.click("#probabilities-toggle")
    talk.server.replies = [Reply(["word"] * 40)]
    talk.say("Go")
    talk.wait("saved without its probabilities", "#notices")
    assert len(talk.texts(".token")) == 40  # still there until the page is closed
    talk.reload()
    assert talk.answers() == ["word" * 40]


def test_when_the_storage_is_full_it_is_said_and_one_can_go_on(new_talk: Any) -> None:
    talk = new_talk()
    talk.context.add_init_script(LIMITED % 100)
    talk.open()
    talk.say("Go")
    talk.wait("storage for this page is full", "#notices")
    assert talk.say("On") == "Hello there."
    assert talk.page.locator(".notice").count() == 1
    with talk.page.expect_download() as download:
        talk.page.locator("#notices").get_by_role("button", name="Export all").click()
    assert len(json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["conversations"][0]["messages"]) == 4
    talk.page.evaluate("window.room = 1e6")
    talk.say("And")
    assert talk.page.locator(".notice").count() == 0
    assert len(talk.conversations()) == 1


def test_where_storage_is_forbidden_the_page_works_all_the_same(new_talk: Any) -> None:
    talk = new_talk()
    forbid = """for (const area of ["localStorage", "sessionStorage"])
      Object.defineProperty(window, area, { get() { throw new DOMException("no", "SecurityError"); } });"""
    talk.context.add_init_script(forbid)
    talk.open()
    assert talk.say("Go") == "Hello there."
    talk.wait("does not let this page store data", "#notices")
    talk.page.click("#new")
    assert talk.say("Two") == "Hello there."
    talk.page.locator(".list-open", has_text="Go").click()
    talk.wait("Go")
    assert talk.said() == ["Go"]


def test_two_tabs_see_each_other(talk: Talk) -> None:
    talk.say("From the first")
    other = talk.watched(talk.context.new_page())
    other.goto(talk.server.url)
    other.locator(".list-open", has_text="From the first").click()
    other.locator("#conversation").get_by_text("Hello there.").wait_for()
    talk.server.replies = [Reply(["Something new."])]
    talk.say("Again")
    other.locator("#conversation").get_by_text("Something new.").wait_for()
    talk.page.click(".list-more")
    talk.page.get_by_role("button", name="Delete", exact=True).click()
    talk.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
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


def test_a_long_conversation_draws_only_what_grows_and_at_most_once_a_frame(new_talk: Any) -> None:
    talk = new_talk().open()
    talk.page.evaluate(
        "data => localStorage.setItem('neolm.conversation.long', JSON.stringify(data))", long_conversation(200)
    )
    talk.reload()
    talk.page.click(".list-open")
    talk.until("document.querySelectorAll('.turn-answer').length === 200")
    talk.page.evaluate("""() => {
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
    talk.server.replies = [Reply(["word "] * 20_000, gate=gate)]
    talk.send("Now a long one")
    talk.wait("word")
    talk.page.evaluate("window.frames_ = 0; window.observing()")
    gate.set()
    talk.done()
    found = talk.page.evaluate(
        """({ touched: window.touched, draws: window.draws, frames: window.frames_,
              same: window.older.every((entry) => entry.isConnected) })"""
    )
    assert found["same"]
    assert found["touched"] == 0
    assert 0 < found["draws"] <= found["frames"] + 2
    assert talk.answers()[-1] == "word " * 20_000 or talk.answers()[-1] == ("word " * 20_000).rstrip()
    # The end is in view, as it was all along.
    scroller = "document.getElementById('scroller')"
    assert talk.page.evaluate(f"{scroller}.scrollHeight - {scroller}.scrollTop - {scroller}.clientHeight") < 50


def test_one_who_reads_further_up_is_left_there(talk: Talk) -> None:
    talk.server.replies = [Reply(["line\n\n"] * 60)]
    talk.say("Go")
    gate = threading.Event()
    talk.server.replies = [Reply(["begin\n\n", *["more\n\n"] * 60], gate=gate)]
    talk.send("On")
    talk.wait("begin")
    talk.page.mouse.move(700, 300)
    talk.page.mouse.wheel(0, -600)
    talk.page.locator("#jump").wait_for()
    before = talk.page.evaluate("document.getElementById('scroller').scrollTop")
    gate.set()
    talk.done()
    assert abs(talk.page.evaluate("document.getElementById('scroller').scrollTop") - before) < 2
    talk.page.click("#jump")
    talk.page.locator("#jump").wait_for(state="hidden")


# ---- the tree, by itself ----


def test_the_tree_keeps_every_branch(talk: Talk) -> None:
    found = talk.page.evaluate("""async () => {
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
