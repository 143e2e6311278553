"""Hugging Face transformers: `model.generate`, with whichever of its caches is the faster for the work in hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from decoding import WARMUP_TOKENS, serve
from protocol import Channel
from random_models import HF
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.generation import BaseStreamer

CACHES = {"dynamic": None, "static": "static"}


class Stamps(BaseStreamer):
    """Is told of the prompt, then of every token."""

    def __init__(self, stamp: Callable[[], None]) -> None:
        self._stamp, self._prompt = stamp, True

    def put(self, value: Tensor) -> None:
        """One more token of every text."""
        if not self._prompt:
            self._stamp()
        self._prompt = False

    def end(self) -> None:
        """Nothing more comes."""


def main() -> None:
    channel = Channel()
    job = channel.job
    model = AutoModelForCausalLM.from_pretrained(Path(job["model"]) / HF, dtype=getattr(torch, job["dtype"])).eval()
    model.generation_config.eos_token_id = None  # nothing ends early, and nothing looks whether it should
    model.generation_config.pad_token_id = 0
    chosen: dict[str, str] = {}

    @torch.inference_mode()
    def generate_with(cache: str, prompts: list[list[int]], tokens: int, stamp: Callable[[], None]) -> list[int]:
        ids = torch.tensor(prompts)
        everything = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            use_cache=True,
            cache_implementation=CACHES[cache],
            streamer=Stamps(stamp),
        )
        return everything[0, ids.shape[1] :].tolist()

    def seconds(cache: str, prompts: list[list[int]], tokens: int) -> float:
        best, right = float("inf"), generate_with("dynamic", prompts, tokens, lambda: None)
        try:
            for _ in range(3):  # the first only warms up
                began = time.perf_counter()
                ids = generate_with(cache, prompts, tokens, lambda: None)
                best = min(best, time.perf_counter() - began)
        except (ValueError, NotImplementedError):  # not every model takes a static one
            return float("inf")
        return best if ids == right else float("inf")

    def generate(prompts: list[list[int]], tokens: int, stamp: Callable[[], None]) -> list[int]:
        work = f"{len(prompts)} x {len(prompts[0])}{'' if tokens == 1 else ' +'}"
        if model.config.model_type == "gpt_neo":  # a static cache that is used again writes other tokens
            chosen[work] = "dynamic"
        if work not in chosen:
            trial = min(tokens, 2 * WARMUP_TOKENS)
            chosen[work] = min(CACHES, key=lambda cache: seconds(cache, prompts, trial))
        return generate_with(chosen[work], prompts, tokens, stamp)

    serve(channel, generate, {"cache": chosen})


if __name__ == "__main__":
    main()
