"""Encoding by words gives the ids of the library, whatever the text and whatever was met before."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.data import word_cache as module
from neolm.data.word_cache import WordCache, encodes_words
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

PIECES = st.sampled_from(
    [
        *("the cat", " sat", "'s", "'ll", "'re", "'", "''", " '", "'x", "cold.", "12", " 7", "a1", "_b", "x" * 70),
        *(
            "\n",
            "\n\n",
            " ",
            "  ",
            "\t",
            "\r\n",
            "\x0b",
            "\x1c",
            "\x00",
            "\x7f",
            "\u00a0",
            "\u3000",
            "\u0085",
            "\u2028",
        ),
        *("\u2028", "é", "½", "日本", "e\u0301", "\U0001f600", "<|endoftext|>", "\ud800", "ſ", "²"),
    ]
)
TEXTS = st.lists(st.lists(PIECES | st.text(max_size=4), max_size=25).map("".join), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        iter(["the cat's cold, they'll sit on 12 mats.\n\n  It was 7 é 日本 ½ <|endoftext|>" * 20]), 300
    )


@pytest.fixture(scope="module")
def cache(tokenizer: Tokenizer) -> WordCache:
    assert encodes_words(tokenizer)
    return WordCache(tokenizer)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_the_ids_are_those_of_the_library(tokenizer: Tokenizer, cache: WordCache, texts: list[str]) -> None:
    expected = tokenizer.encode_batch(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLOTS", 256)
        fresh = WordCache(tokenizer)
    for one in (cache, fresh):
        assert [ids.tolist() for ids in one.encode(texts)] == expected


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_every_ascii_text(tokenizer: Tokenizer, cache: WordCache, text: str) -> None:
    assert cache.encode([text, text])[1].tolist() == tokenizer.encode(text)


def test_a_full_cache_is_emptied(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
    texts = [" ".join(words[start : start + 40]) for start in range(0, 400, 20)]
    for name, size in (("SLOTS", 64), ("WORD_BYTES", 100)):
        monkeypatch.setattr(module, name, size)
        cache = WordCache(tokenizer)
        for text in texts:
            assert cache.encode([text, ""])[0].tolist() == tokenizer.encode(text)
            assert cache._used <= 32


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
    ],
)
def test_other_tokenizers_are_left_to_the_library(tokenizer: Tokenizer, change: dict[str, object]) -> None:
    content = json.loads(tokenizer.backend.to_str()) | change
    assert not encodes_words(Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content))))
    other = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    other.add_tokens(["  "])
    assert not encodes_words(Tokenizer(other))


def test_no_text(cache: WordCache) -> None:
    assert [ids.tolist() for ids in cache.encode(["", ""])] == [[], []]
    assert cache.encode(["the cat"])[0].dtype == np.uint32
