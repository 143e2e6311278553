"""Measure the current speed of the machine's matrix products and memory reads.

It takes turns with the contestants, so that its numbers come from the same minutes.
"""

from __future__ import annotations

import time

import torch
from protocol import Channel, exit_process, synchronise

from neolm.core.device import choose_device, choose_precision, cpu_name, environment, matrix_ceiling, memory_bytes
from neolm.models.config import decoder_config

BANDWIDTH_BYTES = 2**29  # larger than any cache


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
            exit_process()


def bandwidth(device: str, seconds: float = 0.3) -> float:
    """Return the best read speed of a large array by all threads, in bytes per second, over about `seconds`.

    No single operation is always the fastest reader, so several alternate.
    """
    array = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    reads = (array.sum, array.max, lambda: torch.dot(array, array))
    best, deadline = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < deadline:
        for read in reads:
            began = time.perf_counter()
            read()
            synchronise()
            best = min(best, time.perf_counter() - began)
    return BANDWIDTH_BYTES / best


def flops_per_token(shape: dict[str, int]) -> float:
    """FLOPs of training on one token, counted as in PaLM's appendix B for every contestant."""
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
