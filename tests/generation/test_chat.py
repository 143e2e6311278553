"""The chat session, driven by lists instead of a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.generation import chat
from neolm.generation.chat import COMMANDS, Session, converse
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
    """Return what the screen shows when a user types `lines` and then Ctrl-D; an exception is a key such as Ctrl-C."""
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


def test_each_answer_equals_that_of_a_new_session_with_the_same_messages(model: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(model, tokenizer, SHORT)
    for question in ("sea?", "day", "April"):
        "".join(session.say(question))
        kept, answer = session.messages[:-1], session.messages[-1]
        fresh = Session(model, tokenizer, SHORT)
        fresh.messages = kept[:-1]
        "".join(fresh.say(question))
        assert fresh.messages == [*kept, answer]


def test_a_turn_computes_only_new_tokens(long: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    run = KernelRunner.run

    def counting(self: KernelRunner, kv_cache: Any, spans: Any) -> Any:
        widths.extend(len(span.ids) for span in spans)
        return run(self, kv_cache, spans)

    monkeypatch.setattr(KernelRunner, "run", counting)
    session = Session(long, tokenizer, GenerationConfig(max_new_tokens=3))
    list(session.say("What is the sea, and what is the water?"))
    first, answered = widths[0], len(widths) - 1
    widths.clear()
    list(session.say("sea"))
    assert answered == 2
    assert widths[0] < first
    assert max(widths) == widths[0]


def test_a_full_context_forgets_the_oldest_turns_with_a_notice(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, GenerationConfig(max_new_tokens=8))
    screen = talk(session, "the sea", "the day", "the clock", "the water")
    assert "the context is full: the oldest" in screen
    assert session.messages[-2] == Message("user", "the water")
    assert 2 <= len(session.messages) < 8
    assert len(PlainTemplate(tokenizer).encode(session.messages[:-1])) <= 64 - 8


def test_a_conversation_may_be_shorter_than_the_context(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    long, short = make("gpt-neox", context=2**16), make("gpt-neox")  # rotary positions: the same weights
    config = GenerationConfig(max_new_tokens=60)
    screens = [
        talk(Session(model, tokenizer, config, context=context), "the sea", "the day", "the clock", "z" * 70)
        for model, context in ((long, 64), (short, None), (short, 1000))
    ]
    assert screens[0] == screens[1] == screens[2]
    assert "the context is full" in screens[0]


def test_a_message_beyond_the_context_changes_nothing(neo: Decoder, tokenizer: Tokenizer) -> None:
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


def test_the_conversation_continues_after_an_interrupted_answer(long: Decoder, tokenizer: Tokenizer) -> None:
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


def test_an_interrupt_in_the_model_discards_the_cache(
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
            list(raw.say(text + ", and the clocks were striking thirteen."))  # interrupted in the forward pass
    raw.config = SHORT
    assert ["".join(raw.say(text + ", def"))] == generate(neo, tokenizer, text + ", def", max_new_tokens=12)


def test_raw_mode_continues_the_line_and_an_empty_line_the_last_text(long: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(long, tokenizer, SHORT, raw=True)
    first, second = "".join(session.say("The sea")), "".join(session.say(""))
    assert [first + second] == generate(long, tokenizer, "The sea", max_new_tokens=24)
    assert "".join(session.say("The sea")) == first
    assert "An empty line" in talk(session, "/help")


def test_raw_mode_continues_past_the_context(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, GenerationConfig(max_new_tokens=30, ignore_eos=True), raw=True)
    screen = talk(session, "The sea", "", "", "")
    assert "the context is full: the oldest" in screen
    text = session._text
    assert "".join(session.say(""))
    assert session._prompt == text[-34:]  # 64 tokens less 30 for the continuation


def test_an_unknown_command_is_not_a_message(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, SHORT)
    screen = talk(session, "/foo", "/temprature 0.5", "/")
    assert "(/foo is not a command; did you mean /" in screen
    assert "(/temprature is not a command; did you mean /temperature? /help lists all)\n" in screen
    assert session.messages == []
    talk(session, " /foo")  # a space makes it a message
    assert session.messages[0] == Message("user", "/foo")
    raw = Session(neo, tokenizer, SHORT, raw=True)
    talk(raw, "/* a comment")
    assert tokenizer.decode(raw._text).startswith("/* a comment")


@pytest.mark.parametrize("raw", [False, True])
def test_help_lists_every_command(neo: Decoder, tokenizer: Tokenizer, raw: bool) -> None:
    screen = talk(Session(neo, tokenizer, SHORT, raw), "/help")
    assert all(f"{name} " in screen and meaning in screen for name, meaning in COMMANDS.items())


def test_temperature_is_shown_set_and_checked(neo: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(neo, tokenizer, SHORT)
    screen = talk(session, "/temperature", "/temperature 0.7", "/temperature -1", "/temperature hot", "/temperature")
    assert screen.count("(the temperature is 0)\n") == 1
    assert screen.count("(the temperature is 0.7)\n") == 2
    assert "(temperature: must be greater than or equal to 0, not -1.0)\n" in screen
    assert "(could not convert string to float: 'hot')\n" in screen
    assert session.config == SHORT.model_copy(update={"temperature": 0.7})


@pytest.mark.parametrize("seed", [3, None])
def test_retry_replaces_the_answer(long: Decoder, tokenizer: Tokenizer, seed: int | None) -> None:
    config = GenerationConfig(max_new_tokens=12, temperature=1.5, seed=seed)
    session = Session(long, tokenizer, config)
    assert "(there is no answer to replace yet)" in talk(session, "/retry")
    answers = []
    for line in ("sea?", "/retry", "/retry"):
        talk(session, "zq" * 200)  # refused, and forgotten
        talk(session, line)
        assert session.messages[0] == Message("user", "sea?")
        assert len(session.messages) == 2
        answers.append(session.messages[1].text)
    assert len(set(answers)) == 3
    talk(session, "day")  # the next turn continues the last answer
    assert [message.text for message in session.messages[:3]] == ["sea?", answers[-1], "day"]


def test_retry_in_raw_mode_and_at_temperature_zero(long: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(long, tokenizer, SHORT, raw=True)
    first, second = "".join(session.say("The sea")), "".join(session.say(""))
    assert "(the temperature is 0: the answer will be the same)" in talk(session, "/retry")
    assert tokenizer.decode(session._text) == "The sea" + first + second
    session.config = GenerationConfig(max_new_tokens=12, temperature=1.5, seed=1)
    talk(session, "/retry")
    assert tokenizer.decode(session._text).startswith("The sea" + first)
    assert tokenizer.decode(session._text) != "The sea" + first + second
    conversation = Session(long, tokenizer, SHORT)
    assert "(the temperature is 0: the answer will be the same)" in talk(conversation, "sea?", "/retry")


def test_a_retry_does_not_change_later_answers(long: Decoder, tokenizer: Tokenizer) -> None:
    session = Session(long, tokenizer, GenerationConfig(max_new_tokens=12, temperature=1.5, seed=1), raw=True)
    first, again = "".join(session.say("The sea")), "".join(session.retry())
    assert "".join(session.say("The sea")) == first != again


def test_an_answer_has_no_white_space_around_it(
    long: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "text_deltas", lambda *_: iter([(0, " "), (0, " Hello"), (0, " you ")]))
    session = Session(long, tokenizer, SHORT)
    assert list(session.say("sea?")) == ["Hello", " you "]
    assert session.messages[-1] == Message("assistant", "Hello you")


def test_save(long: Decoder, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, path = Session(long, tokenizer, SHORT), tmp_path / "talk é.jsonl"
    screen = talk(session, "sea?", f"/save {path}", f"/save {path}", "/save", f"/save {tmp_path}/nowhere/x")
    roles = [{"role": message.role, "content": message.text} for message in session.messages]
    assert json.loads(path.read_text(encoding="utf-8")) == {"messages": roles}
    assert f"(saved to {path})\n" in screen
    assert f"({path} cannot be written (File exists): choose another name)\n" in screen
    assert "(give a file name: /save FILE)\n" in screen
    assert "cannot be written (No such file or directory): choose another name)\n" in screen
    monkeypatch.chdir(tmp_path)
    assert "(saved to ~no-such-user)\n" in talk(session, "/save ~no-such-user")  # a file name, as in a shell
    raw = Session(long, tokenizer, SHORT, raw=True)
    talk(raw, "The sea", f"/save {tmp_path / 'raw.txt'}")
    assert (tmp_path / "raw.txt").read_text(encoding="utf-8").startswith("The sea")
