"""The chat session, driven by lists instead of a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.generation.chat import Session, converse
from neolm.generation.config import GenerationConfig
from neolm.generation.generate import generate
from neolm.generation.kernel_runner import KernelRunner
from neolm.models.decoder import Decoder
from neolm.tokenizer.chat import STOP, Message, PlainTemplate
from neolm.tokenizer.tokenizer import Tokenizer

SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture
def long(make: Callable[..., Decoder]) -> Decoder:
    return make("gpt2", context=256)


def talk(session: Session, *lines: str | type[BaseException]) -> str:
    """What the screen shows when a person types `lines` and then Ctrl-D; an exception is a key such as Ctrl-C."""
    waiting, screen = iter([*lines, EOFError]), []

    def read(prompt: str) -> str:
        screen.append(prompt)
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    converse(session, read, screen.append)
    return "".join(screen)


def test_the_template(tokenizer: Tokenizer) -> None:
    messages = [Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?")]
    ids = PlainTemplate(tokenizer).encode(messages)
    assert tokenizer.decode(ids) == "<|endoftext|>User: Hi\nAssistant: Ho\nUser: And?\nAssistant:"
    assert PlainTemplate(tokenizer).encode(messages[:1]) == ids[: len(PlainTemplate(tokenizer).encode(messages[:1]))]
    assert STOP == ("\nUser:",)


def test_each_answer_is_what_a_fresh_model_says_to_the_whole_conversation(model: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(model, tokenizer, SHORT)
    for question in ("sea?", "day", "April"):
        "".join(session.say(question))
        kept, answer = session.messages[:-1], session.messages[-1]
        fresh = Session(model, tokenizer, SHORT)
        fresh.messages = kept[:-1]
        "".join(fresh.say(question))
        assert fresh.messages == [*kept, answer]


def test_a_turn_reads_only_what_is_new(long: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    read = KernelRunner.run

    def counting(self: KernelRunner, pages: Any, spans: Any) -> Any:
        widths.extend(len(span.ids) for span in spans)
        return read(self, pages, spans)

    monkeypatch.setattr(KernelRunner, "run", counting)
    session = Session(long, tokenizer, GenerationConfig(max_new_tokens=3))
    list(session.say("What is the sea, and what is the water?"))
    first, answered = widths[0], len(widths) - 1
    widths.clear()
    list(session.say("sea"))
    assert answered == 2
    assert widths[0] < first
    assert max(widths) == widths[0]


def test_the_oldest_turns_are_forgotten_and_it_says_so(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, GenerationConfig(max_new_tokens=8))
    screen = talk(session, "the sea", "the day", "the clock", "the water")
    assert "the context is full: the oldest" in screen
    assert session.messages[-2] == Message("user", "the water")
    assert 2 <= len(session.messages) < 8
    assert len(PlainTemplate(tokenizer).encode(session.messages[:-1])) <= 64 - 8


def test_a_message_beyond_the_context_is_refused_and_nothing_lost(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, SHORT)
    list(session.say("sea"))
    before = list(session.messages)
    with pytest.raises(InputError, match="the model's context is 64: shorten it"):
        session.say("zq" * 50)
    assert session.messages == before
    assert "(this is " in talk(session, "zq" * 50)


def test_commands(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, SHORT)
    screen = talk(session, "/help", "sea", "/reset", "", KeyboardInterrupt, "/exit", "never read")
    assert "/reset        forget" in screen
    assert "(forgotten)\n" in screen
    assert "Ctrl-D leaves" in screen
    assert screen.endswith("> ")
    assert session.messages == []


def test_an_interrupt_stops_the_answer_and_the_conversation_goes_on(long: Decoder, tokenizer: Tokenizer) -> None:
    session, shown = Session(long, tokenizer, GenerationConfig(max_new_tokens=40)), 0

    def write(text: str) -> None:
        nonlocal shown
        shown += 1
        if shown == 4:
            raise KeyboardInterrupt
        screen.append(text)

    screen: list[str] = []
    lines = iter(["the sea", "/exit"])
    converse(session, lambda _: next(lines), write)
    assert screen[-1] == "\n(stopped)\n"
    said = session.messages[-1]
    assert said.role == "assistant"
    assert said.text.startswith("".join(screen[1:-1]).strip())
    "".join(session.say("and?"))
    fresh = Session(long, tokenizer, session.config)
    fresh.messages = session.messages[:2]
    "".join(fresh.say("and?"))
    assert fresh.messages == session.messages


def test_an_interrupt_in_the_model_leaves_no_torn_cache(
    neo: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(neo, tokenizer, SHORT)
    list(session.say("sea"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KernelRunner, "run", interrupt)
        assert "(stopped)" in talk(session, "day")
    assert session.messages[-1] == Message("assistant", "")

    text = "It was a bright cold day in April"
    raw = Session(neo, tokenizer, GenerationConfig(max_new_tokens=1), raw=True)
    list(raw.say(text))
    with monkeypatch.context() as patch:
        patch.setattr(KernelRunner, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(raw.say(text + ", and the clocks were striking thirteen."))  # half read: the window has moved on
    raw.config = SHORT
    assert ["".join(raw.say(text + ", def"))] == generate(neo, tokenizer, text + ", def", max_new_tokens=12)


def test_raw_continues_what_is_typed_and_an_empty_line_goes_on(long: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(long, tokenizer, SHORT, raw=True)
    first, second = "".join(session.say("The sea")), "".join(session.say(""))
    assert [first + second] == generate(long, tokenizer, "The sea", max_new_tokens=24)
    assert "".join(session.say("The sea")) == first
    assert "An empty line" in talk(session, "/help")


def test_raw_goes_on_past_the_context(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, GenerationConfig(max_new_tokens=30, ignore_eos=True), raw=True)
    screen = talk(session, "The sea", "", "", "")
    assert "the context is full: the oldest" in screen
    assert "".join(session.say(""))
