"""Cached decoding equals the full forward pass for every family, past the window, to the context limit.

This holds for every model runner. The logits of the kernels have the same bits alone and in a batch.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import quantize

from neolm.generation import kernel_runner
from neolm.generation.batch import next_logits
from neolm.generation.cuda_graph_runner import CudaGraphRunner
from neolm.generation.kernel_runner import MAX_KERNEL_TOKENS, KernelRunner, longest_decode, why_not
from neolm.generation.kv_cache import BatchCache, KVCache, Span, block_bytes, fitting_context, kv_cache_dtype
from neolm.generation.model_runner import ModelRunner, TorchRunner, cache_view, model_runner_for
from neolm.kernels.attention import BLOCK_SIZE
from neolm.kernels.thread_pool import thread_pool
from neolm.models.attention import KeyValueCache
from neolm.models.decoder import Decoder

CLOSE = {"rtol": 0.0, "atol": 1e-5}
RUNNERS: dict[str, Callable[[Decoder], ModelRunner]] = {
    "torch": TorchRunner,
    "graphs": CudaGraphRunner,
    "kernels": lambda model: KernelRunner(model, max_decode_tokens=64),
    "both": lambda model: KernelRunner(model, max_decode_tokens=4),
}


def random_ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 310, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def full(model: Decoder, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]


@pytest.fixture(params=RUNNERS)
def make_runner(request: pytest.FixtureRequest) -> Callable[[Decoder], ModelRunner]:
    return RUNNERS[request.param]


def test_the_view_is_a_key_value_cache(neo: Decoder) -> None:
    cache = BatchCache(neo, 1, 4)
    view: KeyValueCache = cache_view(cache.kv_cache, cache.spans([[1, 2]]), neo.device)
    assert view


@pytest.mark.parametrize("start", [1, 8, 9, 30])
def test_token_by_token_to_the_context_limit(
    model: Decoder, start: int, make_runner: Callable[[Decoder], ModelRunner]
) -> None:
    ids, runner = random_ids(64), make_runner(model)
    expected = full(model, ids)
    cache = BatchCache(model, 1, 64)
    for length in range(start, 65):
        logits = next_logits(runner, cache, [ids[:length]])
        torch.testing.assert_close(logits[0], expected[length - 1], **CLOSE)
    assert cache.lengths == [64]


@pytest.mark.parametrize("cuts", [[20, 40, 64], [3, 5, 6, 30, 31, 47], [8, 16, 24], [7, 64], [1, 9, 18]])
def test_continuing_in_chunks_equals_one_prefill(
    model: Decoder, cuts: list[int], make_runner: Callable[[Decoder], ModelRunner]
) -> None:
    ids, runner = random_ids(64, seed=1), make_runner(model)
    expected = full(model, ids)
    cache = BatchCache(model, 1, 64)
    for cut in cuts:
        torch.testing.assert_close(next_logits(runner, cache, [ids[:cut]])[0], expected[cut - 1], **CLOSE)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ragged_rows_compute_what_they_compute_alone(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """Any lengths, chunks, window and head size; rows are dropped and tokens removed on the way."""
    family = data.draw(st.sampled_from(["gpt2", "gpt-neo", "gpt-neox", "gpt-neox-sequential"]))
    heads = data.draw(st.sampled_from([1, 2, 4]))
    fields = {"num_heads": heads, "hidden_size": heads * data.draw(st.sampled_from([4, 6, 18]))}
    window = {"window_size": data.draw(st.integers(1, 40))} if family == "gpt-neo" else {}
    activation = data.draw(st.sampled_from(["gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh"]))
    model = make(family, context=32, activation=activation, **window, **fields)
    runner = RUNNERS[data.draw(st.sampled_from(sorted(RUNNERS)))](model)
    rows = [random_ids(32, seed) for seed in range(data.draw(st.integers(1, 4)))]
    expected = [full(model, ids) for ids in rows]
    held = [0] * len(rows)
    cache = BatchCache(model, len(rows), 32)
    while rows and max(held) < 32:
        most = data.draw(st.sampled_from([1, 1, 12, 32]))
        held = [n + data.draw(st.integers(1, min(most, 32 - n))) for n in held]
        logits = next_logits(runner, cache, [ids[:n] for ids, n in zip(rows, held, strict=True)])
        wanted = torch.stack([values[n - 1] for values, n in zip(expected, held, strict=True)])
        # At this width and spread torch's own forward pass in fp32 has errors up to 3e-5.
        torch.testing.assert_close(logits, wanted, rtol=0.0, atol=1e-4)
        if len(rows) > 1 and data.draw(st.booleans()):
            dropped = data.draw(st.integers(0, len(rows) - 1))
            cache.drop(dropped)
            for column in (rows, expected, held):
                column[dropped] = column[-1]
                column.pop()
        back = data.draw(st.integers(0, min(held)))
        if data.draw(st.booleans()) and back:
            cache.rewind(0, back)
            held[0] = back


def test_blocks_in_any_order_and_logits_of_several_tokens(
    model: Decoder, make_runner: Callable[[Decoder], ModelRunner]
) -> None:
    ids = [random_ids(40, seed=5), random_ids(23, seed=6)]
    cache = KVCache(model.config, 9, torch.float32, model.device)
    tables = [np.array([7, 2, 5]), np.array([0, 8, 0])]
    runner = make_runner(model)
    runner.run(cache, [Span(ids[0][:30], 0, tables[0], 0), Span(ids[1][:5], 0, tables[1], 0)])
    logits = runner.run(cache, [Span(ids[0][30:], 30, tables[0], 10), Span(ids[1][5:], 5, tables[1], 2)])
    expected = torch.cat([full(model, ids[0])[30:], full(model, ids[1])[-2:]])
    torch.testing.assert_close(logits, expected, **CLOSE)
    for count in (0, 1):  # of two single tokens
        spans = [Span([ids[n][-1]], len(ids[n]) - 1, tables[n], n * count) for n in range(2)]
        torch.testing.assert_close(runner.run(cache, spans), expected[len(expected) - count :], **CLOSE)


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
def test_the_batch_changes_no_bit_of_a_row(make: Callable[..., Decoder], form: str) -> None:
    """Alone, in a batch, at once or in chunks: the kernels compute the same logits."""
    model = copy.deepcopy(make("gpt-neo", context=64, hidden_size=96))
    model = quantize(model, form) if form.startswith("int") else model.to(getattr(torch, form))
    runner = KernelRunner(model, max_decode_tokens=32)
    rows = [random_ids(20 + n, seed=n) for n in range(11)]
    cache = BatchCache(model, 11, 64)
    next_logits(runner, cache, [ids[:-3] for ids in rows])
    together = next_logits(runner, cache, rows)
    for ids, expected in zip(rows, together, strict=True):
        alone = BatchCache(model, 1, 64)
        for cut in (5, 6, len(ids)):
            logits = next_logits(runner, alone, [ids[:cut]])
        assert torch.equal(logits[0], expected)


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("family", ["gpt-neo", "gpt-neox"])
def test_threads_change_no_bit(
    make: Callable[..., Decoder], form: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other tests run with one thread; here several divide every layer."""
    model = copy.deepcopy(make(family, context=64, hidden_size=96, num_layers=3))
    model = quantize(model, form) if form.startswith("int") else model.to(getattr(torch, form))
    rows = [random_ids(12 + n, seed=n) for n in range(5)]
    found = []
    for size in (1, 2, 3):
        monkeypatch.setattr(kernel_runner, "thread_pool", lambda size=size: thread_pool(size))
        runner = KernelRunner(model, max_decode_tokens=32)
        for _ in range(1 if size == 1 else 8):  # a race shows only sometimes
            cache = BatchCache(model, 5, 64)
            next_logits(runner, cache, [ids[:-2] for ids in rows])
            found.append(next_logits(runner, cache, rows))
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_the_choice_of_the_path_is_fixed(make: Callable[..., Decoder]) -> None:
    model = make("gpt2")
    assert {longest_decode(model) for _ in range(5)} == {32}
    assert longest_decode(quantize(copy.deepcopy(model), "int8")) in (32, 128)
    state = torch.get_rng_state()
    KernelRunner(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_long_span_in_chunks(make: Callable[..., Decoder]) -> None:
    model = make("gpt-neox", context=256)
    runner = KernelRunner(model, max_decode_tokens=200)
    ids = random_ids(180)
    logits = runner.run(BatchCache(model, 1, 256).kv_cache, [Span(ids, 0, np.arange(16), 70)])
    torch.testing.assert_close(logits, full(model, ids)[-70:], rtol=0.0, atol=1e-4)


def test_more_tokens_than_one_call_of_the_kernels_takes(neo: Decoder) -> None:
    runner = KernelRunner(neo, max_decode_tokens=30)
    rows = [random_ids(27, seed=n) for n in range(7)]
    assert sum(map(len, rows)) > 2 * MAX_KERNEL_TOKENS
    logits = next_logits(runner, BatchCache(neo, 7, 64), rows)
    expected = torch.stack([full(neo, ids)[-1] for ids in rows])
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_graphs_of_one_cache_are_not_used_with_another(neo: Decoder) -> None:
    runner = CudaGraphRunner(neo)
    caches = [runner.cache(1, 64), runner.cache(1, 64)]  # the runner's own is in use, so the second is new
    for length in (20, 21, 22):
        for seed, cache in enumerate(caches):
            ids = random_ids(length, seed)
            torch.testing.assert_close(next_logits(runner, cache, [ids])[0], full(neo, ids)[-1], **CLOSE)
    own = caches[0].kv_cache
    del caches, cache
    assert runner.cache(1, 48).kv_cache is own


def test_padding_of_a_short_span_stays_within_the_context(model: Decoder) -> None:
    runner, cache, rows = TorchRunner(model), BatchCache(model, 2, 64), [random_ids(64), random_ids(12, seed=1)]
    next_logits(runner, cache, [rows[0][:-1], rows[1][:2]])
    expected = torch.stack([full(model, ids)[-1] for ids in rows])
    torch.testing.assert_close(next_logits(runner, cache, rows), expected, **CLOSE)


def test_rewind(model: Decoder) -> None:
    ids, other = random_ids(40, seed=2), random_ids(40, seed=3)
    cache, runner = BatchCache(model, 1, 64), model_runner_for(model)
    next_logits(runner, cache, [ids])
    cache.rewind(0, 4)
    mixed = ids[:4] + other[4:]
    torch.testing.assert_close(next_logits(runner, cache, [mixed])[0], full(model, mixed)[-1], **CLOSE)
    cache.rewind(0, 100)
    assert cache.lengths == [40]


@pytest.mark.parametrize("runner", RUNNERS)
def test_bfloat16_decoding_is_as_near_to_fp32_as_bfloat16_itself(make: Callable[..., Decoder], runner: str) -> None:
    model = make("gpt-neo")
    half = copy.deepcopy(model).bfloat16()
    ids = random_ids(40)
    cache = BatchCache(half, 1, 64)
    expected, uncached = full(model, ids), full(half, ids).float()
    half_runner = RUNNERS[runner](half)
    decoded = torch.stack([next_logits(half_runner, cache, [ids[:length]])[0] for length in range(1, 41)])
    assert decoded.dtype == torch.float32
    assert (decoded - expected).abs().max() < 2 * (uncached - expected).abs().max()


def test_models_that_the_kernels_cannot_run_go_to_torch(make: Callable[..., Decoder]) -> None:
    model = make("gpt2")
    assert why_not(model) is None
    assert isinstance(model_runner_for(copy.deepcopy(model).double()), TorchRunner)
    odd = make("gpt2", hidden_size=9, num_heads=3, intermediate_size=7)
    assert isinstance(model_runner_for(odd), KernelRunner)
    assert "odd width" in str(why_not(copy.deepcopy(odd).bfloat16()))


def test_block_bytes_is_the_memory_of_a_block(neo: Decoder) -> None:
    cache = KVCache(neo.config, 3, torch.bfloat16, neo.device)
    allocated = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert allocated == 4 * block_bytes(neo.config, torch.bfloat16)
    assert BLOCK_SIZE == 16


def test_a_text_is_as_long_as_memory_allows(make: Callable[..., Decoder]) -> None:
    config = make("gpt-neox").config
    block = block_bytes(config, torch.float32)
    assert fitting_context(config, torch.float32, 4 * block) == (64, "")  # the whole context
    context, reason = fitting_context(config, torch.float32, 3.9 * block)
    assert context == 48
    assert reason.startswith("texts are limited to 48 tokens of the context of 64 (config.json)")
    assert fitting_context(config, torch.float32, 0)[0] == 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_a_kv_cache_takes_memory_only_where_it_is_written(make: Callable[..., Decoder]) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    config, before = make("gpt-neox").config, resident()
    cache = KVCache(config, 2**30 // block_bytes(config, torch.bfloat16), torch.bfloat16, torch.device("cpu"))
    assert resident() - before < 2**28
    assert all(tensor.data_ptr() % 64 == 0 for tensor in (*cache.keys, *cache.values))
    assert not any(tensor[-1].any() for tensor in (*cache.keys, *cache.values))


def test_rotary_tables_grow_with_the_text(make: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("gpt-neox", context=2**24)
    ids, logits = random_ids(150), []
    for at_first in (2**16, 16):
        monkeypatch.setattr(kernel_runner, "_ROTARY_POSITIONS", at_first)
        runner, cache = KernelRunner(model, max_decode_tokens=1), BatchCache(model, 1, 160)
        assert runner._model.rotary.shape[1] == at_first
        logits.append(torch.cat([next_logits(runner, cache, [ids[:end]]) for end in (100, 101, 149, 150)]))
    assert runner._model.rotary.shape[1] == 256
    assert torch.equal(*logits)


def test_the_type_of_the_cache(neo: Decoder) -> None:
    types = {torch.float32: torch.float32, torch.float64: torch.float32}
    types |= {dtype: dtype for dtype in (torch.bfloat16, torch.float16)}
    assert {dtype: kv_cache_dtype(copy.deepcopy(neo).to(dtype)) for dtype in types} == types
    assert kv_cache_dtype(quantize(copy.deepcopy(neo), "int8")) == torch.bfloat16


@pytest.mark.slow
def test_a_process_that_compiles_computes_what_later_ones_compute(tmp_path: Path) -> None:
    script = """
import torch
from neolm.generation.batch import next_logits
from neolm.generation.kernel_runner import KernelRunner
from neolm.generation.kv_cache import BatchCache
from tiny_models import tiny_decoder

model = tiny_decoder("gpt2", 64, 0, hidden_size=96, vocab_size=330)
ids = torch.randint(0, 330, (64,), generator=torch.Generator().manual_seed(1)).tolist()
runner, cache = KernelRunner(model), BatchCache(model, 1, 64)
for length in range(1, 65):
    print(next_logits(runner, cache, [ids[:length]]).view(torch.int32).tolist())
"""
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", script]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert "compiling" in first.stderr
    assert "compiling" not in second.stderr
    assert first.stdout == second.stdout
