"""What decode.py has measured, as a section of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from typing import Any

from machine import describe
from report import ratio, spread, table

Series = dict[str, list[float]]  # tokens a second by contestant


def weights_read(shape: dict[str, Any]) -> int:
    """Weights that are read for a token: all matrices, the head among them, of other tables one row."""
    h = shape["hidden_size"]
    return int(12 * shape["num_layers"] * h * h + shape["vocab_size"] * h)


def reading_flops(shape: dict[str, Any], length: int) -> float:
    """What reading a prompt takes: two for every weight of the blocks and token, and each pair of attention four times
    the width; in GPT-Neo's local layers the pairs within the window only, whatever a contestant computes.
    """
    h, layers = shape["hidden_size"], shape["num_layers"]
    local = layers // 2 if shape["family"] == "gpt-neo" else 0
    window = min(shape["window_size"], length)
    pairs = (layers - local) * length * (length + 1) / 2
    pairs += local * (window * (window + 1) / 2 + (length - window) * window)
    return float(2 * 12 * layers * h * h * length + 4 * h * pairs)


def section(results: dict[str, Any]) -> str:
    """The results of all shapes."""
    parts = [describe(results["machine"], results["measured"])]
    if results["versions"]:
        parts[0] += " Peers: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    for shape in results["shapes"].values():
        contestants = shape["contestants"]
        parts.append(
            f"**`{shape['name']}`**: {shape['family']}, {shape['num_layers']} layers of {shape['hidden_size']}, "
            f"vocabulary {shape['vocab_size']:,}; a token takes {weights_read(shape) / 1e6:,.1f} million weights."
        )
        for name, (texts, length, tokens) in shape["works"].items():
            rows = _rows(shape, name, texts, length, tokens)
            together = "" if texts == 1 else f" of each of {texts} texts together"
            what = f"Writing {tokens - 1:,} tokens{together} after {length:,}" if tokens > 1 else f"Reading {length:,}"
            share = "share of memory's speed" if tokens > 1 else "share of the product's speed"
            header = ["contestant", "bits", "tokens/s", share, "times transformers", "neolm is faster by"]
            parts += [f"{what}:", table(header, rows) if rows else "Nothing was measured."]
        parts += _remarks(contestants)
    parts.append(f"Made by `{results['command']}`.")
    return "\n\n".join(parts)


def _rows(shape: dict[str, Any], name: str, texts: int, length: int, tokens: int) -> list[list[str]]:
    """The table of one kind of work; ratios are of contestants with the same bits, or else those of bfloat16."""
    measured = {who: one for who, one in shape["contestants"].items() if name in one.get("times", {})}
    speeds: Series = {
        who: [texts * (tokens - 1) / seconds for seconds in one["times"][name]["decoding"]]
        if tokens > 1
        else [texts * length / seconds for seconds in one["times"][name]["reading"]]
        for who, one in measured.items()
    }
    rows = []
    for who, series in speeds.items():
        one, median = measured[who], statistics.median(series)
        if tokens > 1:
            rate = median / texts * weights_read(shape) * one["bits"] / 8
            ceiling = _median(shape, "bandwidth")
        else:
            rate = median / length * reading_flops(shape, length)
            ceiling = _median(shape, f"flops_{'float32' if one['precision'] == 'float32' else 'bfloat16'}")
        theirs = f"transformers-{'float32' if one['precision'] == 'float32' else 'bfloat16'}"
        ours = f"neolm-{one['precision']}"
        rows.append(
            [
                who,
                f"{one['bits']:g}",
                spread(series, 0 if median >= 100 else 1),
                f"{rate / ceiling:.0%}",
                _against(who, theirs, speeds, upside_down=False),
                _against(who, ours, speeds, upside_down=True),
            ]
        )
    return rows


def _against(who: str, other: str, speeds: Series, upside_down: bool) -> str:
    if who == other:
        return "1"
    if other not in speeds:
        return "-"
    return ratio(speeds[other], speeds[who]) if upside_down else ratio(speeds[who], speeds[other])


def _median(shape: dict[str, Any], key: str) -> float:
    return statistics.median(row[key] for row in shape["measured"])


def _remarks(contestants: dict[str, Any]) -> list[str]:
    """What is to be said below the tables of a shape: whether all wrote the same, and who was left out."""
    parts = []
    wrote = {
        who: one["ids"]["write 1"]
        for who, one in contestants.items()
        if one["precision"] == "float32" and "write 1" in one.get("ids", {})
    }
    theirs = wrote.pop("transformers-float32", None)
    if theirs and wrote:
        same = (f"{who} {_agreed(ids, theirs)} of {len(theirs)}" for who, ids in wrote.items())
        parts.append(f"The first tokens in float32 that are the same as transformers': {', '.join(same)}.")
    caches = {cache for one in contestants.values() for cache in one.get("facts", {}).get("cache", {}).values()}
    if caches:
        parts.append(f"transformers' fastest cache was the {' or the '.join(sorted(caches))} one.")
    left_out: dict[str, list[str]] = {}
    for who, one in contestants.items():
        if "failed" in one:
            left_out.setdefault(one["failed"], []).append(who)
    if left_out:
        each = [f"{', '.join(names)} ({why})" for why, names in left_out.items()]
        parts.append(f"Left out: {'; '.join(each)}.")
    return parts


def _agreed(ids: list[int], others: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b), len(ids))
