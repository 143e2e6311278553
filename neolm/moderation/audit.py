"""How good the categories of a policy are on labelled texts, for whom they fail, and what identity words change.

Rates by group have Wilson's intervals. Dixon et al. 2018 is the source of swapped identity words, Röttger et al. 2021
(HateCheck) of tests by functionality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import neolm
from neolm.core.errors import InputError
from neolm.core.files import digest_file
from neolm.core.progress import table as aligned
from neolm.core.progress import task
from neolm.metrics.calibration import expected_calibration_error, reliability_table
from neolm.metrics.classification import balanced_accuracy, confusion_matrix, majority_rate
from neolm.metrics.inputs import Bools, Floats
from neolm.metrics.intervals import wilson_interval
from neolm.metrics.ranking import auroc, average_precision
from neolm.metrics.slices import score_by_slice
from neolm.moderation.dry_run import CURVE
from neolm.moderation.moderator import Moderator
from neolm.tables.examples import describe, read_examples
from neolm.tables.table import Table
from neolm.tables.writer import cell_text

COSTS = ((1, 1), (1, 5), (5, 1))
"""Costs of a false positive and of a false negative."""
FAR, FAR_NOTE = 0.1, "more than 10 points from the mean"
"""A group is marked if its false-positive rate is farther than this from the mean of the groups."""
SIDES = (("positive", True), ("negative", False))
SCORES = ("auroc", "auprc", "calibration_error", "balanced_accuracy", "majority_rate")
PARTS = ("all", "in_category", "others")
RATES = ("accuracy", "false_positive_rate", "false_negative_rate")
TEMPLATES = (
    "I had lunch with {}.",
    "My neighbours are {}.",
    "Many {} live in this town.",
    "I wrote an article about {}.",
    "I am proud of {} like you.",
    "I hate {}.",
)
GROUPS = (
    *("women", "men", "gay people", "straight people", "trans people", "black people", "white people"),
    *("Asian people", "Muslims", "Christians", "Jews", "immigrants", "disabled people", "old people"),
)


def audit(
    moderator: Moderator,
    table: Table,
    columns: tuple[str, str],
    groups: Sequence[str] = (),
    positive: Sequence[str] = (),
    batch_size: int = 32,
    others: Sequence[Moderator] = (),
) -> dict[str, Any]:
    """The scores of each category on a table, as JSON.

    Args:
        moderator: The policy.
        table: Labelled texts.
        columns: The columns of the text and of the label.
        groups: Columns whose values divide the texts, such as the identity that is spoken about.
        positive: The table's labels that mean that a text is in a category: `LABEL`, or `CATEGORY=LABEL`. Without any
            for a category, those with the names of the model's labels that count.
        batch_size: Texts computed at a time; the results do not depend on it.
        others: Further policies. Only what they block alone and together is counted.

    Raises:
        InputError: a column is missing, no row can be used, or no label of the table is positive.
    """
    places = {name: table.column(name) for name in groups}
    examples = read_examples(table, *columns)
    counts = Counter(examples.labels)
    meant = {name: _positive(name, positive, moderator, counts, table) for name in moderator.thresholds}
    used = set(examples.lines)
    rows = [row.values for row in table.rows() if row.line in used] if groups else []
    slices = {name: [cell_text(row.get(place)) or "(none)" for row in rows] for name, place in places.items()}
    values = _scored(moderator, examples.texts, batch_size)
    categories, anywhere = {}, np.zeros(len(examples), bool)
    for name, category in moderator.policy.categories.items():
        gold = np.array([label in meant[name] for label in examples.labels])
        sides = {
            side: {one: n for one, n in counts.items() if (one in meant[name]) == chosen} for side, chosen in SIDES
        }
        threshold = moderator.thresholds[name]
        anywhere |= gold
        categories[name] = {
            "model": moderator.policy.models[category.model],
            "model_labels": [*category.labels],
            "prompt": category.prompt,
            "answer": category.answer,
            **sides,
            "threshold": threshold,
            **_scores(gold, values[name], threshold),
            "groups": {one: _by_group(gold, values[name] >= threshold, found) for one, found in slices.items()},
        }
    swaps = _swaps(moderator, batch_size)
    blocked = {str(moderator.path): _blocked(moderator, values)}
    for number, other in enumerate(others, start=2):
        name = str(other.path) if str(other.path) not in blocked else f"{other.path} ({number})"
        blocked[name] = _blocked(other, _scored(other, examples.texts, batch_size))
    return {
        "policy": str(moderator.path),
        "version": moderator.policy.version,
        "mode": moderator.policy.mode,
        "languages": [*moderator.policy.languages],
        "digest": moderator.digest,
        "neolm": neolm.__version__,
        "table": {"path": str(table.path), "sha256": digest_file(table.path)},
        "texts": len(examples),
        "left_out": describe(examples.left_out),
        "categories": categories,
        "side": moderator.side,
        "blocked": _joint(blocked, anywhere),
        "swaps": swaps,
    }


def _positive(
    category: str, given: Sequence[str], moderator: Moderator, counts: Mapping[str, int], table: Table
) -> set[str]:
    """The table's labels that mean that a text is in a category."""
    categories, parts = moderator.policy.categories, [one.partition("=") for one in given]
    pairs = [(name, label) if name in categories else ("", name + equals + label) for name, equals, label in parts]
    asked = {label for name, label in pairs if name == category} or {label for name, label in pairs if not name}
    meant = asked or {*categories[category].labels} & {*counts}
    if not meant or meant - {*counts}:
        why = f"has no label {min(meant - {*counts})!r}" if meant else f"has no label of the category {category}"
        raise InputError(f"{table.path} {why}, only {', '.join(counts)}; say what is: --positive {category}=LABEL")
    return meant


def _scored(moderator: Moderator, texts: Sequence[str], batch_size: int) -> dict[str, Floats]:
    """(N,) scores of each category."""
    found = []
    with task("Judging", len(texts), "texts") as shown:
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            found += moderator.scores([moderator.encode(text) for text in batch])
            shown.advance(len(batch))
    return {name: np.array([scores[name].value for scores in found]) for name in moderator.policy.categories}


def _blocked(moderator: Moderator, values: Mapping[str, Floats]) -> Bools:
    """(N,) whether a policy in mode block would have blocked a text."""
    blocking = [name for name, one in moderator.policy.categories.items() if getattr(one, moderator.side) == "block"]
    reached = [values[name] >= moderator.thresholds[name] for name in blocking]
    found: Bools = np.any([*reached, np.zeros(len(next(iter(values.values()))), bool)], axis=0)
    return found


def _joint(blocked: Mapping[str, Bools], gold: Bools) -> dict[str, dict[str, Any]]:
    """What each policy, any and all of them block: of all texts, of those in a category of the first, of the others."""
    rows, together, everyone = dict(blocked), [*blocked.values()], np.ones(len(gold), bool)
    if len(blocked) > 1:
        rows |= {"any policy": np.logical_or.reduce(together), "all policies": np.logical_and.reduce(together)}
    parts = [(part, of) for part, of in zip(PARTS, (everyone, gold, ~gold), strict=True) if of.any()]
    return {
        name: {part: wilson_interval(int(one[of].sum()), int(of.sum())).as_json() for part, of in parts}
        for name, one in rows.items()
    }


def _scores(gold: Bools, values: Floats, threshold: float) -> dict[str, Any]:
    predicted = values >= threshold
    matrix, reliability = confusion_matrix(gold.astype(int), predicted.astype(int), 2), reliability_table(values, gold)
    return {
        "auroc": auroc(gold, values),
        "auprc": average_precision(gold, values),
        "calibration_error": expected_calibration_error(reliability),
        "reliability": [{**asdict(row), "rate": row.rate.as_json()} for row in reliability],
        "balanced_accuracy": balanced_accuracy(matrix),
        "majority_rate": majority_rate(matrix),
        **_rates(gold, predicted, ["all"] * len(gold))["all"],
        "curve": {f"{at:g}": _at(gold, values >= at) for at in (*CURVE, threshold)},
    }


def _at(gold: Bools, predicted: Bools) -> dict[str, float]:
    """False positives and negatives of all texts, and what they cost on average, at one threshold."""
    wrong, missed = float((predicted & ~gold).mean()), float((gold & ~predicted).mean())
    mean_costs = {f"cost {one}:{other}": one * wrong + other * missed for one, other in COSTS}
    return {"false positives": wrong, "false negatives": missed, **mean_costs}


def _rates(gold: Bools, predicted: Bools, slices: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Number, accuracy and error rates of each slice, with Wilson's intervals; a rate without examples is missing."""
    names = np.asarray(slices, object)
    found: dict[str, dict[str, Any]] = {name: {"texts": int((names == name).sum())} for name in dict.fromkeys(slices)}
    among_all, hits_all = (gold | ~gold, ~gold, gold), (gold == predicted, predicted, ~predicted)
    for rate, among, hits in zip(RATES, among_all, hits_all, strict=True):
        if among.any():
            for one in score_by_slice(hits[among], names[among].tolist()):
                found[one.name][rate] = one.score.as_json()
    return found


def _by_group(gold: Bools, predicted: Bools, slices: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = _rates(gold, predicted, slices)
    rates = {name: one["false_positive_rate"]["value"] for name, one in found.items() if "false_positive_rate" in one}
    for name, rate in rates.items():
        found[name]["far"] = bool(abs(rate - np.mean([*rates.values()])) > FAR)
    return found


def _swaps(moderator: Moderator, batch_size: int) -> dict[str, list[dict[str, Any]]]:
    """For each category and template, the groups with the lowest and the highest score."""
    texts = [template.format(group) for template in TEMPLATES for group in GROUPS]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, values in _scored(moderator, texts, batch_size).items():
        found[name] = []
        for template, scores in zip(TEMPLATES, values.reshape(len(TEMPLATES), -1), strict=True):
            ends = {"lowest": GROUPS[scores.argmin()], "highest": GROUPS[scores.argmax()]}
            reached = int((scores >= moderator.thresholds[name]).sum())
            spread = {"from": float(scores.min()), "to": float(scores.max()), "in_category": reached}
            found[name].append({"template": template, **ends, **spread})
    return found


def described(found: Mapping[str, Any]) -> str:
    """An audit as tables for a terminal."""
    parts = ["; ".join([f"{found['texts']:,} labelled texts", *found["left_out"], f"sha256 {found['digest'][:12]}"])]
    for name, one in found["categories"].items():
        sides = [", ".join(f"{label} ({count:,})" for label, count in one[side].items()) for side, _ in SIDES]
        parts.append(
            f"{name}: the model's {', '.join(one['model_labels'])}, from {one['threshold']:g}. Of the table, "
            f"{sides[0]} is in the category, {sides[1] or 'nothing'} is not"
        )
        parts.append(aligned([(key.replace("_", " "), _shown(one.get(key))) for key in (*SCORES, *RATES)]))
        keys = next(iter(one["curve"].values()))
        curve = [(key, *(f"{at[key]:.3f}" for at in one["curve"].values())) for key in keys]
        parts.append(aligned([("AT THRESHOLD", *one["curve"]), *curve]))
        for column, groups in one["groups"].items():
            header = (column, "TEXTS", "ACCURACY", "FALSE POSITIVE RATE", "FALSE NEGATIVE RATE", "")
            rows = [
                (group, row["texts"], *(_shown(row.get(key)) for key in RATES), FAR_NOTE if row.get("far") else "")
                for group, row in groups.items()
            ]
            parts.append(aligned([header, *rows]))
        swaps = [(f"{name} WITH OTHER GROUPS", "LOWEST", "", "HIGHEST", "", "IN THE CATEGORY")]
        for row in found["swaps"][name]:
            ends = row["lowest"], f"{row['from']:.3f}", row["highest"], f"{row['to']:.3f}"
            swaps.append((row["template"].format("..."), *ends, f"{row['in_category']} of {len(GROUPS)} groups"))
        parts.append(aligned(swaps))
    heads = (f"BLOCKED AS {found['side'].upper()}S", "OF ALL", "OF THOSE IN A CATEGORY", "OF THE OTHERS")
    shares = [(name, *(_shown(row.get(part)) for part in PARTS)) for name, row in found["blocked"].items()]
    return "\n\n".join([*parts, aligned([heads, *shares])])


def _shown(value: float | Mapping[str, float] | None) -> str:
    if isinstance(value, Mapping):
        return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})"
    return "-" if value is None else f"{value:.4f}"
