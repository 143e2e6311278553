"""Tokens know their characters of the raw text, and windows hold every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neolm.prediction.text_tokens import cut_windows, text_tokens
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

TEXT = "Ünïcode  café cafe\u0301s, 東京 🍞🏽 x\u200b\x07 [SEP] ½ \ud83d. İstanbul"


@pytest.fixture(scope="module", params=["tok_albert", "tok_bert", "tok_bert_cased"])
def tokenizer(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = shared_data / request.param
    packed = folder / "tokenizer.json.zst"
    if not packed.is_file():
        return load_tokenizer(folder)
    place = tmp_path_factory.mktemp(request.param)
    with packed.open("rb") as source, (place / "tokenizer.json").open("wb") as target:
        zstandard.ZstdDecompressor().copy_stream(source, target)
    return load_tokenizer(place)


def test_offsets_are_characters_of_the_raw_text(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)  # lower case, without accents
    tokens = text_tokens(tokenizer, TEXT)
    assert tokens.ids == tokenizer.encode(TEXT)
    words = [TEXT[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    assert "".join(words) == "".join(TEXT.replace("\u200b\x07", "").split())
    first, last = tokens.covering(TEXT.index("cafe\u0301s"), TEXT.index("cafe\u0301s") + 6) or (0, 0)
    assert TEXT[tokens.starts[first] : tokens.ends[last]] == "cafe\u0301s"


@given(st.text(max_size=40))
def test_every_tokenizer_keeps_the_order_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    tokens = text_tokens(tokenizer, text)
    assert list(tokens.ids) == tokenizer.encode(text)
    assert (np.diff(tokens.starts[tokens.visible]) >= 0).all()
    for start, end in zip(tokens.starts, tokens.ends, strict=True):
        assert 0 <= start <= end <= len(text)
        assert not start < end or (text[start].strip() and text[end - 1].strip())


def test_a_unigram_token_does_not_cover_the_space_in_front_of_it(shared_data: Path) -> None:
    tokens = text_tokens(load_tokenizer(shared_data / "tok_albert"), "to  the town")
    assert list(zip(tokens.starts, tokens.ends, strict=True)) == [(0, 2), (4, 7), (8, 12)]


def test_characters_without_tokens_are_covered_by_none(vocabulary: Path) -> None:
    tokens = text_tokens(load_tokenizer(vocabulary), "a \x07 b")
    assert tokens.covering(2, 3) is None
    assert tokens.covering(0, 5) == (0, 1)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int | None]:
    size = draw(st.integers(1, 12))
    return draw(st.integers(1, 60)), size, draw(st.none() | st.integers(1, size))


@given(sizes())
def test_every_token_is_in_some_window_and_in_the_one_with_most_context(given_: tuple[int, int, int | None]) -> None:
    length, size, stride = given_
    windows = cut_windows(length, size, stride)
    parts = [windows.tokens(number) for number in range(len(windows))]
    assert {token for part in parts for token in part} == set(range(length))
    assert all(len(part) == size for part in parts[:-1])
    assert 0 < len(parts[-1]) <= size
    if stride is not None:
        assert all(part.start == number * stride for number, part in enumerate(parts))
    for token, owner in enumerate(windows.with_most_context()):
        contexts = [
            min(token - part.start, part.stop - 1 - token) + 0.01 * len(part) if token in part else -1.0
            for part in parts
        ]
        assert owner == contexts.index(max(contexts))


def test_one_window_holds_a_short_text() -> None:
    assert cut_windows(5, 5, 1).starts == [0]
    assert cut_windows(6, 5, None).starts == [0, 2]
    assert cut_windows(0, 5, None).starts == [0]
