"""How soon NeoLM reaches the quality that nanoGPT ends at: tiny Shakespeare by character, nanoGPT's own CPU recipe.

    git clone https://github.com/karpathy/nanoGPT ../nanoGPT
    python benchmarks/time_to_quality.py --nanogpt ../nanoGPT --text input.txt

The recipe is of nanoGPT's README (4 layers of 128, contexts of 64 characters, 12 of them a step, 2,000 steps) and runs
in its own train.py. Beside it NeoLM trains a GPT-2 of the same sizes twice: with the same optimiser and schedule, and
with the best recipe that we know. For every seed all three take turns, a fortieth of their steps at a time, and sleep
in between; so what else happens on the machine happens to all. Only training is timed. After each turn of the second
half, and every fifth of the first, one function measures everybody's loss off the clock: over the whole validation
split, in windows of 64 that do not overlap.

The mark to reach is the lowest loss that nanoGPT ends at with any of the seeds. The time to reach it is that of the
first measurement at or below the mark.
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
from workers import Contestant, Failed, Worker, note, stop_on_termination

TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt.zst"
TURNS = 40
Curve = list[tuple[int, float, float, float]]
STEPS, SECONDS, PROCESSOR_SECONDS, LOSS = range(4)  # of a measurement
SHAPE = Shape("tiny-shakespeare", "gpt2", 128, 4, 4, 65, 64, 12, 64, steps=2000, warmup=0)

# nanoGPT's README, "i only have a macbook", without the evaluations, which would be on its clock.
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

# The same in NeoLM's words. nanoGPT decays embeddings too; its GELU is the exact one, and it has no biases.
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

# Found by the attempts in docs/log.md.
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
    """Everybody, and the steps of the whole training; `scale` shortens all of them."""
    same, best = (max(2, round(steps * scale)) for steps in (SHAPE.steps, BEST_STEPS))
    warmup = round(100 * scale)
    model = {"activation": "gelu"}
    nanogpt = [*NANOGPT_ARGUMENTS, f"--max_iters={same}", f"--lr_decay_iters={same}", f"--warmup_iters={warmup}"]
    # One step more than is taken, as nanoGPT does too: the gate holds the loop before the last update.
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


def train_side_by_side(job: dict[str, Any], entered: list[tuple[Contestant, int]], logs: Path) -> dict[str, Curve]:
    """Train everybody with one seed, in turn; returns the measurements."""
    curves: dict[str, Curve] = {contestant.name: [] for contestant, _ in entered}
    workers: dict[str, Worker] = {}
    try:
        for contestant, _ in entered:
            worker = Worker(contestant, environment(None, logs.parent), job, logs)
            workers[contestant.name] = worker
            worker.ready()
        turns = min(TURNS, *(steps for _, steps in entered))
        clocks = {name: [0.0, 0.0] for name in curves}
        for turn in range(1, turns + 1):
            for contestant, steps in entered:
                worker, clock = workers[contestant.name], clocks[contestant.name]
                upto = steps * turn // turns
                answer = worker.run(upto - steps * (turn - 1) // turns)
                clock[0] += answer["seconds"]
                clock[1] += answer["processor_seconds"]
                if turn % 5 == 0 or turn > turns // 2:
                    curves[contestant.name].append((upto, *clock, worker.ask(do="evaluate")["loss"]))
            if turn % 10 == 0 or turn == turns:
                last = {name: curve[-1] for name, curve in curves.items()}
                states = (f"{name} {at[LOSS]:.4f} after {at[SECONDS]:.1f}s" for name, at in last.items())
                note(f"  turn {turn} of {turns}: " + ", ".join(states))
    finally:
        for worker in workers.values():
            worker.stop()
    return curves


def reached(curve: Curve, mark: float) -> tuple[int, float, float, float] | None:
    """The first measurement at or below the mark; None: there is none."""
    return next((measurement for measurement in curve if measurement[LOSS] <= mark), None)


def section(results: dict[str, Any]) -> str:
    """The results as a section of docs/benchmarks.md."""
    runs = results["runs"]
    names = list(runs[0]["curves"])
    ends = {name: [run["curves"][name][-1] for run in runs] for name in names}
    mark = min((end[LOSS] for end in ends.get("nanogpt", ())), default=None)
    rows = []
    for name in names:
        losses = spread([end[LOSS] for end in ends[name]], 3)
        each = spread([end[SECONDS] / end[STEPS] * 1e3 for end in ends[name]], 1)
        row = [name, f"{ends[name][0][STEPS]:,}", losses, each]
        if mark is not None:
            row += against_nanogpt(name, [run["curves"][name] for run in runs], mark, ends["nanogpt"])
        rows.append(row)
    header = ["contestant", "steps", "final validation loss", "ms a step"]
    if mark is not None:
        header += [f"seconds to {mark:.3f}", "share of nanoGPT's time", "of its processor time"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return "\n\n".join(
        [
            describe(results["machine"], results["measured"]),
            f"GPT-2 with {SHAPE.num_layers} layers of {SHAPE.hidden_size}, contexts of {SHAPE.sequence_length} "
            f"characters, tiny Shakespeare; seeds {seeds}: median, and least to greatest.",
            table(header, rows),
            f"Made by `{results['command']}`.",
        ]
    )


def against_nanogpt(
    name: str, curves: list[Curve], mark: float, ends: list[tuple[int, float, float, float]]
) -> list[str]:
    """The last cells of a row: when the mark was reached, and which share that is of the time that nanoGPT took."""
    if name == "nanogpt":
        return [spread([end[SECONDS] for end in ends], 1), "1", "1"]
    found = [reached(curve, mark) for curve in curves]
    if None in found:
        return [f"not reached with {found.count(None)} of {len(found)} seeds", "-", "-"]
    pairs = [(at, end) for at, end in zip(found, ends, strict=True) if at is not None]
    shares = [spread([at[clock] / end[clock] for at, end in pairs], 2) for clock in (SECONDS, PROCESSOR_SECONDS)]
    return [spread([at[SECONDS] for at, _ in pairs], 1), *shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help="tiny Shakespeare, as text or .zst")
    parser.add_argument("--contestants", nargs="+", choices=["nanogpt", "neolm-same", "neolm-best"], help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps that everybody takes (1)")
    parser.add_argument("--threads", type=int, help="of a process; by default the cores that may be used")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="all numbers, as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    checkout = options.nanogpt.resolve() if options.nanogpt else None
    entered = contestants(options.scale, checkout)
    entered = [pair for pair in entered if not options.contestants or pair[0].name in options.contestants]
    if any(contestant.settings.get("checkout") == "" for contestant, _ in entered):
        parser.error("give a checkout of karpathy/nanoGPT with --nanogpt, or leave nanogpt out with --contestants")
    machine = Machine("cpu", "float32", options.threads, options.environments)
    runs = []
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as data:
            vocab_size = write_characters(Path(data), options.text)
            shape = {**SHAPE.as_json(), "vocab_size": vocab_size}
            job = {"shape": shape, "device": "cpu", "precision": "float32", "threads": machine.threads}
            for seed in options.seeds:
                note(f"seed {seed}")
                machine.measure()
                common = {**job, "warmup": 0, "data": data, "seed": seed}
                runs.append(
                    {"seed": seed, "curves": train_side_by_side(common, entered, options.environments / "logs")}
                )
    except Failed as failure:
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
