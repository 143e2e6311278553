"""The page that `neolm serve` shows, in a real browser, against a server whose answers are scripted.

What is kept is tested in `page/test_keeping.py`, Markdown and hostile answers in `page/test_markdown.py`, keyboard,
screen readers, sizes and colours in `page/test_reach.py`.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from page_server import KEY, FakeServer, Reply, model
from talk import Talk

# One browser is enough for all of them.
pytestmark = pytest.mark.xdist_group("page")

START = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 256}
STREAM = {"stream": True, "stream_options": {"include_usage": True}, "truncate_prompt_tokens": 2048 - 256}


# ---- talking ----


def test_an_answer_grows_while_it_is_written_and_is_announced_once(talk: Talk) -> None:
    gate = threading.Event()
    talk.server.replies = [Reply(["A fox", " sleeps", " well."], gate=gate, before=2)]
    talk.send("Tell me")
    talk.wait("A fox sleeps")
    assert talk.answers() == ["A fox sleeps"]
    assert talk.page.get_attribute(".turn-answer", "aria-busy") == "true"
    assert talk.page.locator(".send").text_content() == "Stop"
    assert talk.page.text_content("#announcements") == ""
    gate.set()
    talk.done()
    assert talk.answers() == ["A fox sleeps well."]
    assert talk.said() == ["Tell me"]
    talk.until("document.getElementById('announcements').textContent === 'fox-7m: A fox sleeps well.'")
    assert talk.page.get_attribute(".turn-answer", "aria-busy") == "false"
    assert talk.page.locator("#message").evaluate("field => field === document.activeElement")


def test_speed_is_shown(talk: Talk) -> None:
    talk.page.evaluate("() => { let now = 0; performance.now = () => (now += 500); }")  # half a second at each look
    talk.server.replies = [Reply(["a", "b", "c", "d"])]
    talk.say("Go")
    assert talk.texts(".stats") == ["0.50 s to first token · 2.0 tokens/s · 4 tokens"]


def test_a_text_longer_than_the_context_goes_on_from_its_end(talk: Talk) -> None:
    talk.server.models = [model("fox-7m", context=300)]
    talk.reload()
    talk.server.replies = [Reply(left_out=41), Reply()]
    for mode in ("completion", "chat"):
        talk.mode(mode)
        talk.say("Once upon a time")
        assert talk.server.asked[-1][1]["truncate_prompt_tokens"] == 150  # half of it is for the answer
        assert ("the first 41 tokens were left out" in talk.texts(".stats")[-1]) is (mode == "completion")
        talk.page.click("#new")
    talk.page.click("#settings-toggle")
    talk.page.fill("#setting-max_tokens", "20")
    talk.say("more")
    assert talk.server.asked[-1][1]["truncate_prompt_tokens"] == 280


def gauge(talk: Talk) -> tuple[str, str | None]:
    """Text and level of the context gauge."""
    meter = talk.page.get_by_role("meter", name="Context used")
    text = talk.page.text_content(".context-text")
    assert meter.get_attribute("aria-valuetext") == text
    assert int(meter.get_attribute("aria-valuenow")) <= int(meter.get_attribute("aria-valuemax"))
    return text, talk.page.get_attribute("#context", "data-level")


def test_context_gauge_shows_the_tokens_that_the_server_counted(talk: Talk) -> None:
    assert talk.page.locator("#context").is_hidden()
    talk.server.replies = [Reply(prompt_tokens=1200)]
    talk.say("One")
    assert gauge(talk) == ("Context: 1,203 of 2,048 tokens", "")
    talk.reload()
    assert gauge(talk) == ("Context: 1,203 of 2,048 tokens", "")
    talk.expected = ("500",)
    talk.server.replies = [Reply(status=500)]
    talk.send("Two")
    talk.wait("The server failed.")
    assert gauge(talk) == ("Context: at least 1,203 of 2,048 tokens", "")
    talk.page.click("#new")
    assert talk.page.locator("#context").is_hidden()


@pytest.mark.parametrize(
    ("mode", "left_out"), [("chat", "the oldest messages are"), ("completion", "the beginning of the text is")]
)
def test_context_gauge_warns_near_the_limit_and_when_the_next_prompt_is_truncated(
    talk: Talk, mode: str, left_out: str
) -> None:
    talk.mode(mode)
    colours = []
    full = f"Context full: {left_out} left out of the next prompt"
    for prompt, truncated, expected in (
        (1600, 0, ("Context: 1,603 of 2,048 tokens", "")),  # 256 of 2,048 are for the answer, 1,612 is 90% of the rest
        (1789, 0, ("Context nearly full: 1,792 of 2,048 tokens", "nearly-full")),
        (1790, 0, (full, "full")),
        (1792, 9, (full, "full")),
    ):
        talk.server.replies = [Reply(prompt_tokens=prompt, left_out=truncated)]
        talk.say("more")
        assert gauge(talk) == expected
        colours.append(talk.page.locator("#context").evaluate("node => getComputedStyle(node).color"))
    assert len(set(colours)) == 3
    talk.page.click("#settings-toggle")
    talk.page.fill("#setting-max_tokens", "20")  # more of the context for the prompt
    assert gauge(talk) == ("Context: 1,804 of 2,048 tokens", "")


def test_context_warnings_are_announced_once(talk: Talk) -> None:
    talk.server.replies = [Reply(prompt_tokens=1789), Reply(prompt_tokens=1789)]
    said = "document.getElementById('announcements').textContent"
    talk.say("One")
    talk.until(f"{said} === 'fox-7m: Hello there.\\nContext nearly full: 1,792 of 2,048 tokens'")
    talk.say("Two")
    talk.until(f"{said} === 'fox-7m: Hello there.'")


def test_context_gauge_uses_the_smaller_context_of_two_models(talk: Talk) -> None:
    talk.server.models = [model("fox-7m"), model("owl-20m", context=512)]
    talk.reload()
    talk.server.replies = [Reply(prompt_tokens=250)]
    talk.say("One")
    assert gauge(talk) == ("Context: 253 of 2,048 tokens", "")
    talk.page.click("#compare-toggle")
    assert gauge(talk) == ("Context nearly full: 253 of 512 tokens", "nearly-full")


def test_what_is_sent_to_chat(talk: Talk) -> None:
    talk.say("One")
    talk.page.click("#settings-toggle")
    talk.page.fill("#system", "Be brief.")
    talk.say("Two")
    one, two = talk.server.asked
    messages = [{"role": "user", "content": "One"}]
    assert one == ("chat/completions", {"model": "fox-7m", **START, **STREAM, "messages": messages})
    messages += [{"role": "assistant", "content": "Hello there."}, {"role": "user", "content": "Two"}]
    assert two[1]["messages"] == [{"role": "system", "content": "Be brief."}, *messages]


def test_what_is_sent_for_a_text_and_every_space_of_it(talk: Talk) -> None:
    talk.mode("completion")
    talk.server.replies = [Reply(["(a,", "\tb):\n", "    return"]), Reply([" a\n"])]
    assert talk.say("def f") == "def f(a,\tb):\n    return"
    assert (
        talk.page.locator(".passage").evaluate("passage => getComputedStyle(passage).whiteSpaceCollapse") == "preserve"
    )
    talk.page.press("#message", "Enter")  # empty: it goes on
    talk.until("document.querySelectorAll('.turn-answer').length === 2")
    talk.done()
    assert talk.answers()[1] == " a\n"
    one, two = talk.server.asked
    assert one == ("completions", {"model": "fox-7m", **START, **STREAM, "prompt": "def f"})
    assert two[1]["prompt"] == "def f(a,\tb):\n    return"


def test_half_a_character_is_not_sent(talk: Talk) -> None:
    talk.page.evaluate("document.getElementById('message').value = 'a\\ud83e b'")
    talk.page.press("#message", "Enter")
    talk.done()
    assert talk.server.asked[0][1]["messages"] == [{"role": "user", "content": "a\ufffd b"}]


def test_settings_are_sent_where_they_change_something_and_reset(talk: Talk) -> None:
    talk.page.click("#settings-toggle")
    values = {"temperature": "1.25", "top_p": "1", "top_k": "40", "max_tokens": "12", "repetition_penalty": "1.1"}
    values |= {"presence_penalty": "0.5", "frequency_penalty": "-0.25", "seed": "7", "stop": "\\n\\n\nThe end\n"}
    for key, value in values.items():
        talk.page.fill(f"#setting-{key}", value)
    talk.say("Go")
    sent = {k: v for k, v in talk.server.asked[-1][1].items() if k not in ("model", "messages", *STREAM)}
    assert sent == {
        "temperature": 1.25, "top_k": 40, "max_tokens": 12, "repetition_penalty": 1.1, "presence_penalty": 0.5,
        "frequency_penalty": -0.25, "seed": 7, "stop": ["\n\n", "The end"],
    }  # fmt: skip
    talk.reload()
    assert talk.page.input_value("#setting-top_k") == "40"
    talk.page.get_by_role("button", name="Reset to defaults").click()
    talk.say("Go")
    sent = {k: v for k, v in talk.server.asked[-1][1].items() if k not in ("model", "messages", *STREAM)}
    assert sent == START


@pytest.mark.parametrize(
    ("key", "typed", "kept"),
    [
        ("temperature", "9", "2"),
        ("max_tokens", "99999", "1024"),
        ("top_p", "-1", "0"),
        ("temperature", "", "0.8"),
        ("top_k", "0", "1"),
        ("top_k", "", ""),
    ],
)
def test_a_setting_out_of_range_is_made_good(talk: Talk, key: str, typed: str, kept: str) -> None:
    talk.page.click("#settings-toggle")
    talk.page.fill(f"#setting-{key}", typed)
    talk.page.locator(f"#setting-{key}").blur()
    assert talk.page.input_value(f"#setting-{key}") == kept


def test_presets_and_sliders_set_what_they_say(talk: Talk) -> None:
    talk.page.click("#settings-toggle")
    talk.page.get_by_role("button", name="Greedy").click()
    assert talk.page.input_value("#setting-temperature") == "0"
    assert talk.page.get_by_role("button", name="Greedy").get_attribute("aria-pressed") == "true"
    slider = talk.page.get_by_role("slider", name="Temperature")
    slider.focus()
    talk.page.keyboard.press("ArrowRight")
    assert talk.page.input_value("#setting-temperature") == "0.05"
    assert slider.evaluate("slider => slider === document.activeElement")
    assert talk.page.get_by_role("button", name="Greedy").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_what_came(talk: Talk, way: str) -> None:
    gate = threading.Event()
    talk.server.replies = [Reply(["Once", " upon", " never"], gate=gate, before=2)]
    talk.send("Go")
    talk.wait("Once upon")
    if way == "button":
        talk.page.click(".send")
    else:
        talk.page.keyboard.press("Escape")
    talk.done()
    assert talk.answers() == ["Once upon"]
    assert "Stopped" in talk.texts(".stats")[0]
    gate.set()
    for _ in range(1000):
        if talk.server.left:
            break
        talk.page.wait_for_timeout(10)
    assert talk.server.left == 1
    assert talk.say("And?") == "Hello there."
    assert talk.server.asked[-1][1]["messages"][1] == {"role": "assistant", "content": "Once upon"}


def test_a_model_that_is_not_loaded_says_so_while_one_waits(talk: Talk) -> None:
    gate = threading.Event()
    talk.page.select_option("#model", "owl-20m")
    talk.mode("chat")
    talk.server.replies = [Reply(["Hoo."], gate=gate, before=0)]
    talk.send("Who?")
    talk.wait("Loading the model…")
    talk.server.models[1]["loaded"] = True
    gate.set()
    talk.done()
    assert talk.page.locator("text=Loading the model…").count() == 0
    talk.until("![...document.querySelectorAll('#model option')].some(one => one.textContent.includes('not loaded'))")
    assert talk.server.asked[0][1]["model"] == "owl-20m"


def test_the_empty_page_says_what_the_model_is_and_offers_beginnings(talk: Talk) -> None:
    assert "was trained for chat" in talk.texts(".welcome-note")[0]
    talk.page.select_option("#model", "owl-20m")
    assert "It is not an assistant" in talk.texts(".welcome-note")[0]
    assert talk.page.is_checked("#mode-completion")  # what a base model does
    talk.page.get_by_role("button", name="A function").click()
    assert talk.page.input_value("#message").startswith("def is_prime(n):\n")
    assert talk.page.locator("#message").evaluate("field => field === document.activeElement")
    talk.page.press("#message", "Enter")
    talk.done()
    assert talk.server.asked[0][0] == "completions"
    assert talk.page.locator("#welcome").is_hidden()


# ---- branches ----


def test_answer_again_makes_a_version_and_the_arrows_lead_to_it(talk: Talk) -> None:
    talk.server.replies = [Reply(["First."]), Reply(["Second."]), Reply(["More."])]
    talk.say("Go")
    talk.tool("regenerate").click()
    talk.wait("Second.")
    talk.done()
    assert talk.texts(".turn-answer .versions:visible .versions-count") == ["2/2"]
    assert talk.server.asked[0] == talk.server.asked[1]
    talk.say("On")
    before = talk.tool("previous-answer", 0)
    before.focus()
    talk.page.keyboard.press("Enter")
    talk.wait("First.")
    assert talk.answers() == ["First."]  # what was said after the other is not shown with this one
    assert talk.page.evaluate("document.activeElement.dataset.action") == "previous-answer"
    assert before.get_attribute("aria-disabled") == "true"
    talk.tool("next-answer", 0).click()
    talk.wait("Second.")
    assert talk.answers() == ["Second.", "More."]


def test_an_edited_message_begins_a_branch(talk: Talk) -> None:
    talk.server.replies = [Reply(["One."]), Reply(["Two."]), Reply(["Three."])]
    talk.say("Frst")
    talk.say("Next")
    talk.tool("edit-message", 0).click()
    field = talk.page.get_by_role("textbox", name="New version of your message")
    assert field.input_value() == "Frst"
    field.fill("First")
    field.press("Enter")
    talk.wait("Three.")
    talk.done()
    assert (talk.said(), talk.answers()) == (["First"], ["Three."])
    assert talk.server.asked[-1][1]["messages"] == [{"role": "user", "content": "First"}]
    assert talk.page.evaluate("document.activeElement.dataset.action") == "edit-message"
    talk.tool("previous-message", 0).click()
    talk.wait("Two.")
    assert (talk.said(), talk.answers()) == (["Frst", "Next"], ["One.", "Two."])


def test_an_edit_put_away_changes_nothing(talk: Talk) -> None:
    talk.say("Go")
    before = talk.conversations()
    talk.tool("edit-message").click()
    talk.page.locator(".editor-field").fill("Something else")
    talk.page.keyboard.press("Escape")
    assert talk.said() == ["Go"]
    assert talk.page.evaluate("document.activeElement.dataset.action") == "edit-message"
    talk.tool("edit").click()
    talk.page.get_by_role("button", name="Cancel").click()
    assert talk.answers() == ["Hello there."]
    assert len(talk.server.asked) == 1
    assert talk.conversations()[0]["messages"] == before[0]["messages"]


def test_an_edited_answer_is_a_version_and_is_what_the_model_reads(talk: Talk) -> None:
    talk.say("Go")
    talk.tool("edit").click()
    talk.page.locator(".editor-field").fill("Goodbye.")
    talk.page.get_by_role("button", name="Save as a version").click()
    assert talk.answers() == ["Goodbye."]
    assert talk.texts(".edited-note") == [" (edited)"]
    assert len(talk.server.asked) == 1
    assert talk.page.locator("[data-action^=rate]:visible").count() == 0  # it is not the model's
    talk.say("On")
    assert talk.server.asked[-1][1]["messages"][1]["content"] == "Goodbye."


def test_the_beginning_of_a_text_can_be_changed(talk: Talk) -> None:
    talk.mode("completion")
    talk.server.replies = [Reply([" was"]), Reply([" is"])]
    talk.say("There")
    talk.tool("edit-prompt").click()
    talk.page.locator(".editor-field").fill("Here")
    talk.page.get_by_role("button", name="Continue from here").click()
    talk.wait(" is")
    talk.done()
    assert talk.answers() == ["Here is"]
    assert talk.server.asked[-1][1]["prompt"] == "Here"
    talk.tool("previous-prompt").click()
    talk.wait(" was")
    assert talk.answers() == ["There was"]


# ---- side by side ----


def ask_two(talk: Talk, mode: str = "chat") -> None:
    """Two answers side by side, both of them seen while they grow."""
    gates = [threading.Event(), threading.Event()]
    talk.mode(mode)
    talk.page.click("#compare-toggle")
    talk.server.replies = [Reply([f"{name} one", " two"], gate=gate) for name, gate in zip("AB", gates, strict=True)]
    talk.send("Go")
    talk.wait("A one")
    talk.wait("B one")
    assert talk.page.locator(".choice:visible").count() == 0
    for gate in gates:
        gate.set()
    talk.done()


@pytest.mark.parametrize("mode", ["chat", "completion"])
@pytest.mark.parametrize(("button", "chosen"), [("Left is better", 0), ("Right is better", 1), ("Tie", 0)])
def test_two_answers_side_by_side_and_the_conversation_goes_on_with_the_chosen_one(
    talk: Talk, button: str, chosen: int, mode: str
) -> None:
    ask_two(talk, mode)
    assert {body["model"] for _, body in talk.server.asked} == {"fox-7m", "owl-20m"}
    shown = talk.answers()
    assert sorted(shown) == ["A one two", "B one two"]
    boxes = [talk.page.locator(".columns .turn").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    talk.page.get_by_role("button", name=button, exact=True).click()
    lead = "Go" if mode == "completion" else ""
    assert talk.answers() == [lead + shown[chosen]]
    assert talk.texts(".turn-answer .versions:visible .versions-count") == [f"{chosen + 1}/2"]
    assert talk.server.feedback == []
    talk.page.click("#compare-toggle")
    talk.say(" on")
    body = talk.server.asked[-1][1]
    assert shown[chosen] in (body["prompt"] if mode == "completion" else body["messages"][1]["content"])


def test_each_side_has_its_own_model_and_settings(talk: Talk) -> None:
    talk.page.click("#compare-toggle")
    talk.page.select_option("#right-model", "fox-7m")
    talk.page.get_by_role("button", name="Settings of the right side").click()
    talk.page.fill("#setting-temperature", "0")
    talk.page.locator("#side").get_by_text("Left").click()
    assert talk.page.input_value("#setting-temperature") == "0.8"
    talk.send("Go")
    talk.done()
    asked = sorted(body["temperature"] for _, body in talk.server.asked)
    assert asked == [0, 0.8]
    assert {body["model"] for _, body in talk.server.asked} == {"fox-7m"}
    assert [
        text.startswith(f"temperature {t}") for text, t in zip(talk.texts(".turn-settings"), ("0.8", "0"), strict=True)
    ] == [True, True]


def test_one_of_two_that_failed_is_tried_again_in_its_place(talk: Talk) -> None:
    talk.expected = ("503",)
    talk.page.click("#compare-toggle")
    talk.page.select_option("#right-model", "fox-7m")
    talk.server.replies = [Reply(["Good."]), Reply(status=503, message="no memory left")]
    talk.send("Go")
    talk.wait("no memory left")
    talk.done()
    assert talk.page.get_by_role("button", name="Left is better").count() == 0
    talk.tool("retry").click()
    talk.wait("Hello there.")
    talk.done()
    assert sorted(talk.answers()) == ["Good.", "Hello there."]
    assert talk.page.get_by_role("button", name="Left is better").count() == 1


# ---- feedback and consent ----


def test_without_consent_nothing_is_sent(talk: Talk) -> None:
    talk.say("Go")
    talk.tool("rate-up").click()
    dialog = talk.page.get_by_role("dialog", name="Share your ratings?")
    assert talk.server.url.removeprefix("http://") in dialog.text_content()
    dialog.get_by_role("button", name="Not now").click()
    talk.tool("rate-down").click()
    talk.page.keyboard.press("Escape")
    assert dialog.count() == 0
    talk.page.click("#compare-toggle")
    talk.say("Go")
    talk.page.get_by_role("button", name="Left is better").click()
    talk.wait("Your choice stays in this browser.", "#notices")
    assert talk.server.feedback == []
    assert talk.tool("rate-up").get_attribute("aria-pressed") == "false"
    talk.page.click("#settings-toggle")
    assert not talk.page.is_checked("#consent")


def test_with_consent_a_rating_is_sent_as_documented(talk: Talk) -> None:
    talk.page.click("#settings-toggle")
    talk.page.check("#consent")
    talk.page.fill("#system", "Be kind.")
    talk.say("Go")
    talk.tool("rate-down").click()
    talk.page.wait_for_selector("[data-action=rate-down][aria-pressed=true]")
    assert talk.server.feedback == [
        {
            "consent": True, "kind": "rating", "mode": "chat",
            "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Go"}],
            "answers": [{"model": "fox-7m", "text": "Hello there.", "settings": START}],
            "chosen": None, "rating": "down",
        }
    ]  # fmt: skip
    talk.tool("rate-down").click()  # it is sent already
    talk.reload()
    assert talk.tool("rate-down").get_attribute("aria-pressed") == "true"
    assert len(talk.server.feedback) == 1


@pytest.mark.parametrize(("button", "chosen"), [("Left is better", 0), ("Right is better", 1), ("Tie", None)])
def test_with_consent_a_choice_is_sent_as_documented(talk: Talk, button: str, chosen: int | None) -> None:
    talk.page.click("#settings-toggle")
    talk.page.check("#consent")
    ask_two(talk, "completion")
    texts = talk.answers()
    talk.page.get_by_role("button", name=button, exact=True).click()
    talk.until("document.getElementById('announcements').textContent.includes('Sent.')")
    answers = [{"model": m, "text": t, "settings": START} for m, t in zip(("fox-7m", "owl-20m"), texts, strict=True)]
    body = {
        "consent": True,
        "kind": "choice",
        "mode": "completion",
        "prompt": "Go",
        "answers": answers,
        "chosen": chosen,
        "rating": None,
    }
    assert talk.server.feedback == [body]


def test_consent_can_be_given_where_it_is_missing(talk: Talk) -> None:
    talk.say("Go")
    talk.tool("rate-up").click()
    talk.page.get_by_role("button", name="Switch on and send").click()
    talk.page.wait_for_selector("[data-action=rate-up][aria-pressed=true]")
    assert [body["rating"] for body in talk.server.feedback] == ["up"]
    talk.page.click("#settings-toggle")
    assert talk.page.is_checked("#consent")


def test_feedback_that_the_server_does_not_take_is_said(talk: Talk) -> None:
    talk.expected = ("404",)
    talk.page.click("#settings-toggle")
    talk.page.check("#consent")
    talk.say("Go")
    talk.server.info["feedback"] = False
    talk.tool("rate-up").click()
    talk.wait("The feedback was not sent.", "#notices")
    assert talk.tool("rate-up").get_attribute("aria-pressed") == "false"


def test_where_the_server_takes_no_feedback_nothing_asks_for_it(new_talk: Any) -> None:
    talk = new_talk()
    talk.server.info["feedback"] = False
    talk.open()
    talk.say("Go")
    assert talk.page.locator("[data-action^=rate]:visible").count() == 0
    talk.page.click("#settings-toggle")
    assert talk.page.locator("#sharing").is_hidden()
    talk.page.click("#compare-toggle")
    talk.say("Go")
    talk.page.get_by_role("button", name="Right is better").click()
    assert talk.page.locator("#notices .notice").count() == 0


# ---- probabilities ----


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_probabilities_on_hover_and_by_keyboard(talk: Talk, mode: str) -> None:
    talk.mode(mode)
    talk.page.click("#probabilities-toggle")
    talk.server.replies = [Reply(["Hello", "\n", " you"], chances=[0.9, 0.4, 0.02])]
    talk.say("Go")
    sent = talk.server.asked[0][1]
    assert (sent["logprobs"], sent.get("top_logprobs")) == ((True, 5) if mode == "chat" else (5, None))
    assert talk.texts(".token") == ["Hello", "↵\n", " you"]
    levels = talk.page.locator(".token").evaluate_all("all => all.map(one => one.className)")
    assert levels == ["token level-0", "token level-2", "token level-4"]
    card = talk.page.locator("#token-card")
    talk.page.hover(".token >> nth=2")
    assert card.is_visible()
    assert talk.texts("#token-card tr") == ["␣world20 %", "␣moon5.0 %", "␣you (chosen)2.0 %"]
    talk.page.mouse.move(5, 300)
    card.wait_for(state="hidden")

    talk.page.focus(".turn-answer .button-model")
    talk.page.keyboard.press("Tab")
    assert talk.page.evaluate("document.activeElement.textContent") == "Hello"
    assert card.is_visible()
    talk.page.keyboard.press("End")
    assert talk.page.evaluate("document.activeElement.getAttribute('aria-label')") == "you, 2.0 %"
    assert talk.page.get_attribute(".token:focus", "aria-describedby") == "token-card"
    talk.page.keyboard.press("ArrowLeft")
    assert talk.page.evaluate("document.activeElement.getAttribute('aria-label')") == "line break, 40 %"
    assert "↵" in card.text_content()
    talk.page.keyboard.press("Escape")
    assert card.is_hidden()
    talk.page.keyboard.press("Tab")  # one stop for all tokens
    assert talk.page.evaluate("document.activeElement.dataset.action") is not None


def test_half_a_character_is_shown_as_bytes(talk: Talk) -> None:
    talk.page.click("#probabilities-toggle")
    halves = [
        {"token": "�", "logprob": -0.1, "bytes": part, "top_logprobs": []} for part in ([0xF0, 0x9F], [0xA6, 0x8A])
    ]
    chunk = '{"choices":[{"index":0,"delta":{"content":"🦊"},"logprobs":{"content":%s},"finish_reason":"stop"}]}'
    talk.server.replies = [Reply(raw=[b"data: " + (chunk % json.dumps(halves)).encode() + b"\n\ndata: [DONE]\n\n"])]
    talk.say("Go")
    assert talk.texts(".token") == ["⟨F0 9F⟩", "⟨A6 8A⟩"]
    talk.page.click("#probabilities-toggle")
    assert talk.answers() == ["🦊"]


def test_an_answer_without_probabilities_stays_readable_when_they_are_wanted(talk: Talk) -> None:
    talk.say("Go")
    assert "logprobs" not in talk.server.asked[0][1]
    talk.page.click("#probabilities-toggle")
    assert talk.answers() == ["Hello there."]
    assert "generated without probabilities" in talk.texts(".stats")[0]


# ---- what goes wrong ----

REFUSALS = [
    (Reply(status=400, message="too many tokens"), "rejected the request. Server message: too many tokens"),
    (Reply(status=404, message="no such model"), "Not found on this server. Server message: no such model"),
    (Reply(status=413, message="over 1 MB"), "larger than the server accepts"),
    (Reply(status=429, message="busy"), "server is busy"),
    (Reply(status=503, message="loading failed"), "not available at the moment. Server message: loading failed"),
    (Reply(status=500, message="<b>oh</b>"), "The server failed. Server message: <b>oh</b>"),
]


@pytest.mark.parametrize(("reply", "words"), REFUSALS, ids=lambda value: str(getattr(value, "status", "")))
def test_a_refusal_is_said_in_plain_words_and_can_be_tried_again(talk: Talk, reply: Reply, words: str) -> None:
    talk.expected = (str(reply.status),)
    talk.server.replies = [reply]
    talk.send("Go")
    talk.wait(words)
    talk.done()
    talk.tool("retry").click()
    talk.wait("Hello there.")
    talk.done()
    assert talk.answers() == ["Hello there."]
    assert talk.page.locator(".error:visible").count() == 0
    assert talk.page.locator(".versions:visible").count() == 0  # nothing had come: it was tried in its place
    assert talk.server.asked[0] == talk.server.asked[1]


BREAKS = [
    (Reply(["Once", " upon"], ending="cut"), "The connection was lost before the answer was complete."),
    (
        Reply(["Once", " upon"], ending="error", message="out of memory"),
        "The server stopped in the middle of the answer. The text so far is kept. Server message: out of memory",
    ),
    (
        Reply(raw=[b'data: {"choices":[{"index":0,"delta":{"content":"Once upon"}}]}\n\n', b"data: {oops\n\n"]),
        "not JSON",
    ),
    (Reply(raw=[b'data: {"choices":[{"index":0,"delta":{"content":"Once upon"}}]}\n\n']), "The connection was lost"),
]


@pytest.mark.parametrize(("reply", "words"), BREAKS, ids=["cut", "error", "not-json", "no-end"])
def test_what_came_stays_when_an_answer_breaks_off(talk: Talk, reply: Reply, words: str) -> None:
    talk.expected = ("ERR_INCOMPLETE_CHUNKED_ENCODING",)
    talk.server.replies = [reply]
    talk.send("Go")
    talk.wait(words)
    talk.done()
    assert talk.answers() == ["Once upon"]
    talk.tool("retry").click()
    talk.wait("Hello there.")
    talk.done()
    assert talk.answers() == ["Hello there."]
    talk.tool("previous-answer").click()
    assert talk.answers() == ["Once upon"]


def test_a_busy_server_is_left_alone_as_long_as_it_asks(talk: Talk) -> None:
    talk.expected = ("429",)
    talk.page.clock.install()
    talk.server.replies = [Reply(status=429, retry_after=3)]
    talk.send("Go")
    talk.wait("Try again in 3 s")
    retry = talk.tool("retry")
    assert retry.get_attribute("aria-disabled") == "true"
    retry.click(force=True)
    assert len(talk.server.asked) == 1
    talk.page.clock.run_for(1500)
    talk.wait("Try again in 2 s")
    talk.page.clock.run_for(2000)
    assert retry.text_content() == "Try again"
    retry.click()
    talk.page.clock.run_for(1000)
    talk.wait("Hello there.")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=repr)
def test_a_stream_in_any_pieces_is_the_same(talk: Talk, end: bytes) -> None:
    text = "Zwölf Füchse 🦊\r\nund ein Käuzchen"
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    data = json.dumps(chunk, ensure_ascii=False).encode()
    whole = b": hello\n\nevent: x\ndata: " + data + b"\n\n: bye\n\ndata:[DONE]\n\n"
    whole = whole.replace(b"\n", end)
    talk.server.replies = [Reply(raw=[whole[at : at + 1] for at in range(len(whole))])]
    talk.page.click("#settings-toggle")
    talk.page.uncheck("#formatted")
    assert talk.say("Go") == text


def test_a_server_that_cannot_be_reached_at_first(new_talk: Any) -> None:
    talk = new_talk()
    talk.expected = ("net::ERR_FAILED",)
    talk.page.route("**/api/info", lambda route: route.abort())
    talk.page.goto(talk.server.url)
    talk.wait("cannot be reached", "#notices")
    talk.page.unroute("**/api/info")
    talk.page.get_by_role("button", name="Try again").click()
    talk.page.wait_for_selector("#model option", state="attached")
    assert talk.say("Go") == "Hello there."
    talk.page.route("**/v1/chat/completions", lambda route: route.abort())
    talk.send("Again")
    talk.wait("Check that it is running.")
    talk.page.unroute("**/v1/chat/completions")
    talk.tool("retry").click()
    talk.done()
    assert talk.answers() == ["Hello there.", "Hello there."]


# ---- the key ----


def test_a_key_can_be_given_later(new_talk: Any) -> None:
    talk = new_talk()
    talk.server.info["key_required"] = True
    talk.page.goto(talk.server.url)
    talk.page.get_by_role("dialog", name="This server requires an API key").wait_for()
    talk.page.keyboard.press("Escape")
    talk.page.get_by_text("The server requires an API key.").wait_for()
    talk.page.get_by_role("button", name="Enter the API key").click()
    talk.page.get_by_label("API key", exact=True).fill(KEY)
    talk.page.keyboard.press("Enter")
    talk.page.wait_for_selector("#model option", state="attached")
    assert not talk.page.get_by_text("The server requires an API key.").is_visible()
    assert talk.say("Go") == "Hello there."


def test_a_server_that_has_other_models_now(talk: Talk) -> None:
    talk.expected = ("404",)
    talk.server.models = [model("elk-9m")]
    talk.server.replies = [Reply(status=404, message="no fox-7m here")]
    talk.send("Go")
    talk.wait("no fox-7m here")
    talk.until("[...document.querySelectorAll('#model option')].some(one => one.textContent.includes('elk-9m'))")
    talk.page.get_by_role("button", name="Try again").click()
    talk.wait("Hello there.")
    assert talk.server.asked[-1][1]["model"] == "elk-9m"


def test_a_message_longer_than_the_context_is_not_tried_again(talk: Talk) -> None:
    talk.expected = ("400",)
    talk.server.replies = [Reply(status=400, message="it is 911 tokens", code="context_length_exceeded")]
    talk.send("Go " * 200)
    talk.wait("exceeds the model’s context. Shorten it and send it again. Server message: it is 911 tokens")
    assert not talk.page.get_by_role("button", name="Try again").is_visible()
    talk.tool("edit-message").click()
    talk.page.fill(".turn-user textarea", "Go")
    talk.page.get_by_role("button", name="Send").first.click()
    talk.wait("Hello there.")


def test_the_longest_answer_is_no_longer_than_the_context(talk: Talk) -> None:
    talk.server.models = [model("fox-7m", context=300)]
    talk.reload()
    talk.page.click("#settings-toggle")
    assert talk.page.get_attribute("#setting-max_tokens", "max") == "300"


@pytest.mark.parametrize("remember", [False, True])
def test_a_key_is_asked_for_and_kept_where_the_person_says(new_talk: Any, remember: bool) -> None:
    talk = new_talk()
    talk.expected = ("401",)
    talk.server.info["key_required"] = True
    talk.page.goto(talk.server.url)
    dialog = talk.page.get_by_role("dialog", name="This server requires an API key")
    dialog.get_by_label("API key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use key").click()
    dialog.get_by_text("refused this API key").wait_for()
    dialog.get_by_label("API key", exact=True).fill(KEY)
    if remember:
        dialog.get_by_label("Remember on this device").check()
    talk.page.keyboard.press("Enter")
    talk.page.wait_for_selector("#model option", state="attached")
    assert talk.say("Go") == "Hello there."
    places = talk.page.evaluate("[sessionStorage, localStorage].map(place => JSON.parse(place.getItem('neolm.key')))")
    assert places == ([None, KEY] if remember else [KEY, None])
    talk.reload()
    assert talk.say("Go") == "Hello there."
    talk.page.click("#settings-toggle")
    talk.page.get_by_role("button", name="Forget the API key").click()
    assert talk.page.evaluate("sessionStorage.getItem('neolm.key') ?? localStorage.getItem('neolm.key')") is None


def test_a_key_that_is_wanted_later_is_asked_for_and_the_answer_follows(talk: Talk) -> None:
    talk.expected = ("401",)
    talk.server.info["key_required"] = True
    talk.send("Go")
    talk.page.get_by_label("API key", exact=True).fill(KEY)
    talk.page.keyboard.press("Enter")
    talk.wait("Hello there.")
    talk.done()
    assert talk.answers() == ["Hello there."]


# ---- the model ----


def test_the_card_and_lineage_are_one_click_away(talk: Talk, server: FakeServer) -> None:
    server.cards["fox-7m"] = {
        "id": "fox-7m", "digest": "sha256:" + "ab" * 32, "family": "gpt-neo", "parameters": 7_341_056, "context": 2048,
        "dtype": "bfloat16", "quantize": "int8", "config": {"hidden_size": 256},
        "card": "# Fox\n\nReads **stories**. <img src=x onerror=alert(1)>",
        "lineage": [{"stage": "pretrain", "directory": "runs/pretrain", "created": "2026-11", "details": {"steps": 2}},
                    {"stage": "corpus", "directory": "runs/corpus", "created": "2026-11-19T10:00:00", "details": {}}],
    }  # fmt: skip
    talk.page.click("#card")
    dialog = talk.page.get_by_role("dialog", name="About the model")
    dialog.get_by_text("7.3 million").wait_for()
    assert dialog.locator("strong", has_text="stories").count() == 1
    assert "<img src=x onerror=alert(1)>" in dialog.text_content()
    assert dialog.locator("img").count() == 0
    assert dialog.locator(".lineage strong").all_text_contents() == ["pretrain", "corpus"]
    assert "bfloat16, weights quantised to int8" in dialog.text_content()
    dialog.get_by_role("button", name="Close").click()
    assert talk.page.evaluate("document.activeElement.id") == "card"
    talk.say("Go")
    talk.tool("card").click()
    talk.page.get_by_text("7.3 million").wait_for()


def test_a_model_with_a_slash_and_no_card(new_talk: Any) -> None:
    talk = new_talk()
    talk.server.models = [model("runs/my model #1")]
    talk.server.cards["runs/my model #1"] = {"id": "runs/my model #1", "family": "gpt-neo", "card": None, "lineage": []}
    talk.open()
    talk.page.click("#card")
    talk.page.get_by_text("This model has no model card.").wait_for()
    talk.page.get_by_text("No record of how this model was trained.").wait_for()
