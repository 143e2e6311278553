"""Cached decoding computes what the full forward pass computes, for every family, past the window, to the limit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.generation.batch import next_logits
from neolm.generation.cache import DecoderCache
from neolm.models.attention import KeyValueCache
from neolm.models.decoder import Decoder

CLOSE = {"rtol": 0.0, "atol": 1e-5}


def random_ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 310, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def full(model: Decoder, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]


@torch.inference_mode()
def read(model: Decoder, cache: DecoderCache, rows: list[list[int]]) -> torch.Tensor:
    return next_logits(model, cache, rows)


def test_it_is_the_cache_that_attention_asks_for(neo: Decoder) -> None:
    cache: KeyValueCache = DecoderCache(neo.config, 1, 4)
    assert cache


@pytest.mark.parametrize("start", [1, 8, 9, 30])
def test_token_by_token_to_the_context_limit(model: Decoder, start: int) -> None:
    ids = random_ids(64)
    expected = full(model, ids)
    cache = DecoderCache(model.config, 1, 64)
    for length in range(start, 65):
        logits = read(model, cache, [ids[:length]])
        torch.testing.assert_close(logits[0], expected[length - 1], **CLOSE)
    assert cache.lengths == [64]


@pytest.mark.parametrize("cuts", [[20, 40, 64], [3, 5, 6, 30, 31, 47], [8, 16, 24], [7, 64], [1, 9, 18]])
def test_continuing_in_chunks_equals_one_prefill(model: Decoder, cuts: list[int]) -> None:
    ids = random_ids(64, seed=1)
    expected = full(model, ids)
    cache = DecoderCache(model.config, 1, 64)
    for cut in cuts:
        torch.testing.assert_close(read(model, cache, [ids[:cut]])[0], expected[cut - 1], **CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_ragged_rows_compute_what_they_compute_alone(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """Any lengths, any chunks, any window, rows dropped on the way."""
    family = data.draw(st.sampled_from(["gpt2", "gpt-neo", "gpt-neox"]))
    window = {"window_size": data.draw(st.integers(1, 40))} if family == "gpt-neo" else {}
    model = make(family, context=32, **window)
    rows = [random_ids(32, seed) for seed in range(data.draw(st.integers(1, 4)))]
    expected = [full(model, ids) for ids in rows]
    held = [0] * len(rows)
    cache = DecoderCache(model.config, len(rows), 32)
    while rows and max(held) < 32:
        most = data.draw(st.sampled_from([1, 1, 12, 32]))
        held = [n + data.draw(st.integers(1, min(most, 32 - n))) for n in held]
        logits = read(model, cache, [ids[:n] for ids, n in zip(rows, held, strict=True)])
        wanted = torch.stack([values[n - 1] for values, n in zip(expected, held, strict=True)])
        torch.testing.assert_close(logits, wanted, **CLOSE)
        if len(rows) > 1 and data.draw(st.booleans()):
            gone = data.draw(st.integers(0, len(rows) - 1))
            cache.drop(gone)
            for column in (rows, expected, held):
                column[gone] = column[-1]
                column.pop()


def test_local_layers_keep_only_their_window(make: Callable[..., Decoder]) -> None:
    model = make("gpt-neo", context=64)
    cache = DecoderCache(model.config, 1, 64)
    read(model, cache, [random_ids(60)])
    assert [keys.shape[2] for keys in cache._keys] == [64, 8]


def test_taking_tokens_back(model: Decoder) -> None:
    ids, other = random_ids(40, seed=2), random_ids(40, seed=3)
    cache = DecoderCache(model.config, 1, 64)
    read(model, cache, [ids[:7]])
    assert cache.rewind(0, 4)  # not yet longer than the window: exact
    mixed = ids[:4] + other[4:]
    torch.testing.assert_close(read(model, cache, [mixed])[0], full(model, mixed)[-1], **CLOSE)
    if model.config.family == "gpt-neo":
        assert not cache.rewind(0, 39)
        turned = DecoderCache(model.config, 1, 64)
        read(model, turned, [ids[:9]])
        assert not turned.rewind(0, 5)
        assert turned.lengths == [9]
    else:
        assert cache.rewind(0, 10)
        again = mixed[:10] + ids[10:]
        torch.testing.assert_close(read(model, cache, [again])[0], full(model, again)[-1], **CLOSE)


def test_bfloat16_decoding_is_as_near_to_fp32_as_bfloat16_itself(make: Callable[..., Decoder]) -> None:
    model = make("gpt-neo")
    half = copy.deepcopy(model).bfloat16()
    ids = random_ids(40)
    cache = DecoderCache(half.config, 1, 64)
    expected, uncached = full(model, ids), full(half, ids).float()
    decoded = torch.stack([read(half, cache, [ids[:length]])[0] for length in range(1, 41)])
    assert decoded.dtype == torch.float32
    assert (decoded - expected).abs().max() < 2 * (uncached - expected).abs().max()
