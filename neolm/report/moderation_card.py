"""The card of a moderation policy: the page of an audit, with the numbers of `neolm moderate --audit --json`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import check_output_file
from neolm.report.chart import Bar, Line, Marks, bar_chart, line_chart
from neolm.report.finetune_figures import reliability_figure
from neolm.report.pages import GENERATOR, HALF, Figure, plural, render

WEAK = 0.6  # balanced accuracy below which a category is called hardly better than chance
ERRORS = {"false_positive_rate": "Wrongly caught, of the others", "false_negative_rate": "Missed, of the texts in it"}
Found = Mapping[str, Any]


def moderation_card(found: Found) -> str:
    """The page of an audit as `neolm.moderation.audit.audit` returns it."""
    policy, table = Path(found["policy"]).name, found["table"]
    return render(
        "moderation_card.html",
        found=found,
        policy=policy,
        table_name=Path(table["path"]).name,
        cards=[_card(name, one, found["swaps"][name]) for name, one in found["categories"].items()],
        blocked=[(name, *_rates(row, "all", "in_category", "others")) for name, row in found["blocked"].items()],
        facts=[
            ("Policy", f"{policy}, version {found['version']}, mode {found['mode']}"),
            ("SHA-256 of the policy and its models", found["digest"]),
            ("Table", f"{table['path']}, {plural(found['texts'], 'text')}"),
            ("SHA-256 of the table", table["sha256"]),
            ("Rows left out", "; ".join(found["left_out"])),
            ("NeoLM", found["neolm"]),
        ],
    )


def check_page(target: Path) -> None:
    """Raise `InputError` if the card cannot be written to `target`."""
    if target.suffix.lower() != ".html":
        raise InputError(f"{target}: with --audit, --output is a page, such as {target.with_suffix('.html')}")
    check_output_file(target, "card.html", "a page written by NeoLM", f'name="generator" content="{GENERATOR} ')


def _card(name: str, found: Found, swaps: list[Found]) -> dict[str, Any]:
    """What the page shows of a category."""
    balanced, curve, spread = found["balanced_accuracy"], found["curve"], ("lowest", "from", "highest", "to")
    labels = {side: ", ".join(f"{one} ({n:,})" for one, n in found[side].items()) for side in ("positive", "negative")}
    wrong, missed = (found.get(error, {}).get("value") for error in ERRORS)
    finds = [] if missed is None else [f"finds {1 - missed:.0%} of the texts in it"]
    finds += [] if wrong is None else [f"wrongly catches {wrong:.0%} of the others"]
    return {
        "name": name,
        "found": found,
        "weak": balanced is not None and balanced < WEAK,
        "sentence": f"\u201c{name}\u201d {' and '.join(finds)}, from a probability of {found['threshold']:g}.",
        "facts": [
            ("Labels of the model that count", f"{', '.join(found['model_labels'])} ({found['model']})"),
            ("Labels of the table that are in it", labels["positive"]),
            ("Labels of the table that are not", labels["negative"] or "none"),
            (
                "From a probability of",
                f"{found['threshold']:g}, a prompt: {found['prompt']}, an answer: {found['answer']}",
            ),
        ],
        "scores": _scores(found),
        "reliability": reliability_figure(found["reliability"], "share that is in it"),
        "curves": [_curve(found, "share", False), _curve(found, "cost", True)],
        "curve_rows": [(at, *(f"{value:.3f}" for value in values.values())) for at, values in curve.items()],
        "groups": [
            (
                column,
                [figure for error in ERRORS if (figure := _bars(column, rows, error))],
                [(group, f"{row['texts']:,}", *_rates(row, "accuracy", *ERRORS)) for group, row in rows.items()],
            )
            for column, rows in found["groups"].items()
        ],
        "swaps": [
            (row["template"].format("[group]"), *(_written(row[key]) for key in spread), str(row["in_category"]))
            for row in swaps
        ],
    }


def _scores(found: Found) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each score."""
    share = sum(found["positive"].values()) / max(1, sum(sum(found[s].values()) for s in ("positive", "negative")))
    accuracy, wrong, missed = _rates(found, "accuracy", *ERRORS)
    return [
        ("AUROC", _written(found["auroc"]), "chance that a text in it scores higher than another; guessing has 0.5"),
        ("AUPRC", _written(found["auprc"]), f"mean precision over all thresholds; guessing has {share:.3f}"),
        ("Balanced accuracy", _written(found["balanced_accuracy"]), "mean of both sides; guessing has 0.5"),
        ("Accuracy", accuracy, f"always giving the same answer has {found['majority_rate']:.1%}"),
        ("False-positive rate", wrong, "of the texts that are not in it"),
        ("False-negative rate", missed, "of the texts in it"),
        (
            "Calibration error",
            _written(found["calibration_error"]),
            "mean distance of the probability from the share in it",
        ),
    ]


def _curve(found: Found, label: str, costs: bool) -> Figure:
    """Errors, or what they cost, by threshold."""
    points = sorted((float(at), values) for at, values in found["curve"].items())
    names = [name for name in points[0][1] if name.startswith("cost") == costs]
    lines = [Line(name, [(x, values[name]) for x, values in points], dots=True) for name in names]
    own = Marks("threshold of the policy", [found["threshold"]])
    caption = "Mean cost of a text. 1:5: a missed text costs five times as much as one that is wrongly caught."
    draw = partial(line_chart, lines, "threshold", label, height=260, zero_y=True, marks=own, last=False)
    return Figure(draw, caption if costs else "False positives and negatives as shares of all texts.", HALF)


def _bars(column: str, rows: Found, error: str) -> Figure | None:
    """An error rate of the groups in a column, the highest first; None if no group has it."""
    found = sorted(
        ((name, row[error], row) for name, row in rows.items() if error in row), key=lambda r: -r[1]["value"]
    )
    tones = [int(bool(row.get("far"))) if error == "false_positive_rate" else 0 for *_, row in found]
    bars = [
        Bar(name, rate["value"], f"{rate['value']:.0%}", (rate["low"], rate["high"]), tone=tone)
        for (name, rate, _), tone in zip(found, tones, strict=True)
    ]
    far = " Orange: more than 10 points from the mean of the groups." if any(tones) else ""
    heading = f"{ERRORS[error]}, by {column}"
    return Figure(partial(bar_chart, bars, heading), f"{heading}, with intervals of 95%.{far}", HALF) if bars else None


def _rates(row: Found, *names: str) -> list[str]:
    """Rates with their intervals; a dash for one without texts."""
    found = [row.get(name) for name in names]
    return ["\u2013" if f is None else f"{f['value']:.1%} ({f['low']:.1%} to {f['high']:.1%})" for f in found]


def _written(value: float | str | None) -> str:
    return value if isinstance(value, str) else "\u2013" if value is None else f"{value:.4f}"
