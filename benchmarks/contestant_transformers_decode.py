"""Decoding with `model.generate` of Hugging Face transformers and the faster of its caches for each workload."""

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


class TokenStreamer(BaseStreamer):
    """Call a function for every generated token; `put` is called with the prompt first."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token, self._is_prompt = on_token, True

    def put(self, value: Tensor) -> None:
        """Receive the prompt, or the next token of every sequence."""
        if not self._is_prompt:
            self._on_token()
        self._is_prompt = False

    def end(self) -> None:
        """Generation has ended; there is nothing to do."""


def main() -> None:
    channel = Channel()
    job = channel.job
    model = AutoModelForCausalLM.from_pretrained(Path(job["model"]) / HF, dtype=getattr(torch, job["dtype"])).eval()
    model.generation_config.eos_token_id = None  # no early end, and no check for one
    model.generation_config.pad_token_id = 0
    chosen: dict[str, str] = {}

    @torch.inference_mode()
    def generate_with(cache: str, prompts: list[list[int]], tokens: int, on_token: Callable[[], None]) -> list[int]:
        ids = torch.tensor(prompts)
        sequences = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            use_cache=True,
            cache_implementation=CACHES[cache],
            streamer=TokenStreamer(on_token),
        )
        return sequences[0, ids.shape[1] :].tolist()

    def seconds(cache: str, prompts: list[list[int]], tokens: int) -> float:
        best, expected = float("inf"), generate_with("dynamic", prompts, tokens, lambda: None)
        try:
            for _ in range(3):  # the first is a warm-up
                began = time.perf_counter()
                ids = generate_with(cache, prompts, tokens, lambda: None)
                best = min(best, time.perf_counter() - began)
        except (ValueError, NotImplementedError):  # not every model supports a static cache
            return float("inf")
        return best if ids == expected else float("inf")

    def generate(prompts: list[list[int]], tokens: int, on_token: Callable[[], None]) -> list[int]:
        workload = f"{len(prompts)} x {len(prompts[0])}{'' if tokens == 1 else ' +'}"
        if model.config.model_type == "gpt_neo":  # a static cache that is reused produces different tokens
            chosen[workload] = "dynamic"
        if workload not in chosen:
            trial_tokens = min(tokens, 2 * WARMUP_TOKENS)
            chosen[workload] = min(CACHES, key=lambda cache: seconds(cache, prompts, trial_tokens))
        return generate_with(chosen[workload], prompts, tokens, on_token)

    serve(channel, generate, {"cache": chosen})


if __name__ == "__main__":
    main()
