"""Text is released as soon as it is final, and does not depend on how the bytes are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.generation.text import TextStream


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.one_of(st.binary(max_size=30), st.text(max_size=15).map(str.encode)), st.lists(st.integers(0, 99)))
def test_any_bytes_split_anywhere_decode_as_one(data: bytes, places: list[int]) -> None:
    stream = TextStream()
    text = "".join(stream.feed(part) for part in cut(data, places)) + stream.finish()
    assert text == data.decode("utf-8", "replace")


@given(st.text("abé", max_size=25), st.text("abé", min_size=1, max_size=4), st.lists(st.integers(0, 99)))
def test_a_stop_string_is_found_across_tokens(text: str, stop: str, places: list[int]) -> None:
    stream, shown, whole = TextStream([stop]), "", text.partition(stop)[0]
    for part in cut(text.encode(), places):
        shown += stream.feed(part)
        assert whole.startswith(shown)  # released characters are final
    shown += stream.finish()
    assert shown == whole
    assert stream.stopped == (stop in text)


@given(st.text("ab \n", max_size=30), st.text("ab \n", min_size=1, max_size=3), st.lists(st.integers(0, 30)))
def test_later_stop_strings_are_not_found_in_leading_white_space(text: str, stop: str, places: list[int]) -> None:
    stream, shown = TextStream(later=[stop]), ""
    blank = len(text) - len(text.lstrip())
    whole = text[:blank] + text[blank:].partition(stop)[0]
    for part in cut(text.encode(), places):
        shown += stream.feed(part)
    assert shown + stream.finish() == whole
    assert stream.stopped == (whole != text)


def test_a_character_split_over_tokens_waits_for_its_last_byte() -> None:
    stream = TextStream()
    assert [stream.feed(bytes([byte])) for byte in "é🙂!".encode()] == ["", "é", "", "", "", "🙂", "!"]


def test_only_a_possible_stop_string_waits() -> None:
    stream = TextStream(["\nUser:", "END"])
    assert [stream.feed(part) for part in (b"a\n", b"Us", b"e ", b"EN", b"D!")] == ["a", "", "\nUse ", "", ""]
    assert stream.stopped
    assert (stream.feed(b"more"), stream.finish()) == ("", "")


def test_the_earliest_of_several_stop_strings_wins() -> None:
    stream = TextStream(["cd", "bcde"])
    assert stream.feed(b"abcdef") == "a"


@pytest.mark.parametrize(("data", "rest"), [(b"\xf0\x9f", "\ufffd"), (b"ok E", "E")])
def test_finish_returns_the_pending_text(data: bytes, rest: str) -> None:
    stream = TextStream(["EN"])
    stream.feed(data)
    assert stream.finish() == rest
