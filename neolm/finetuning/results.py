"""What the validation examples say about the candidates of a fine-tuning, as JSON for the model and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.core.progress import duration, say, table
from neolm.evaluation.text_details import text_details
from neolm.evaluation.text_scores import MAIN, example_values, main_score, text_scores
from neolm.finetuning.candidates import Trained
from neolm.finetuning.comparison import STANDARD_ERROR, Candidate, better_encoder, compare
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.decision import decide, decide_scope
from neolm.finetuning.finetune_data import FinetuneData
from neolm.metrics.intervals import bootstrap_score, over_seeds
from neolm.models.label_config import Problem
from neolm.tables.benchmarks import BENCHMARKS

CERTAIN = 0.95
NEURAL = ("probe", "fine-tuned")


def results(
    baselines: Sequence[Trained],
    runs: Sequence[Trained],
    data: FinetuneData,
    scale: tuple[float, float],
    config: FinetuneConfig,
) -> dict[str, Any]:
    """Scores of the candidates, their comparison, the one that becomes the model, and how it is to decide.

    `runs` are trainings with different seeds. The one with the best validation is the candidate, so that its score is
    too good; their median and spread are not.
    """
    problem, names, validation = data.targets.problem, data.targets.names, data.validation
    targets = data.targets.tensor(validation.label_sets or validation.labels, str(validation.path)).numpy()

    def candidate(one: Trained) -> Candidate:
        return Candidate(one.name, one.logits.double().numpy() * scale[1] + scale[0], one.seconds)

    tried = [candidate(one) for one in runs]
    means = [example_values(problem, one.logits, targets).mean() for one in tried]
    best = int(np.argmax(means)) if means else 0
    candidates = [candidate(one) for one in baselines] + tried[best : best + 1]
    found = {one.name: text_scores(problem, names, one.logits, targets) for one in candidates}
    failed = [name for name, scores in found.items() if scores["failed"]]
    if failed:
        say(f"finetune: {' and '.join(failed)} failed: one answer to everything")
    comparison = compare(problem, candidates, targets, validation.groups, failed)
    neural = [one for one in candidates if one.name in NEURAL]
    neural = [one for one in neural if one.name not in failed] or neural
    # If the validation part was drawn, a probe gains from a second fit on all examples: more must speak against it.
    confidence = CERTAIN if data.drawn else STANDARD_ERROR
    chosen = better_encoder(problem, neural, targets, validation.groups, confidence)
    main = MAIN[problem]
    intervals = {one.name: _main_interval(problem, one, targets, validation.groups) for one in candidates}
    rows = [("", main, "95% interval", "time")]
    for one in candidates:
        value, low, high = intervals[one.name].values()
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append((one.name, "undefined" if value is None else f"{value:.4f}", interval, duration(one.seconds)))
    say(table(rows))
    spread = _spread([text_scores(problem, names, one.logits, targets) for one in tried], main)
    say(_advice(comparison, chosen.name))
    prediction = decide(problem, names, chosen.logits, targets, config)
    tensors = {one.name: one.tensors for one in (*baselines, *runs[best : best + 1])}[chosen.name]
    scope = None
    if "outside" in tensors:
        fitted, scope = decide_scope(chosen.logits, targets, tensors["outside"].double().numpy(), prediction, config)
        prediction |= fitted
    shown = text_details(problem, names, chosen.logits, targets, validation, prediction.get("temperature", 1.0))
    if shown.get("permuted"):
        say(f"finetune: {shown['permuted']}")
    official = {}
    if config.benchmark is not None:
        official = {name: found[chosen.name].get(name) for name in BENCHMARKS[config.benchmark].metrics}
        shown_scores = ", ".join(f"{name} {'undefined' if v is None else f'{v:.4f}'}" for name, v in official.items())
        say(f"finetune: {config.benchmark}, as the benchmark defines it, of the {chosen.name} model: {shown_scores}")
    return {
        "problem": problem,
        "benchmark": {"name": config.benchmark, "scores": official},
        "names": list(names),
        "main": main,
        "scores": found,
        "intervals": intervals,
        "seconds": {one.name: one.seconds for one in candidates},
        "comparison": comparison,
        "model": chosen.name,
        "scale": list(scale),
        "prediction": prediction,
        "scope": scope,
        "details": shown,
        "inventory": data.inventory,
        "drawn": data.drawn,
        "run": best,
        "seeds": spread,
    }


def _spread(scores: Sequence[Mapping[str, Any]], main: str) -> dict[str, Any] | None:
    """The score of trainings that differ only in the seed: its median, its spread, and how many have failed."""
    if len(scores) < 2:
        return None
    found = over_seeds([float(one[main] or 0.0) for one in scores], [bool(one["failed"]) for one in scores])
    failed = f"{found.failed} of {found.runs} failed: they give one answer to everything"
    say(
        f"finetune: {main} over {found.runs} seeds: median {found.median:.4f}, {found.lowest:.4f} to "
        f"{found.highest:.4f}; {failed if found.failed else 'none failed'}; the best one is shown above"
    )
    return asdict(found)


def _main_interval(
    problem: Problem, candidate: Candidate, targets: NDArray[Any], groups: Sequence[str] | None
) -> dict[str, float | None]:
    """The main score with its interval, as JSON."""

    def score(rows: NDArray[np.int64]) -> float | None:
        return main_score(problem, candidate.logits[rows], targets[rows])

    if score(np.arange(len(targets))) is None:
        return {"value": None, "low": None, "high": None}
    return bootstrap_score(score, len(targets), groups).as_json()


def _advice(comparison: dict[str, Any], chosen: str) -> str:
    recommended = comparison["recommended"]
    others = [name for name in comparison["values"] if name != recommended]
    if not others:
        return f"finetune: {recommended} was the only candidate"
    reason = "the cheapest that no other beats on the validation examples"
    written = "" if recommended == chosen else f"; the model that is written is {chosen}"
    return f"finetune: recommended is {recommended}, {reason}{written}"
