"""Document scores: exact to the token and the byte, whatever the text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError, NonFiniteError
from neolm.evaluation.measurement import likelihood_values
from neolm.evaluation.perplexity import (
    DocumentScore,
    document_scores,
    text_bytes,
    window_and_stride,
    word_count,
)
from neolm.metrics.intervals import Interval
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

WORDS = ["the", "clock", "and", "the", "water", "of", "April", "were", "striking", "the", "cold", "sea"]


def text_of(tokenizer: Tokenizer, count: int) -> str:
    """A text of exactly `count` tokens: bytes that no merge touches."""
    text = "".join("~^"[i % 2] for i in range(count))
    assert len(tokenizer.encode(text)) == count
    return text


def intervals(scores: Sequence[DocumentScore]) -> dict[str, Interval]:
    groups = [str(number) for number in range(len(scores))]
    return {name: values.interval() for name, values in likelihood_values(scores, groups).items()}


def naive(model: Decoder, ids: list[int], window: int, stride: int) -> float:
    """Negative log-likelihood by a pass of its own for each token, its context by the definition in words."""
    cost, end = 0.0, 0
    with torch.inference_mode():
        for target in range(1, len(ids)):
            if target > end:  # the window moves on
                end = min(end + (stride if end else window), len(ids) - 1)
            context = ids[max(0, end - window) : target]
            cost -= float(model(torch.tensor([context]))[0, -1].double().log_softmax(0)[ids[target]])
    return cost


@pytest.mark.parametrize(("window", "stride"), [(32, 16), (32, 32), (32, 1), (10, 7), (1, 1)])
def test_scores_equal_a_naive_pass_at_every_length(
    neo: Decoder, tokenizer: Tokenizer, window: int, stride: int
) -> None:
    lengths = [0, 1, window - 1, window, window + 1, window + stride, 3 * window + 2]
    texts = [text_of(tokenizer, length) for length in lengths]
    scores = document_scores(neo, tokenizer, texts, window, stride, batch_size=3)
    for text, length, score in zip(texts, lengths, scores, strict=True):
        ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
        assert score.tokens == length
        assert score.bytes == length
        assert score.negative_log_likelihood == pytest.approx(naive(neo, ids, window, stride), rel=1e-5, abs=1e-5)


def test_batches_and_neighbours_change_no_score(neo: Decoder, tokenizer: Tokenizer) -> None:
    texts = [" ".join(WORDS[: n % 11] * (n // 3)) for n in range(20)]
    alone = [document_scores(neo, tokenizer, [text])[0] for text in texts]
    for batch_size in (1, 4, 64):
        together = document_scores(neo, tokenizer, texts, batch_size=batch_size)
        for one, other in zip(alone, together, strict=True):
            assert one.negative_log_likelihood == pytest.approx(other.negative_log_likelihood, rel=1e-6, abs=1e-5)
            assert (one.tokens, one.bytes, one.words) == (other.tokens, other.bytes, other.words)


def test_a_uniform_model_costs_the_same_at_every_stride(uniform: Decoder, tokenizer: Tokenizer) -> None:
    """Of a uniform model, each token costs log2(V) bits, at every stride."""
    text = " ".join(WORDS * 5)
    for stride in (1, 5, 32):
        [score] = document_scores(uniform, tokenizer, [text], stride=stride)
        assert score.negative_log_likelihood / math.log(2) == pytest.approx(9 * score.tokens, rel=1e-6)
    numbers = intervals([score])
    assert numbers["bits_per_byte"].value == pytest.approx(9 * score.tokens / len(text), rel=1e-6)
    assert numbers["token_perplexity"].value == pytest.approx(512, rel=1e-5)
    assert numbers["loss"].value == pytest.approx(math.log(512), rel=1e-6)
    words = score.words
    assert numbers["word_perplexity"].value == pytest.approx(512 ** (score.tokens / words), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("", b""),
        ("Größe 🙂", "Größe 🙂".encode()),
        ("a<|endoftext|>b", b"a<|endoftext|>b"),
        ("cafe\u0301\r\n\x00", "cafe\u0301\r\n\x00".encode()),
        (b"ab\xff\xfe\xc3".decode("utf-8", "surrogateescape"), b"ab\xff\xfe\xc3"),
        ("a\ud800b", b"a\xed\xa0\x80b"),
        ("\ud83d\ude42 \udcff", b"\xed\xa0\xbd\xed\xb9\x82 \xed\xb3\xbf"),
    ],
)
def test_bytes_are_those_of_the_raw_text_and_all_of_them_are_scored(
    uniform: Decoder, tokenizer: Tokenizer, text: str, raw: bytes
) -> None:
    assert text_bytes(text) == raw
    [score] = document_scores(uniform, tokenizer, [text])
    assert score.bytes == len(raw)
    assert score.tokens == len(tokenizer.encode_bytes(raw))
    assert score.negative_log_likelihood == pytest.approx(score.tokens * math.log(512), rel=1e-6)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=30), min_size=1, max_size=4))
def test_any_text_has_a_finite_score(texts: list[str]) -> None:
    model, tokenizer = ANY["model"], ANY["tokenizer"]
    for text, score in zip(texts, document_scores(model, tokenizer, texts), strict=True):
        assert score.bytes == len(text_bytes(text))
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(text_bytes(text))) == text_bytes(text)
        assert math.isfinite(score.negative_log_likelihood)
        assert (score.tokens == 0) == (text == "")


ANY: dict[str, object] = {}


@pytest.fixture(autouse=True)
def _keep(neo: Decoder, tokenizer: Tokenizer) -> None:
    """Hypothesis takes no fixtures that change; these do not."""
    ANY.update(model=neo, tokenizer=tokenizer)


@given(st.text(max_size=60))
def test_words_are_counted_as_the_harness_counts_them(text: str) -> None:
    assert word_count(text) == len(re.split(r"\s+", text)) >= 1


def test_empty_documents_do_not_change_the_scores(neo: Decoder, tokenizer: Tokenizer) -> None:
    scores = document_scores(neo, tokenizer, ["", "the sea", "", "April"])
    full = [score for score in scores if score.tokens]
    assert scores[0] == DocumentScore(0.0, 0, 0, 1)
    for name in ("loss", "token_perplexity", "bits_per_byte"):
        assert intervals(scores)[name] == intervals(full)[name]
    with pytest.raises(InputError, match="no text"):
        intervals([scores[0]])
    with pytest.raises(InputError, match="no text"):
        intervals([])


def test_a_perplexity_beyond_a_float_is_null_in_json() -> None:
    numbers = intervals([DocumentScore(5000.0, 1000, 1000, 1), DocumentScore(4000.0, 1000, 1000, 1)])
    assert numbers["word_perplexity"].as_json() == {"value": None, "low": None, "high": None}
    assert numbers["token_perplexity"].value == pytest.approx(math.exp(4.5))


def test_window_and_stride_must_fit() -> None:
    assert window_and_stride(32, None, None) == (32, 16)
    assert window_and_stride(32, 8, None) == (8, 4)
    assert window_and_stride(1, None, None) == (1, 1)
    with pytest.raises(InputError, match=r"window: 33 .* context of 32"):
        window_and_stride(32, 33, None)
    with pytest.raises(InputError, match=r"stride: 9 .* window of 8"):
        window_and_stride(32, 8, 9)


def test_a_foreign_tokenizer_is_refused(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        document_scores(make(vocab_size=300), tokenizer, ["the sea"])


def test_a_broken_model_is_named_with_the_document(tokenizer: Tokenizer, make: Callable[..., Decoder]) -> None:
    model = make("gpt2", seed=9)
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    with pytest.raises(NonFiniteError, match="document b"):
        document_scores(model, tokenizer, ["", "the sea"], names=["a", "b"])
