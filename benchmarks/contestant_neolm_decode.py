"""Decoding with NeoLM and weights of 32, 16, 8 or 4 bits, without speculative decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from decoding import serve
from protocol import Channel
from random_models import HF

from neolm.generation.batch import Batch
from neolm.generation.config import GenerationConfig
from neolm.generation.sampling import prompt_generators
from neolm.models.hf import load_model


def main() -> None:
    channel = Channel()
    job = channel.job
    model = load_model(Path(job["model"]) / HF, "cpu", job["dtype"], job["quantize"])

    def generate(prompts: list[list[int]], tokens: int, on_token: Callable[[], None]) -> list[int]:
        config = GenerationConfig(max_new_tokens=tokens, ignore_eos=True)
        streams = dict(enumerate(prompt_generators(prompts, seed=1)))
        batch = Batch(model, dict(enumerate(prompts)), config, streams)
        ids = []
        while batch.running:
            tokens_of_step = dict(batch.step())
            on_token()
            ids.append(tokens_of_step[0])
        return ids

    serve(channel, generate, {})


if __name__ == "__main__":
    main()
