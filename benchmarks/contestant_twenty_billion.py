"""Load a large model, quantised while it is read, and time its decoding steps."""

from __future__ import annotations

import time

import torch
from protocol import Channel, exit_process, peak_memory

from neolm.generation.batch import next_logits
from neolm.generation.kv_cache import BatchCache
from neolm.generation.model_runner import model_runner_for
from neolm.models.hf import load_model

PROMPT_TOKENS = 16


def main() -> None:
    channel = Channel()
    began = time.perf_counter()
    model = load_model(channel.job["path"], "cpu", quantize=channel.job["quantize"])
    load = time.perf_counter() - began
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.nbytes for tensor in tensors)
    # Each token reads every weight once, except an untied embedding, of which it reads one row.
    read = weights if model.config.tie_embeddings else weights - model.embedding.weight.nbytes
    runner = model_runner_for(model)
    cache = BatchCache(model, 1, model.config.max_position_embeddings)
    ids = torch.randint(0, 50_000, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()

    def decode() -> float:
        began = time.perf_counter()
        ids.append(int(next_logits(runner, cache, [ids])[0].argmax()))
        return time.perf_counter() - began

    decode()  # compiles the kernels if they are not cached
    cache.rewind(0, 0)
    del ids[PROMPT_TOKENS:]
    channel.answer(load=load, weights=weights, read=read, first=decode())
    while True:
        command = channel.receive()
        if command["do"] != "run":
            exit_process()
        channel.answer(seconds=[decode() for _ in range(command["steps"])], memory=peak_memory())


if __name__ == "__main__":
    main()
