"""A process that loads a large model, rounded as it is read, and writes with it when it is told to."""

from __future__ import annotations

import time

import torch
from protocol import Channel, leave, peak_memory

from neolm.generation.batch import next_logits
from neolm.generation.kv_cache import BatchCache
from neolm.generation.model_runner import model_runner_for
from neolm.models.hf import load_model

PROMPT = 16


def main() -> None:
    channel = Channel()
    began = time.perf_counter()
    model = load_model(channel.job["path"], "cpu", quantize=channel.job["quantize"])
    load = time.perf_counter() - began
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.nbytes for tensor in tensors)
    # A token reads every weight once, but only one row of an embedding that is not the head.
    read = weights if model.config.tie_embeddings else weights - model.embedding.weight.nbytes
    runner = model_runner_for(model)
    cache = BatchCache(model, 1, model.config.max_position_embeddings)
    ids = torch.randint(0, 50_000, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()

    def write() -> float:
        began = time.perf_counter()
        ids.append(int(next_logits(runner, cache, [ids])[0].argmax()))
        return time.perf_counter() - began

    write()  # compiles, where nothing is kept from before
    cache.rewind(0, 0)
    del ids[PROMPT:]
    channel.answer(load=load, weights=weights, read=read, first=write())
    while True:
        command = channel.receive()
        if command["do"] != "run":
            leave()
        channel.answer(seconds=[write() for _ in range(command["steps"])], memory=peak_memory())


if __name__ == "__main__":
    main()
