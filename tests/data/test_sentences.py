"""Division of raw text into sentences: by hand on hard cases, and as properties of any text."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.data.sentences import MAX_CHARACTERS, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        [
            "He met Mr. Smith at 3.5 km.",
            '"Why?" he asked.',
            '"No."',
            "She left!",
            "J. R. R. Tolkien wrote it...",
            "So?!",
        ],
        [
            "1. Introduction.",
            "The U.S. Army arrived at 5 p.m. on foot.",
            "See Fig. 3 (or Figs. 4 and 5).",
            "(Next.)",
            "No.",
        ],
        ["It was 1984.", "Nobody knew… or so they said.", "Wait . . . what?", "Take one, e.g. this, i.e. that."],
        ["你好。", "“他说：好！”", "再见？", "是。"],
        ["「行く。」", "彼は言った。"],
        ["Das ist gut.", "«Vraiment ?»", "¿Qué?", "Нет!", "Да."],
    ],
)
def test_sentences_on_one_line(sentences: list[str]) -> None:
    joint = "" if sentences[0][0] in "你「" else " "
    assert split_sentences(joint.join(sentences)) == sentences
    assert split_sentences("\n".join(sentences)) == sentences


def test_lines_end_sentences_unless_they_are_wrapped() -> None:
    text = "Players\nFirst-team squad\n\n  The line was\nwrapped by hand. Then\n it ended\n\nlower case after a blank"
    assert split_sentences(f"{text} line\r\nA\x0bB") == [
        "Players",
        "First-team squad",
        "The line was\nwrapped by hand.",
        "Then\n it ended",
        "lower case after a blank line",
        "A",
        "B",
    ]


def test_a_text_without_sentence_ends_is_cut_at_white_space() -> None:
    words = [f"w{number}" for number in range(100_000)]
    found = split_sentences(" ".join(words))
    assert " ".join(found).split() == words
    assert all(MAX_CHARACTERS - 10 < len(sentence) <= MAX_CHARACTERS for sentence in found[:-1])
    assert [len(sentence) for sentence in split_sentences("x" * 4500)] == [1000, 1000, 1000, 1000, 500]


@given(st.text(st.sampled_from("aB1 .!?…。」\"')\n\t,é\x85") | st.characters(), max_size=300))
def test_only_white_space_is_left_out(text: str) -> None:
    sentences = split_sentences(text)
    assert re.sub(r"\s", "", "".join(sentences)) == re.sub(r"\s", "", text)
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)
    assert [again for sentence in sentences for again in split_sentences(sentence)][:1] == sentences[:1]


def test_time_grows_with_the_length_only() -> None:
    for text in ("\n", ". ", "Mr. ", "1. ", " ", ".", "。", "a", '"', ".\n", '."\n('):
        seconds = []
        for size in (20_000, 320_000):
            began = time.process_time()
            split_sentences(text * (size // len(text)))
            seconds.append(time.process_time() - began)
        assert seconds[1] < 80 * seconds[0] + 0.2, text  # quadratic: 256
