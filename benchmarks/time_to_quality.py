"""Measure how fast NeoLM reaches nanoGPT's final loss: tiny Shakespeare by character, nanoGPT's CPU recipe.

    git clone https://github.com/karpathy/nanoGPT ../nanoGPT
    python benchmarks/time_to_quality.py --nanogpt ../nanoGPT --text input.txt

The recipe is from nanoGPT's README (4 layers of 128, contexts of 64 characters, batches of 12, 2,000 steps) and runs
in nanoGPT's train.py. NeoLM trains a GPT-2 of the same sizes twice: with the same optimiser and schedule, and with
the best known recipe. For every seed, all three take turns of a fortieth of their steps and sleep in between, so that
other load on the machine affects all of them. Only training is timed. After each turn of the second half, and every
fifth turn of the first, one function measures the loss of each model: over the whole validation split, in windows of
64 that do not overlap.

The target is the lowest final loss of nanoGPT over all seeds. The time to reach it is the time of the first
measurement at or below the target.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from data import write_characters
from environments import environment
from machine import Machine, describe
from report import command_line, publish, spread, table
from shapes import Shape
from workers import BenchmarkError, Contestant, Worker, log, stop_on_termination

TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt.zst"
TURNS = 40
Curve = list[tuple[int, float, float, float]]
STEPS, SECONDS, PROCESSOR_SECONDS, LOSS = range(4)  # indices into a measurement
SHAPE = Shape("tiny-shakespeare", "gpt2", 128, 4, 4, 65, 64, 12, 64, steps=2000, warmup=0)

# nanoGPT's README, "i only have a macbook", without evaluations, which would be timed.
NANOGPT_ARGUMENTS = (
    "config/train_shakespeare_char.py",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--dropout=0.0",
    f"--eval_interval={10**9}",
)

# The same recipe with NeoLM's settings. nanoGPT also decays embeddings; it has the exact GELU and no biases.
SAME_RECIPE = {
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "final_learning_rate": 0.1,
    "schedule": "cosine",
    "warmup_steps": 100,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "no_decay": ["norm", "bias"],
    "batch_size": 12,
    "compile": False,
}

# From the experiments in docs/log.md.
BEST_RECIPE = {
    "optimiser": "muon",
    "learning_rate": 0.025,
    "final_learning_rate": 0.0,
    "schedule": "linear",
    "warmup_steps": 10,
    "momentum": 0.85,
    "batch_size": 12,
    "compile": False,
}
BEST_STEPS = 480


def contestants(scale: float, checkout: Path | None) -> list[tuple[Contestant, int]]:
    """Return the contestants with the steps of their whole training, multiplied by `scale`."""
    same, best = (max(2, round(steps * scale)) for steps in (SHAPE.steps, BEST_STEPS))
    warmup = round(100 * scale)
    model = {"activation": "gelu"}
    nanogpt = [*NANOGPT_ARGUMENTS, f"--max_iters={same}", f"--lr_decay_iters={same}", f"--warmup_iters={warmup}"]
    # One step more than is run, like in nanoGPT: the gate blocks the loop before the last update.
    ours = {**SAME_RECIPE, "steps": same + 1, "warmup_steps": warmup}
    settings = {"checkout": str(checkout) if checkout else "", "arguments": nanogpt}
    return [
        (Contestant("nanogpt", "contestant_nanogpt.py", settings), same),
        (Contestant("neolm-same", "contestant_neolm.py", {"pretrain": ours, "model": model}), same),
        (
            Contestant(
                "neolm-best", "contestant_neolm.py", {"pretrain": {**BEST_RECIPE, "steps": best + 1}, "model": model}
            ),
            best,
        ),
    ]


def train_in_turns(job: dict[str, Any], chosen: list[tuple[Contestant, int]], logs: Path) -> dict[str, Curve]:
    """Train all contestants with one seed, in turns; return the measurements."""
    curves: dict[str, Curve] = {contestant.name: [] for contestant, _ in chosen}
    workers: dict[str, Worker] = {}
    try:
        for contestant, _ in chosen:
            worker = Worker(contestant, environment(None, logs.parent), job, logs)
            workers[contestant.name] = worker
            worker.ready()
        turns = min(TURNS, *(steps for _, steps in chosen))
        clocks = {name: [0.0, 0.0] for name in curves}
        for turn in range(1, turns + 1):
            for contestant, steps in chosen:
                worker, clock = workers[contestant.name], clocks[contestant.name]
                steps_done = steps * turn // turns
                answer = worker.run(steps_done - steps * (turn - 1) // turns)
                clock[0] += answer["seconds"]
                clock[1] += answer["processor_seconds"]
                if turn % 5 == 0 or turn > turns // 2:
                    curves[contestant.name].append((steps_done, *clock, worker.request(do="evaluate")["loss"]))
            if turn % 10 == 0 or turn == turns:
                last = {name: curve[-1] for name, curve in curves.items()}
                states = (f"{name} {end[LOSS]:.4f} after {end[SECONDS]:.1f}s" for name, end in last.items())
                log(f"  turn {turn} of {turns}: " + ", ".join(states))
    finally:
        for worker in workers.values():
            worker.stop()
    return curves


def first_at_target(curve: Curve, target: float) -> tuple[int, float, float, float] | None:
    """Return the first measurement at or below the target, or None."""
    return next((measurement for measurement in curve if measurement[LOSS] <= target), None)


def section(results: dict[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    runs = results["runs"]
    names = list(runs[0]["curves"])
    ends = {name: [run["curves"][name][-1] for run in runs] for name in names}
    target = min((end[LOSS] for end in ends.get("nanogpt", ())), default=None)
    rows = []
    for name in names:
        losses = spread([end[LOSS] for end in ends[name]], 3)
        each = spread([end[SECONDS] / end[STEPS] * 1e3 for end in ends[name]], 1)
        row = [name, f"{ends[name][0][STEPS]:,}", losses, each]
        if target is not None:
            row += comparison_with_nanogpt(name, [run["curves"][name] for run in runs], target, ends["nanogpt"])
        rows.append(row)
    header = ["contestant", "steps", "final validation loss", "ms per step"]
    if target is not None:
        header += [f"seconds to {target:.3f}", "share of nanoGPT's time", "share of its processor time"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return "\n\n".join(
        [
            describe(results["machine"], results["measured"]),
            f"GPT-2 with {SHAPE.num_layers} layers of {SHAPE.hidden_size}, contexts of {SHAPE.sequence_length} "
            f"characters, tiny Shakespeare; seeds {seeds}: median, and smallest to largest.",
            table(header, rows),
            f"Made by `{results['command']}`.",
        ]
    )


def comparison_with_nanogpt(
    name: str, curves: list[Curve], target: float, ends: list[tuple[int, float, float, float]]
) -> list[str]:
    """Return the last cells of a row: the time to the target, and its share of nanoGPT's whole time."""
    if name == "nanogpt":
        return [spread([end[SECONDS] for end in ends], 1), "1", "1"]
    found = [first_at_target(curve, target) for curve in curves]
    if None in found:
        return [f"not reached with {found.count(None)} of {len(found)} seeds", "-", "-"]
    pairs = [(at, end) for at, end in zip(found, ends, strict=True) if at is not None]
    shares = [spread([at[clock] / end[clock] for at, end in pairs], 2) for clock in (SECONDS, PROCESSOR_SECONDS)]
    return [spread([at[SECONDS] for at, _ in pairs], 1), *shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help="tiny Shakespeare, plain or .zst")
    parser.add_argument(
        "--contestants", nargs="+", choices=["nanogpt", "neolm-same", "neolm-best"], help="only these; default: all"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the steps of all contestants (1)")
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    checkout = options.nanogpt.resolve() if options.nanogpt else None
    chosen = contestants(options.scale, checkout)
    chosen = [pair for pair in chosen if not options.contestants or pair[0].name in options.contestants]
    if any(contestant.settings.get("checkout") == "" for contestant, _ in chosen):
        parser.error(
            "nanogpt needs a checkout of karpathy/nanoGPT: --nanogpt DIR. "
            "Or leave it out: --contestants neolm-same neolm-best"
        )
    machine = Machine("cpu", "float32", options.threads, options.environments)
    runs = []
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as data:
            vocab_size = write_characters(Path(data), options.text)
            shape = {**SHAPE.as_json(), "vocab_size": vocab_size}
            job = {"shape": shape, "device": "cpu", "precision": "float32", "threads": machine.threads}
            for seed in options.seeds:
                log(f"seed {seed}")
                machine.measure()
                common = {**job, "warmup": 0, "data": data, "seed": seed}
                runs.append({"seed": seed, "curves": train_in_turns(common, chosen, options.environments / "logs")})
    except BenchmarkError as failure:
        raise SystemExit(str(failure)) from None
    finally:
        machine.stop()
    results = {
        "command": command_line("time_to_quality"),
        "machine": machine.facts,
        "measured": machine.measured,
        "runs": runs,
    }
    publish("time_to_quality", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
