"""On a GPU: captured graphs compute what the forward pass computes, and the engine serves with them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from tiny_models import quantize

from neolm.generation.batch import generate_ids, next_logits
from neolm.generation.config import GenerationConfig
from neolm.generation.cuda_graph_runner import CudaGraphRunner
from neolm.generation.kv_cache import BatchCache
from neolm.generation.model_runner import model_runner_for
from neolm.models.decoder import Decoder
from neolm.serving.engine import Engine
from neolm.serving.request import Event, Token

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(310), k=length)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "gpt-neox"])
def test_graphs_compute_what_the_forward_pass_computes(make: Callable[..., Decoder], family: str) -> None:
    model = copy.deepcopy(make(family)).cuda()
    reader = model_runner_for(model)
    assert isinstance(reader, CudaGraphRunner)
    rows = [prompt_of(96, seed) for seed in range(3)]
    held = [40, 1, 17]
    cache = BatchCache(model, 3, 96)
    with torch.inference_mode():
        expected = [model(torch.tensor([ids], device="cuda"))[0] for ids in rows]
    while max(held) <= 96:
        logits = next_logits(reader, cache, [ids[:n] for ids, n in zip(rows, held, strict=True)])
        wanted = torch.stack([values[n - 1] for values, n in zip(expected, held, strict=True)])
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)
        held = [n + 1 for n in held]


def test_graphs_are_captured_again_for_another_cache(make: Callable[..., Decoder]) -> None:
    model = copy.deepcopy(make("gpt-neo")).cuda()
    config = GenerationConfig(max_new_tokens=8)
    prompts = [prompt_of(10, seed) for seed in range(5)]
    alone = [generate_ids(model, [prompt], config)[0] for prompt in prompts]  # a small cache
    for _ in range(3):
        assert generate_ids(model, prompts, config) == alone  # a larger one
        assert generate_ids(model, prompts[:1], config) == alone[:1]


@pytest.mark.parametrize("form", ["float32", "bfloat16", "float16", "int8", "int4"])
def test_the_gpu_is_as_close_as_its_precision(make: Callable[..., Decoder], form: str) -> None:
    model = make("gpt-neo", hidden_size=64)
    rounded = quantize(copy.deepcopy(model), form) if form.startswith("int") else model.to(torch.float32)
    moved = copy.deepcopy(rounded).cuda()
    if not form.startswith("int"):
        moved = moved.to(getattr(torch, form))
    ids = torch.tensor([prompt_of(50)])
    with torch.inference_mode():
        error = (moved(ids.cuda()).float().cpu() - rounded(ids)).abs().max() / rounded(ids).abs().max()
    assert error < {"float32": 1e-5, "float16": 2e-2}.get(form, 0.2)


@pytest.mark.parametrize("strict", [True, False])
def test_the_engine_serves_many_requests(make: Callable[..., Decoder], strict: bool) -> None:
    model = copy.deepcopy(make("gpt-neo")).cuda()
    engine = Engine(model, memory=2**24, chunk_size=32, strict=strict)
    prompts = [prompt_of(5 + 7 * n, seed=n) for n in range(9)]
    config = GenerationConfig(max_new_tokens=20)
    logs: list[list[Event]] = [[] for _ in prompts]
    for prompt, log in zip(prompts, logs, strict=True):
        engine.submit(prompt, config, log.append)
        engine.step()
    while engine.step():
        pass
    alone = [generate_ids(model, [prompt], config)[0] for prompt in prompts]
    assert [[event.id for event in log if isinstance(event, Token)] for log in logs] == alone
