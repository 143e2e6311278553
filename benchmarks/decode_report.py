"""Format the results of decode.py as a section of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from typing import Any

from machine import describe
from report import ratio, spread, table

Speeds = dict[str, list[float]]  # tokens per second of each contestant


def weights_read(shape: dict[str, Any]) -> int:
    """Number of weights read per token: all matrices, including the head, but not the embeddings."""
    h = shape["hidden_size"]
    return int(12 * shape["num_layers"] * h * h + shape["vocab_size"] * h)


def prefill_flops(shape: dict[str, Any], length: int) -> float:
    """FLOPs of a prefill: two per token and weight of the layers, and four times the width per pair of attention.

    In GPT-Neo's local layers only pairs within the window count, whatever a contestant computes.
    """
    h, layers = shape["hidden_size"], shape["num_layers"]
    local = layers // 2 if shape["family"] == "gpt-neo" else 0
    window = min(shape["window_size"], length)
    pairs = (layers - local) * length * (length + 1) / 2
    pairs += local * (window * (window + 1) / 2 + (length - window) * window)
    return float(2 * 12 * layers * h * h * length + 4 * h * pairs)


def section(results: dict[str, Any]) -> str:
    """Return the section with the results of all shapes."""
    parts = [describe(results["machine"], results["measured"])]
    if results["versions"]:
        parts[0] += " Peers: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    for shape in results["shapes"].values():
        contestants = shape["contestants"]
        parts.append(
            f"**`{shape['name']}`**: {shape['family']}, {shape['num_layers']} layers of {shape['hidden_size']}, "
            f"vocabulary {shape['vocab_size']:,}; weights read per token: {weights_read(shape) / 1e6:,.1f} million."
        )
        for name, (texts, length, tokens) in shape["works"].items():
            rows = _rows(shape, name, texts, length, tokens)
            batch = "" if texts == 1 else f" for each of {texts} texts in one batch"
            workload = (
                f"Writing {tokens - 1:,} tokens{batch} after a prompt of {length:,}"
                if tokens > 1
                else f"Reading a prompt of {length:,} tokens"
            )
            share = "share of peak memory reads" if tokens > 1 else "share of peak FLOP/s"
            header = ["contestant", "bits", "tokens/s", share, "ratio to transformers", "speedup of neolm"]
            parts += [f"{workload}:", table(header, rows) if rows else "Nothing was measured."]
        parts += _remarks(contestants)
    parts.append(f"Made by `{results['command']}`.")
    return "\n\n".join(parts)


def _rows(shape: dict[str, Any], name: str, texts: int, length: int, tokens: int) -> list[list[str]]:
    """Return the rows for one workload. Ratios compare contestants of the same precision, or else with bfloat16."""
    measured = {contestant: one for contestant, one in shape["contestants"].items() if name in one.get("times", {})}
    speeds: Speeds = {
        contestant: [texts * (tokens - 1) / seconds for seconds in one["times"][name]["decoding"]]
        if tokens > 1
        else [texts * length / seconds for seconds in one["times"][name]["reading"]]
        for contestant, one in measured.items()
    }
    rows = []
    for contestant, series in speeds.items():
        one, median = measured[contestant], statistics.median(series)
        if tokens > 1:
            rate = median / texts * weights_read(shape) * one["bits"] / 8
            peak = _median(shape, "bandwidth")
        else:
            rate = median / length * prefill_flops(shape, length)
            peak = _median(shape, f"flops_{'float32' if one['precision'] == 'float32' else 'bfloat16'}")
        theirs = f"transformers-{'float32' if one['precision'] == 'float32' else 'bfloat16'}"
        ours = f"neolm-{one['precision']}"
        rows.append(
            [
                contestant,
                f"{one['bits']:g}",
                spread(series, 0 if median >= 100 else 1),
                f"{rate / peak:.0%}",
                _speed_ratio(contestant, theirs, speeds, inverted=False),
                _speed_ratio(contestant, ours, speeds, inverted=True),
            ]
        )
    return rows


def _speed_ratio(contestant: str, other: str, speeds: Speeds, inverted: bool) -> str:
    if contestant == other:
        return "1"
    if other not in speeds:
        return "-"
    return ratio(speeds[other], speeds[contestant]) if inverted else ratio(speeds[contestant], speeds[other])


def _median(shape: dict[str, Any], key: str) -> float:
    return statistics.median(row[key] for row in shape["measured"])


def _remarks(contestants: dict[str, Any]) -> list[str]:
    """Return remarks below the tables of a shape: agreement of the tokens, caches, and contestants left out."""
    parts = []
    generated = {
        contestant: one["ids"]["write 1"]
        for contestant, one in contestants.items()
        if one["precision"] == "float32" and "write 1" in one.get("ids", {})
    }
    theirs = generated.pop("transformers-float32", None)
    if theirs and generated:
        same = (f"{contestant} {_common_prefix(ids, theirs)} of {len(theirs)}" for contestant, ids in generated.items())
        parts.append(f"Leading tokens in float32 equal to those of transformers: {', '.join(same)}.")
    caches = {cache for one in contestants.values() for cache in one.get("facts", {}).get("cache", {}).values()}
    if caches:
        parts.append(f"The fastest cache of transformers was the {' or the '.join(sorted(caches))} one.")
    left_out: dict[str, list[str]] = {}
    for contestant, one in contestants.items():
        if "failed" in one:
            left_out.setdefault(one["failed"], []).append(contestant)
    if left_out:
        each = [f"{', '.join(names)} ({why})" for why, names in left_out.items()]
        parts.append(f"Left out: {'; '.join(each)}.")
    return parts


def _common_prefix(ids: list[int], others: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b), len(ids))
