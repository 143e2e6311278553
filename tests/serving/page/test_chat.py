"""Chat, completion, branches, comparison, feedback, probabilities, errors and API keys, against scripted answers."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from page_driver import PageDriver
from page_server import KEY, FakeServer, Reply, model

START = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 256}
STREAM = {"stream": True, "stream_options": {"include_usage": True}, "truncate_prompt_tokens": 2048 - 256}


# ---- answers and settings ----


def test_an_answer_streams_and_is_announced_once(ui: PageDriver) -> None:
    gate = threading.Event()
    ui.server.replies = [Reply(["A fox", " sleeps", " well."], gate=gate, before=2)]
    ui.send("Tell me")
    ui.wait("A fox sleeps")
    assert ui.answers() == ["A fox sleeps"]
    assert ui.page.get_attribute(".turn-answer", "aria-busy") == "true"
    assert ui.page.locator(".send").text_content() == "Stop"
    assert ui.page.text_content("#announcements") == ""
    gate.set()
    ui.done()
    assert ui.answers() == ["A fox sleeps well."]
    assert ui.user_messages() == ["Tell me"]
    ui.until("document.getElementById('announcements').textContent === 'fox-7m: A fox sleeps well.'")
    assert ui.page.get_attribute(".turn-answer", "aria-busy") == "false"
    assert ui.page.locator("#message").evaluate("field => field === document.activeElement")


def test_speed_is_shown(ui: PageDriver) -> None:
    ui.page.evaluate("() => { let now = 0; performance.now = () => (now += 500); }")  # half a second at each look
    ui.server.replies = [Reply(["a", "b", "c", "d"])]
    ui.say("Go")
    assert ui.texts(".stats") == ["0.50 s to first token · 2.0 tokens/s · 4 tokens"]


def test_a_text_longer_than_the_context_continues_from_its_end(ui: PageDriver) -> None:
    ui.server.models = [model("fox-7m", context=300)]
    ui.reload()
    ui.server.replies = [Reply(left_out=41), Reply()]
    for mode in ("completion", "chat"):
        ui.mode(mode)
        ui.say("Once upon a time")
        assert ui.server.asked[-1][1]["truncate_prompt_tokens"] == 150  # half of the context is for the answer
        assert ("the first 41 tokens were left out" in ui.texts(".stats")[-1]) is (mode == "completion")
        ui.page.click("#new")
    ui.page.click("#settings-toggle")
    ui.page.fill("#setting-max_tokens", "20")
    ui.say("more")
    assert ui.server.asked[-1][1]["truncate_prompt_tokens"] == 280


def gauge(ui: PageDriver) -> tuple[str, str | None]:
    """Text and level of the context gauge."""
    meter = ui.page.get_by_role("meter", name="Context used")
    text = ui.page.text_content(".context-text")
    assert meter.get_attribute("aria-valuetext") == text
    assert int(meter.get_attribute("aria-valuenow")) <= int(meter.get_attribute("aria-valuemax"))
    return text, ui.page.get_attribute("#context", "data-level")


def test_context_gauge_shows_the_tokens_that_the_server_counted(ui: PageDriver) -> None:
    assert ui.page.locator("#context").is_hidden()
    ui.server.replies = [Reply(prompt_tokens=1200)]
    ui.say("One")
    assert gauge(ui) == ("Context: 1,203 of 2,048 tokens", "")
    ui.reload()
    assert gauge(ui) == ("Context: 1,203 of 2,048 tokens", "")
    ui.expected = ("500",)
    ui.server.replies = [Reply(status=500)]
    ui.send("Two")
    ui.wait("The server failed.")
    assert gauge(ui) == ("Context: at least 1,203 of 2,048 tokens", "")
    ui.page.click("#new")
    assert ui.page.locator("#context").is_hidden()


@pytest.mark.parametrize(
    ("mode", "left_out"), [("chat", "the oldest messages are"), ("completion", "the beginning of the text is")]
)
def test_context_gauge_warns_near_the_limit_and_when_the_next_prompt_is_truncated(
    ui: PageDriver, mode: str, left_out: str
) -> None:
    ui.mode(mode)
    colours = []
    full = f"Context full: {left_out} left out of the next prompt"
    for prompt, truncated, expected in (
        (1600, 0, ("Context: 1,603 of 2,048 tokens", "")),  # 256 of 2,048 are for the answer, 1,612 is 90% of the rest
        (1789, 0, ("Context nearly full: 1,792 of 2,048 tokens", "nearly-full")),
        (1790, 0, (full, "full")),
        (1792, 9, (full, "full")),
    ):
        ui.server.replies = [Reply(prompt_tokens=prompt, left_out=truncated)]
        ui.say("more")
        assert gauge(ui) == expected
        colours.append(ui.page.locator("#context").evaluate("node => getComputedStyle(node).color"))
    assert len(set(colours)) == 3
    ui.page.click("#settings-toggle")
    ui.page.fill("#setting-max_tokens", "20")  # leaves more of the context to the prompt
    assert gauge(ui) == ("Context: 1,804 of 2,048 tokens", "")


def test_context_warnings_are_announced_once(ui: PageDriver) -> None:
    ui.server.replies = [Reply(prompt_tokens=1789), Reply(prompt_tokens=1789)]
    said = "document.getElementById('announcements').textContent"
    ui.say("One")
    ui.until(f"{said} === 'fox-7m: Hello there.\\nContext nearly full: 1,792 of 2,048 tokens'")
    ui.say("Two")
    ui.until(f"{said} === 'fox-7m: Hello there.'")


def test_context_gauge_uses_the_smaller_context_of_two_models(ui: PageDriver) -> None:
    ui.server.models = [model("fox-7m"), model("owl-20m", context=512)]
    ui.reload()
    ui.server.replies = [Reply(prompt_tokens=250)]
    ui.say("One")
    assert gauge(ui) == ("Context: 253 of 2,048 tokens", "")
    ui.page.click("#compare-toggle")
    assert gauge(ui) == ("Context nearly full: 253 of 512 tokens", "nearly-full")


def test_the_chat_request(ui: PageDriver) -> None:
    ui.say("One")
    ui.page.click("#settings-toggle")
    ui.page.fill("#system", "Be brief.")
    ui.say("Two")
    one, two = ui.server.asked
    messages = [{"role": "user", "content": "One"}]
    assert one == ("chat/completions", {"model": "fox-7m", **START, **STREAM, "messages": messages})
    messages += [{"role": "assistant", "content": "Hello there."}, {"role": "user", "content": "Two"}]
    assert two[1]["messages"] == [{"role": "system", "content": "Be brief."}, *messages]


def test_the_completion_request_keeps_white_space(ui: PageDriver) -> None:
    ui.mode("completion")
    ui.server.replies = [Reply(["(a,", "\tb):\n", "    return"]), Reply([" a\n"])]
    assert ui.say("def f") == "def f(a,\tb):\n    return"
    assert ui.page.locator(".passage").evaluate("passage => getComputedStyle(passage).whiteSpaceCollapse") == "preserve"
    ui.page.press("#message", "Enter")  # empty: the text continues
    ui.until("document.querySelectorAll('.turn-answer').length === 2")
    ui.done()
    assert ui.answers()[1] == " a\n"
    one, two = ui.server.asked
    assert one == ("completions", {"model": "fox-7m", **START, **STREAM, "prompt": "def f"})
    assert two[1]["prompt"] == "def f(a,\tb):\n    return"


def test_unpaired_surrogates_are_replaced_in_requests(ui: PageDriver) -> None:
    ui.page.evaluate("document.getElementById('message').value = 'a\\ud83e b'")
    ui.page.press("#message", "Enter")
    ui.done()
    assert ui.server.asked[0][1]["messages"] == [{"role": "user", "content": "a\ufffd b"}]


def test_only_changed_settings_are_sent_and_they_can_be_reset(ui: PageDriver) -> None:
    ui.page.click("#settings-toggle")
    values = {"temperature": "1.25", "top_p": "1", "top_k": "40", "max_tokens": "12", "repetition_penalty": "1.1"}
    values |= {"presence_penalty": "0.5", "frequency_penalty": "-0.25", "seed": "7", "stop": "\\n\\n\nThe end\n"}
    for key, value in values.items():
        ui.page.fill(f"#setting-{key}", value)
    ui.say("Go")
    sent = {k: v for k, v in ui.server.asked[-1][1].items() if k not in ("model", "messages", *STREAM)}
    assert sent == {
        "temperature": 1.25, "top_k": 40, "max_tokens": 12, "repetition_penalty": 1.1, "presence_penalty": 0.5,
        "frequency_penalty": -0.25, "seed": 7, "stop": ["\n\n", "The end"],
    }  # fmt: skip
    ui.reload()
    assert ui.page.input_value("#setting-top_k") == "40"
    ui.page.get_by_role("button", name="Reset to defaults").click()
    ui.say("Go")
    sent = {k: v for k, v in ui.server.asked[-1][1].items() if k not in ("model", "messages", *STREAM)}
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
def test_a_setting_out_of_range_is_corrected(ui: PageDriver, key: str, typed: str, kept: str) -> None:
    ui.page.click("#settings-toggle")
    ui.page.fill(f"#setting-{key}", typed)
    ui.page.locator(f"#setting-{key}").blur()
    assert ui.page.input_value(f"#setting-{key}") == kept


def test_presets_and_sliders_set_the_values(ui: PageDriver) -> None:
    ui.page.click("#settings-toggle")
    ui.page.get_by_role("button", name="Greedy").click()
    assert ui.page.input_value("#setting-temperature") == "0"
    assert ui.page.get_by_role("button", name="Greedy").get_attribute("aria-pressed") == "true"
    slider = ui.page.get_by_role("slider", name="Temperature")
    slider.focus()
    ui.page.keyboard.press("ArrowRight")
    assert ui.page.input_value("#setting-temperature") == "0.05"
    assert slider.evaluate("slider => slider === document.activeElement")
    assert ui.page.get_by_role("button", name="Greedy").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_the_text(ui: PageDriver, way: str) -> None:
    gate = threading.Event()
    ui.server.replies = [Reply(["Once", " upon", " never"], gate=gate, before=2)]
    ui.send("Go")
    ui.wait("Once upon")
    if way == "button":
        ui.page.click(".send")
    else:
        ui.page.keyboard.press("Escape")
    ui.done()
    assert ui.answers() == ["Once upon"]
    assert "Stopped" in ui.texts(".stats")[0]
    for _ in range(1000):
        if ui.server.left:
            break
        ui.page.wait_for_timeout(10)
    assert ui.server.left == 1
    gate.set()
    assert ui.say("And?") == "Hello there."
    assert ui.server.asked[-1][1]["messages"][1] == {"role": "assistant", "content": "Once upon"}


def test_loading_of_a_model_is_shown(ui: PageDriver) -> None:
    gate = threading.Event()
    ui.page.select_option("#model", "owl-20m")
    ui.mode("chat")
    ui.server.replies = [Reply(["Hoo."], gate=gate, before=0)]
    ui.send("Who?")
    ui.wait("Loading the model…")
    ui.server.models[1]["loaded"] = True
    gate.set()
    ui.done()
    assert ui.page.locator("text=Loading the model…").count() == 0
    ui.until("![...document.querySelectorAll('#model option')].some(one => one.textContent.includes('not loaded'))")
    assert ui.server.asked[0][1]["model"] == "owl-20m"


def test_the_start_page_describes_the_model_and_offers_examples(ui: PageDriver) -> None:
    assert "was trained for chat" in ui.texts(".welcome-note")[0]
    ui.page.select_option("#model", "owl-20m")
    assert "It is not an assistant" in ui.texts(".welcome-note")[0]
    assert ui.page.is_checked("#mode-completion")  # the default of a base model
    ui.page.get_by_role("button", name="A function").click()
    assert ui.page.input_value("#message").startswith("def is_prime(n):\n")
    assert ui.page.locator("#message").evaluate("field => field === document.activeElement")
    ui.page.press("#message", "Enter")
    ui.done()
    assert ui.server.asked[0][0] == "completions"
    assert ui.page.locator("#welcome").is_hidden()


# ---- branches ----


def test_regenerate_adds_a_version_and_the_arrows_switch(ui: PageDriver) -> None:
    ui.server.replies = [Reply(["First."]), Reply(["Second."]), Reply(["More."])]
    ui.say("Go")
    ui.tool("regenerate").click()
    ui.wait("Second.")
    ui.done()
    assert ui.texts(".turn-answer .versions:visible .versions-count") == ["2/2"]
    assert ui.server.asked[0] == ui.server.asked[1]
    ui.say("On")
    before = ui.tool("previous-answer", 0)
    before.focus()
    ui.page.keyboard.press("Enter")
    ui.wait("First.")
    assert ui.answers() == ["First."]  # messages after the other version are hidden
    assert ui.page.evaluate("document.activeElement.dataset.action") == "previous-answer"
    assert before.get_attribute("aria-disabled") == "true"
    ui.tool("next-answer", 0).click()
    ui.wait("Second.")
    assert ui.answers() == ["Second.", "More."]


def test_an_edited_message_starts_a_branch(ui: PageDriver) -> None:
    ui.server.replies = [Reply(["One."]), Reply(["Two."]), Reply(["Three."])]
    ui.say("Frst")
    ui.say("Next")
    ui.tool("edit-message", 0).click()
    field = ui.page.get_by_role("textbox", name="New version of your message")
    assert field.input_value() == "Frst"
    field.fill("First")
    field.press("Enter")
    ui.wait("Three.")
    ui.done()
    assert (ui.user_messages(), ui.answers()) == (["First"], ["Three."])
    assert ui.server.asked[-1][1]["messages"] == [{"role": "user", "content": "First"}]
    assert ui.page.evaluate("document.activeElement.dataset.action") == "edit-message"
    ui.tool("previous-message", 0).click()
    ui.wait("Two.")
    assert (ui.user_messages(), ui.answers()) == (["Frst", "Next"], ["One.", "Two."])


def test_a_cancelled_edit_changes_nothing(ui: PageDriver) -> None:
    ui.say("Go")
    before = ui.conversations()
    ui.tool("edit-message").click()
    ui.page.locator(".editor-field").fill("Something else")
    ui.page.keyboard.press("Escape")
    assert ui.user_messages() == ["Go"]
    assert ui.page.evaluate("document.activeElement.dataset.action") == "edit-message"
    ui.tool("edit").click()
    ui.page.get_by_role("button", name="Cancel").click()
    assert ui.answers() == ["Hello there."]
    assert len(ui.server.asked) == 1
    assert ui.conversations()[0]["messages"] == before[0]["messages"]


def test_an_edited_answer_is_a_version_and_is_sent_to_the_model(ui: PageDriver) -> None:
    ui.say("Go")
    ui.tool("edit").click()
    ui.page.locator(".editor-field").fill("Goodbye.")
    ui.page.get_by_role("button", name="Save as a version").click()
    assert ui.answers() == ["Goodbye."]
    assert ui.texts(".edited-note") == [" (edited)"]
    assert len(ui.server.asked) == 1
    assert ui.page.locator("[data-action^=rate]:visible").count() == 0  # the model did not write it
    ui.say("On")
    assert ui.server.asked[-1][1]["messages"][1]["content"] == "Goodbye."


def test_the_prompt_of_a_text_can_be_edited(ui: PageDriver) -> None:
    ui.mode("completion")
    ui.server.replies = [Reply([" was"]), Reply([" is"])]
    ui.say("There")
    ui.tool("edit-prompt").click()
    ui.page.locator(".editor-field").fill("Here")
    ui.page.get_by_role("button", name="Continue from here").click()
    ui.wait(" is")
    ui.done()
    assert ui.answers() == ["Here is"]
    assert ui.server.asked[-1][1]["prompt"] == "Here"
    ui.tool("previous-prompt").click()
    ui.wait(" was")
    assert ui.answers() == ["There was"]


# ---- side by side ----


def ask_two(ui: PageDriver, mode: str = "chat") -> None:
    """Two answers side by side; both are visible during generation."""
    gates = [threading.Event(), threading.Event()]
    ui.mode(mode)
    ui.page.click("#compare-toggle")
    ui.server.replies = [Reply([f"{name} one", " two"], gate=gate) for name, gate in zip("AB", gates, strict=True)]
    ui.send("Go")
    ui.wait("A one")
    ui.wait("B one")
    assert ui.page.locator(".choice:visible").count() == 0
    for gate in gates:
        gate.set()
    ui.done()


@pytest.mark.parametrize("mode", ["chat", "completion"])
@pytest.mark.parametrize(("button", "chosen"), [("Left is better", 0), ("Right is better", 1), ("Tie", 0)])
def test_the_conversation_continues_with_the_chosen_answer(ui: PageDriver, button: str, chosen: int, mode: str) -> None:
    ask_two(ui, mode)
    assert {body["model"] for _, body in ui.server.asked} == {"fox-7m", "owl-20m"}
    shown = ui.answers()
    assert sorted(shown) == ["A one two", "B one two"]
    boxes = [ui.page.locator(".columns .turn").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    ui.page.get_by_role("button", name=button, exact=True).click()
    lead = "Go" if mode == "completion" else ""
    assert ui.answers() == [lead + shown[chosen]]
    assert ui.texts(".turn-answer .versions:visible .versions-count") == [f"{chosen + 1}/2"]
    assert ui.server.feedback == []
    ui.page.click("#compare-toggle")
    ui.say(" on")
    body = ui.server.asked[-1][1]
    assert shown[chosen] in (body["prompt"] if mode == "completion" else body["messages"][1]["content"])


def test_each_side_has_its_own_model_and_settings(ui: PageDriver) -> None:
    ui.page.click("#compare-toggle")
    ui.page.select_option("#right-model", "fox-7m")
    ui.page.get_by_role("button", name="Settings of the right side").click()
    ui.page.fill("#setting-temperature", "0")
    ui.page.locator("#side").get_by_text("Left").click()
    assert ui.page.input_value("#setting-temperature") == "0.8"
    ui.send("Go")
    ui.done()
    asked = sorted(body["temperature"] for _, body in ui.server.asked)
    assert asked == [0, 0.8]
    assert {body["model"] for _, body in ui.server.asked} == {"fox-7m"}
    assert [
        text.startswith(f"temperature {t}") for text, t in zip(ui.texts(".turn-settings"), ("0.8", "0"), strict=True)
    ] == [True, True]


def test_a_failed_answer_of_a_pair_is_retried_in_its_place(ui: PageDriver) -> None:
    ui.expected = ("503",)
    ui.page.click("#compare-toggle")
    ui.page.select_option("#right-model", "fox-7m")
    ui.server.replies = [Reply(["Good."]), Reply(status=503, message="no memory left")]
    ui.send("Go")
    ui.wait("no memory left")
    ui.done()
    assert ui.page.get_by_role("button", name="Left is better").count() == 0
    ui.tool("retry").click()
    ui.wait("Hello there.")
    ui.done()
    assert sorted(ui.answers()) == ["Good.", "Hello there."]
    assert ui.page.get_by_role("button", name="Left is better").count() == 1


# ---- feedback and consent ----


def test_without_consent_nothing_is_sent(ui: PageDriver) -> None:
    ui.say("Go")
    ui.tool("rate-up").click()
    dialog = ui.page.get_by_role("dialog", name="Share your ratings?")
    assert ui.server.url.removeprefix("http://") in dialog.text_content()
    dialog.get_by_role("button", name="Not now").click()
    ui.tool("rate-down").click()
    ui.page.keyboard.press("Escape")
    assert dialog.count() == 0
    ui.page.click("#compare-toggle")
    ui.say("Go")
    ui.page.get_by_role("button", name="Left is better").click()
    ui.wait("Your choice stays in this browser.", "#notices")
    assert ui.server.feedback == []
    assert ui.tool("rate-up").get_attribute("aria-pressed") == "false"
    ui.page.click("#settings-toggle")
    assert not ui.page.is_checked("#consent")


def test_with_consent_a_rating_is_sent_as_documented(ui: PageDriver) -> None:
    ui.page.click("#settings-toggle")
    ui.page.check("#consent")
    ui.page.fill("#system", "Be kind.")
    ui.say("Go")
    ui.tool("rate-down").click()
    ui.page.wait_for_selector("[data-action=rate-down][aria-pressed=true]")
    assert ui.server.feedback == [
        {
            "consent": True, "kind": "rating", "mode": "chat",
            "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Go"}],
            "answers": [{"model": "fox-7m", "text": "Hello there.", "settings": START}],
            "chosen": None, "rating": "down",
        }
    ]  # fmt: skip
    ui.tool("rate-down").click()  # sent already
    ui.reload()
    assert ui.tool("rate-down").get_attribute("aria-pressed") == "true"
    assert len(ui.server.feedback) == 1


@pytest.mark.parametrize(("button", "chosen"), [("Left is better", 0), ("Right is better", 1), ("Tie", None)])
def test_with_consent_a_choice_is_sent_as_documented(ui: PageDriver, button: str, chosen: int | None) -> None:
    ui.page.click("#settings-toggle")
    ui.page.check("#consent")
    ask_two(ui, "completion")
    texts = ui.answers()
    ui.page.get_by_role("button", name=button, exact=True).click()
    ui.until("document.getElementById('announcements').textContent.includes('Sent.')")
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
    assert ui.server.feedback == [body]


def test_rating_asks_for_consent(ui: PageDriver) -> None:
    ui.say("Go")
    ui.tool("rate-up").click()
    ui.page.get_by_role("button", name="Switch on and send").click()
    ui.page.wait_for_selector("[data-action=rate-up][aria-pressed=true]")
    assert [body["rating"] for body in ui.server.feedback] == ["up"]
    ui.page.click("#settings-toggle")
    assert ui.page.is_checked("#consent")


def test_rejected_feedback_is_reported(ui: PageDriver) -> None:
    ui.expected = ("404",)
    ui.page.click("#settings-toggle")
    ui.page.check("#consent")
    ui.say("Go")
    ui.server.info["feedback"] = False
    ui.tool("rate-up").click()
    ui.wait("The feedback was not sent.", "#notices")
    assert ui.tool("rate-up").get_attribute("aria-pressed") == "false"


def test_ratings_are_hidden_if_the_server_accepts_no_feedback(new_ui: Any) -> None:
    ui = new_ui()
    ui.server.info["feedback"] = False
    ui.open()
    ui.say("Go")
    assert ui.page.locator("[data-action^=rate]:visible").count() == 0
    ui.page.click("#settings-toggle")
    assert ui.page.locator("#sharing").is_hidden()
    ui.page.click("#compare-toggle")
    ui.say("Go")
    ui.page.get_by_role("button", name="Right is better").click()
    assert ui.page.locator("#notices .notice").count() == 0


# ---- probabilities ----


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_probabilities_on_hover_and_by_keyboard(ui: PageDriver, mode: str) -> None:
    ui.mode(mode)
    ui.page.click("#probabilities-toggle")
    ui.server.replies = [Reply(["Hello", "\n", " you"], chances=[0.9, 0.4, 0.02])]
    ui.say("Go")
    sent = ui.server.asked[0][1]
    assert (sent["logprobs"], sent.get("top_logprobs")) == ((True, 5) if mode == "chat" else (5, None))
    assert ui.texts(".token") == ["Hello", "↵\n", " you"]
    levels = ui.page.locator(".token").evaluate_all("all => all.map(one => one.className)")
    assert levels == ["token level-0", "token level-2", "token level-4"]
    card = ui.page.locator("#token-card")
    ui.page.hover(".token >> nth=2")
    assert card.is_visible()
    assert ui.texts("#token-card tr") == ["␣world20 %", "␣moon5.0 %", "␣you (chosen)2.0 %"]
    ui.page.mouse.move(5, 300)
    card.wait_for(state="hidden")

    ui.page.focus(".turn-answer .button-model")
    ui.page.keyboard.press("Tab")
    assert ui.page.evaluate("document.activeElement.textContent") == "Hello"
    assert card.is_visible()
    ui.page.keyboard.press("End")
    assert ui.page.evaluate("document.activeElement.getAttribute('aria-label')") == "you, 2.0 %"
    assert ui.page.get_attribute(".token:focus", "aria-describedby") == "token-card"
    ui.page.keyboard.press("ArrowLeft")
    assert ui.page.evaluate("document.activeElement.getAttribute('aria-label')") == "line break, 40 %"
    assert "↵" in card.text_content()
    ui.page.keyboard.press("Escape")
    assert card.is_hidden()
    ui.page.keyboard.press("Tab")  # all tokens are one tab stop
    assert ui.page.evaluate("document.activeElement.dataset.action") is not None


def test_part_of_a_character_is_shown_as_bytes(ui: PageDriver) -> None:
    ui.page.click("#probabilities-toggle")
    halves = [
        {"token": "�", "logprob": -0.1, "bytes": part, "top_logprobs": []} for part in ([0xF0, 0x9F], [0xA6, 0x8A])
    ]
    chunk = '{"choices":[{"index":0,"delta":{"content":"🦊"},"logprobs":{"content":%s},"finish_reason":"stop"}]}'
    ui.server.replies = [Reply(raw=[b"data: " + (chunk % json.dumps(halves)).encode() + b"\n\ndata: [DONE]\n\n"])]
    ui.say("Go")
    assert ui.texts(".token") == ["⟨F0 9F⟩", "⟨A6 8A⟩"]
    ui.page.click("#probabilities-toggle")
    assert ui.answers() == ["🦊"]


def test_an_answer_without_probabilities_stays_readable(ui: PageDriver) -> None:
    ui.say("Go")
    assert "logprobs" not in ui.server.asked[0][1]
    ui.page.click("#probabilities-toggle")
    assert ui.answers() == ["Hello there."]
    assert "generated without probabilities" in ui.texts(".stats")[0]


# ---- errors ----

REFUSALS = [
    (Reply(status=400, message="too many tokens"), "rejected the request. Server message: too many tokens"),
    (Reply(status=404, message="no such model"), "Not found on this server. Server message: no such model"),
    (Reply(status=413, message="over 1 MB"), "larger than the server accepts"),
    (Reply(status=429, message="busy"), "server is busy"),
    (Reply(status=503, message="loading failed"), "not available at the moment. Server message: loading failed"),
    (Reply(status=500, message="<b>oh</b>"), "The server failed. Server message: <b>oh</b>"),
]


@pytest.mark.parametrize(("reply", "words"), REFUSALS, ids=lambda value: str(getattr(value, "status", "")))
def test_an_error_is_explained_and_can_be_retried(ui: PageDriver, reply: Reply, words: str) -> None:
    ui.expected = (str(reply.status),)
    ui.server.replies = [reply]
    ui.send("Go")
    ui.wait(words)
    ui.done()
    ui.tool("retry").click()
    ui.wait("Hello there.")
    ui.done()
    assert ui.answers() == ["Hello there."]
    assert ui.page.locator(".error:visible").count() == 0
    assert ui.page.locator(".versions:visible").count() == 0  # no text was received, so there is no other version
    assert ui.server.asked[0] == ui.server.asked[1]


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
def test_an_interrupted_answer_keeps_its_text(ui: PageDriver, reply: Reply, words: str) -> None:
    ui.expected = ("ERR_INCOMPLETE_CHUNKED_ENCODING",)
    ui.server.replies = [reply]
    ui.send("Go")
    ui.wait(words)
    ui.done()
    assert ui.answers() == ["Once upon"]
    ui.tool("retry").click()
    ui.wait("Hello there.")
    ui.done()
    assert ui.answers() == ["Hello there."]
    ui.tool("previous-answer").click()
    assert ui.answers() == ["Once upon"]


def test_retry_waits_as_long_as_the_server_asks(ui: PageDriver) -> None:
    ui.expected = ("429",)
    ui.page.clock.install()
    ui.server.replies = [Reply(status=429, retry_after=3)]
    ui.send("Go")
    ui.wait("Try again in 3 s")
    retry = ui.tool("retry")
    assert retry.get_attribute("aria-disabled") == "true"
    retry.click(force=True)
    assert len(ui.server.asked) == 1
    ui.page.clock.run_for(1500)
    ui.wait("Try again in 2 s")
    ui.page.clock.run_for(2000)
    assert retry.text_content() == "Try again"
    retry.click()
    ui.page.clock.run_for(1000)
    ui.wait("Hello there.")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=repr)
def test_a_stream_split_at_every_byte_is_the_same(ui: PageDriver, end: bytes) -> None:
    text = "Zwölf Füchse 🦊\r\nund ein Käuzchen"
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    data = json.dumps(chunk, ensure_ascii=False).encode()
    whole = b": hello\n\nevent: x\ndata: " + data + b"\n\n: bye\n\ndata:[DONE]\n\n"
    whole = whole.replace(b"\n", end)
    ui.server.replies = [Reply(raw=[whole[at : at + 1] for at in range(len(whole))])]
    ui.page.click("#settings-toggle")
    ui.page.uncheck("#formatted")
    assert ui.say("Go") == text


def test_an_unreachable_server_can_be_retried(new_ui: Any) -> None:
    ui = new_ui()
    ui.expected = ("net::ERR_FAILED",)
    ui.page.route("**/api/info", lambda route: route.abort())
    ui.page.goto(ui.server.url)
    ui.wait("cannot be reached", "#notices")
    ui.page.unroute("**/api/info")
    ui.page.get_by_role("button", name="Try again").click()
    ui.page.wait_for_selector("#model option", state="attached")
    assert ui.say("Go") == "Hello there."
    ui.page.route("**/v1/chat/completions", lambda route: route.abort())
    ui.send("Again")
    ui.wait("Check that it is running.")
    ui.page.unroute("**/v1/chat/completions")
    ui.tool("retry").click()
    ui.done()
    assert ui.answers() == ["Hello there.", "Hello there."]


# ---- API key ----


def test_an_api_key_can_be_entered_later(new_ui: Any) -> None:
    ui = new_ui()
    ui.server.info["key_required"] = True
    ui.page.goto(ui.server.url)
    ui.page.get_by_role("dialog", name="This server requires an API key").wait_for()
    ui.page.keyboard.press("Escape")
    ui.page.get_by_text("The server requires an API key.").wait_for()
    ui.page.get_by_role("button", name="Enter the API key").click()
    ui.page.get_by_label("API key", exact=True).fill(KEY)
    ui.page.keyboard.press("Enter")
    ui.page.wait_for_selector("#model option", state="attached")
    assert not ui.page.get_by_text("The server requires an API key.").is_visible()
    assert ui.say("Go") == "Hello there."


def test_a_changed_list_of_models_is_loaded(ui: PageDriver) -> None:
    ui.expected = ("404",)
    ui.server.models = [model("elk-9m")]
    ui.server.replies = [Reply(status=404, message="no fox-7m here")]
    ui.send("Go")
    ui.wait("no fox-7m here")
    ui.until("[...document.querySelectorAll('#model option')].some(one => one.textContent.includes('elk-9m'))")
    ui.page.get_by_role("button", name="Try again").click()
    ui.wait("Hello there.")
    assert ui.server.asked[-1][1]["model"] == "elk-9m"


def test_a_message_longer_than_the_context_cannot_be_retried(ui: PageDriver) -> None:
    ui.expected = ("400",)
    ui.server.replies = [Reply(status=400, message="it is 911 tokens", code="context_length_exceeded")]
    ui.send("Go " * 200)
    ui.wait("exceeds the model’s context. Shorten it and send it again. Server message: it is 911 tokens")
    assert not ui.page.get_by_role("button", name="Try again").is_visible()
    ui.tool("edit-message").click()
    ui.page.fill(".turn-user textarea", "Go")
    ui.page.get_by_role("button", name="Send").first.click()
    ui.wait("Hello there.")


def test_max_tokens_is_limited_by_the_context(ui: PageDriver) -> None:
    ui.server.models = [model("fox-7m", context=300)]
    ui.reload()
    ui.page.click("#settings-toggle")
    assert ui.page.get_attribute("#setting-max_tokens", "max") == "300"


@pytest.mark.parametrize("remember", [False, True])
def test_an_api_key_is_requested_and_stored_as_chosen(new_ui: Any, remember: bool) -> None:
    ui = new_ui()
    ui.expected = ("401",)
    ui.server.info["key_required"] = True
    ui.page.goto(ui.server.url)
    dialog = ui.page.get_by_role("dialog", name="This server requires an API key")
    dialog.get_by_label("API key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use key").click()
    dialog.get_by_text("refused this API key").wait_for()
    dialog.get_by_label("API key", exact=True).fill(KEY)
    if remember:
        dialog.get_by_label("Remember on this device").check()
    ui.page.keyboard.press("Enter")
    ui.page.wait_for_selector("#model option", state="attached")
    assert ui.say("Go") == "Hello there."
    places = ui.page.evaluate("[sessionStorage, localStorage].map(place => JSON.parse(place.getItem('neolm.key')))")
    assert places == ([None, KEY] if remember else [KEY, None])
    ui.reload()
    assert ui.say("Go") == "Hello there."
    ui.page.click("#settings-toggle")
    ui.page.get_by_role("button", name="Forget the API key").click()
    assert ui.page.evaluate("sessionStorage.getItem('neolm.key') ?? localStorage.getItem('neolm.key')") is None


def test_an_api_key_required_later_is_requested_and_the_answer_follows(ui: PageDriver) -> None:
    ui.expected = ("401",)
    ui.server.info["key_required"] = True
    ui.send("Go")
    ui.page.get_by_label("API key", exact=True).fill(KEY)
    ui.page.keyboard.press("Enter")
    ui.wait("Hello there.")
    ui.done()
    assert ui.answers() == ["Hello there."]


# ---- model card ----


def test_the_model_card_and_lineage(ui: PageDriver, server: FakeServer) -> None:
    server.cards["fox-7m"] = {
        "id": "fox-7m", "digest": "sha256:" + "ab" * 32, "family": "gpt-neo", "parameters": 7_341_056, "context": 2048,
        "dtype": "bfloat16", "quantize": "int8", "config": {"hidden_size": 256},
        "card": "# Fox\n\nReads **stories**. <img src=x onerror=alert(1)>",
        "lineage": [{"stage": "pretrain", "directory": "runs/pretrain", "created": "2026-11", "details": {"steps": 2}},
                    {"stage": "corpus", "directory": "runs/corpus", "created": "2026-11-19T10:00:00", "details": {}}],
    }  # fmt: skip
    ui.page.click("#card")
    dialog = ui.page.get_by_role("dialog", name="About the model")
    dialog.get_by_text("7.3 million").wait_for()
    assert dialog.locator("strong", has_text="stories").count() == 1
    assert "<img src=x onerror=alert(1)>" in dialog.text_content()
    assert dialog.locator("img").count() == 0
    assert dialog.locator(".lineage strong").all_text_contents() == ["pretrain", "corpus"]
    assert "bfloat16, weights quantised to int8" in dialog.text_content()
    dialog.get_by_role("button", name="Close").click()
    assert ui.page.evaluate("document.activeElement.id") == "card"
    ui.say("Go")
    ui.tool("card").click()
    ui.page.get_by_text("7.3 million").wait_for()


def test_a_model_with_a_slash_and_no_card(new_ui: Any) -> None:
    ui = new_ui()
    ui.server.models = [model("runs/my model #1")]
    ui.server.cards["runs/my model #1"] = {"id": "runs/my model #1", "family": "gpt-neo", "card": None, "lineage": []}
    ui.open()
    ui.page.click("#card")
    ui.page.get_by_text("This model has no model card.").wait_for()
    ui.page.get_by_text("No record of how this model was trained.").wait_for()
