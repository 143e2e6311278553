"""Compare the decode and prefill speed of NeoLM and transformers on a GPU, in one process.

    python benchmarks/decode_gpu.py --shapes 125m 1.3b --rounds 5 --docs docs/benchmarks.md

Both compute in bfloat16 with random weights and continue the same prompts greedily: transformers with `generate` and
its dynamic cache, NeoLM like `neolm.generate`. The script also measures the GPU's memory reads and matrix products, and
the throughput of the engine with many requests of different lengths.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import command_line, publish, ratio, spread, table
from shapes import SHAPES, Shape
from workers import log

from neolm.core.device import matrix_ceiling
from neolm.generation.batch import Batch
from neolm.generation.config import GenerationConfig
from neolm.generation.model_runner import model_runner_for
from neolm.generation.sampling import prompt_generators
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.hf_config import hf_config
from neolm.serving.engine import Engine
from neolm.serving.request import Event, Finished

DEVICE = "cuda"
Generate = Callable[[list[list[int]], int], float]


def main() -> None:
    arguments = parse()
    ceilings = {"flops": matrix_ceiling(DEVICE, torch.bfloat16, 8192), "bandwidth": bandwidth()}
    log(f"{ceilings['flops'] / 1e12:.0f} TFLOP/s, {ceilings['bandwidth'] / 1e12:.2f} TB/s")
    results = {name: measure(SHAPES[name], arguments) for name in arguments.shapes}
    rows = []
    for name, result in results.items():
        for work, times in result["works"].items():
            count = times["tokens"]
            ours, theirs = (
                [count / second for second in times[contestant]] for contestant in ("neolm", "transformers")
            )
            share = ""
            if work == "write 1":
                share = f"{result['bytes'] * statistics.median(ours) / ceilings['bandwidth']:.2f}"
            rows.append((name, work, spread(ours), spread(theirs), ratio(ours, theirs), share))
        rows.append((name, f"engine, {arguments.streams} texts", spread(result["engine"]), "", "", ""))
    header = ("shape", "work", "NeoLM, tokens/s", "transformers, tokens/s", "ratio", "share of memory reads")
    import transformers

    text = "\n\n".join(
        [
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}; "
            f"bfloat16 products of 8,192 cubed {ceilings['flops'] / 1e12:.0f} TFLOP/s, memory reads "
            f"{ceilings['bandwidth'] / 1e12:.2f} TB/s.",
            table(header, rows),
            f"`{command_line('decode_gpu')}`",
        ]
    )
    publish("decode gpu", text, {"ceilings": ceilings, "results": results}, arguments.output, arguments.docs)


def measure(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of every workload and round; both take turns."""
    ours, model = neolm(shape)
    theirs = peer(shape, model)
    source = random.Random(1)
    works: dict[str, Any] = {}
    for name, texts, length, tokens in (
        *((f"write {texts}", texts, 64, arguments.tokens) for texts in arguments.batches),
        ("read 1 x 1,024", 1, 1024, 1),
        ("read 8 x 1,024", 8, 1024, 1),
    ):
        prompts = [source.choices(range(shape.vocab_size - 1), k=length) for _ in range(texts)]
        count = texts * (length if tokens == 1 else tokens)
        works[name] = {"tokens": count, "neolm": [], "transformers": []}
        contestants = {"neolm": ours, "transformers": theirs}
        for generate in contestants.values():
            generate(prompts, tokens)
        for _ in range(arguments.rounds):
            for contestant, generate in contestants.items():
                works[name][contestant].append(generate(prompts, tokens))
        log(f"{shape.name}, {name}: " + ", ".join(f"{one} {count / min(works[name][one]):,.0f}" for one in contestants))
    engine = [serve(model, shape, arguments.streams) for _ in range(1 + arguments.rounds)][1:]
    return {"works": works, "engine": engine, "bytes": 2 * model.parameter_count()}


def neolm(shape: Shape) -> tuple[Generate, Decoder]:
    """Return a function that times NeoLM's generation, and its model."""
    config = decoder_config(
        shape.family,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.context,
    )
    with torch.device(DEVICE):
        model = Decoder(config).to(torch.bfloat16).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    runner = model_runner_for(model)

    def generate(prompts: list[list[int]], tokens: int) -> float:
        settings = GenerationConfig(max_new_tokens=tokens, ignore_eos=True)
        streams = dict(enumerate(prompt_generators(prompts, seed=1)))
        torch.cuda.synchronize()
        began = time.perf_counter()
        batch = Batch(model, dict(enumerate(prompts)), settings, streams)
        batch.runner = runner
        while batch.running:
            batch.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return generate, model


def peer(shape: Shape, ours: Decoder) -> Generate:
    """Return a function that times transformers' generation with the same shape."""
    import transformers

    raw = hf_config(ours.config)
    config = transformers.AutoConfig.for_model(**raw)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(prompts: list[list[int]], tokens: int) -> float:
        ids = torch.tensor(prompts, device=DEVICE)
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return generate


def serve(model: Decoder, shape: Shape, streams: int, tokens: int = 64) -> float:
    """Return the throughput of the engine with many requests, in tokens per second."""
    engine = Engine(model, memory=8 * 2**30, max_running=64)
    source = random.Random(2)
    generated = [0]

    def count(event: Event) -> None:
        generated[0] += not isinstance(event, Finished)

    for _ in range(streams):
        prompt = source.choices(range(shape.vocab_size - 1), k=source.randrange(16, 256))
        engine.submit(prompt, GenerationConfig(max_new_tokens=tokens, ignore_eos=True), count)
    torch.cuda.synchronize()
    began = time.perf_counter()
    while engine.step():
        pass
    return generated[0] / (time.perf_counter() - began)


def bandwidth() -> float:
    """Return the best read speed of a large array, in bytes per second."""
    array = torch.ones(2**31, dtype=torch.bfloat16, device=DEVICE)
    array.max()
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        array.max()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return array.nbytes / best


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["125m", "1.3b"], choices=sorted(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
