"""Not a contestant but their measure: what the machine's matrix products and its memory give at the moment.

It takes turns as the others do, so that its numbers are of the same minutes.
"""

from __future__ import annotations

import time

import torch
from protocol import Channel, leave, synchronise

from neolm.core.device import choose_device, choose_precision, cpu_name, environment, matrix_ceiling, memory_bytes
from neolm.models.config import decoder_config

BANDWIDTH_BYTES = 2**29  # more than any cache holds


def main() -> None:
    channel = Channel()
    device = choose_device(channel.job["device"])
    precision = choose_precision(channel.job["precision"], device.value)
    gpu = device.value.startswith("cuda")
    facts = environment()
    channel.answer(
        processor=torch.cuda.get_device_name() if gpu else cpu_name(),
        cores=facts["cores"],
        memory=torch.cuda.mem_get_info()[1] if gpu else memory_bytes()[0],
        python=facts["python"],
        torch=torch.__version__,
        device=[device.value, device.reason],
        precision=[precision.value, precision.reason],
        vectors="" if gpu else torch.backends.cpu.get_cpu_capability(),
    )
    while True:
        command = channel.receive()
        if command["do"] == "measure":
            wanted = [precision.value, *command.get("precisions", ())]
            flops = {name: matrix_ceiling(device.value, getattr(torch, name)) for name in dict.fromkeys(wanted)}
            channel.answer(
                memory_available=torch.cuda.mem_get_info()[0] if gpu else memory_bytes()[1],
                flops=flops[precision.value],
                **{f"flops_{name}": flops[name] for name in wanted[1:]},
                bandwidth=bandwidth(device.value),
            )
            if gpu:
                torch.cuda.empty_cache()
        elif command["do"] == "count":
            channel.answer(flops=flops_per_token(command["shape"]))
        else:
            leave()


def bandwidth(device: str, seconds: float = 0.3) -> float:
    """Bytes a second that a large array is read at, by all threads: the best that is seen in about `seconds`.

    None of the ways to read is always the fastest, so that several take turns.
    """
    array = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    ways = (array.sum, array.max, lambda: torch.dot(array, array))
    best, deadline = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < deadline:
        for read in ways:
            began = time.perf_counter()
            read()
            synchronise()
            best = min(best, time.perf_counter() - began)
    return BANDWIDTH_BYTES / best


def flops_per_token(shape: dict[str, int]) -> float:
    """What training on one token takes, as PaLM's appendix B counts it, whoever trains."""
    config = decoder_config(
        str(shape["family"]),
        hidden_size=shape["hidden_size"],
        num_layers=shape["num_layers"],
        num_heads=shape["num_heads"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["context"],
        window_size=shape["window_size"],
    )
    return config.flops_per_token(shape["sequence_length"])


if __name__ == "__main__":
    main()
