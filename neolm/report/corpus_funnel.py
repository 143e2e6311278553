"""The funnel of a corpus: how much of the raw text each step leaves, in tokens too once there are shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.manifest import Manifest, read_manifest
from neolm.core.progress import count
from neolm.report.chart import Bar, bar_chart
from neolm.report.pages import Figure, data_size


def shards_of(corpus: Path, manifest: Manifest) -> Manifest | None:
    """The manifest of the shards beside a corpus, if they were made of it."""
    made = read_manifest(corpus.with_name("shards"))
    read = made.inputs.get("corpus") if made else None
    return made if read and read.digest == manifest.digest else None


def source_tokens(shards: Path) -> dict[str, tuple[int, int]]:
    """Tokens and bytes of each source in both splits of the shards; empty if an earlier version made them."""
    try:
        tables = [pq.read_table(path, columns=["source", "tokens", "bytes"]) for path in shards.glob("*.index.parquet")]
    except pa.ArrowInvalid:
        return {}
    groups = pa.concat_tables(tables).group_by("source").aggregate([("tokens", "sum"), ("bytes", "sum")])
    return {row["source"]: (row["tokens_sum"], row["bytes_sum"]) for row in groups.to_pylist()}


def stage_tokens(
    counts: Mapping[str, Any],
    shards: Mapping[str, Any],
    sources: Mapping[str, tuple[int, int]],
    dropped: Mapping[str, Mapping[str, int]],
) -> dict[str, str]:
    """Tokens of the bars of the funnel, in words: exact for kept text; else `about`, by the bytes per token of sources.

    `shards` are the counts of the shards, `dropped` the stored bytes of each reason by source.
    """
    splits = {split: shards[split]["tokens"] for split in ("train", "validation")}
    kept = sum(splits.values())
    usual = kept / max(1, sum(shards[split]["bytes"] for split in splits))
    guesses = {}
    for reason, value in counts["rejected"].items():
        stored = dropped.get(reason, {})
        tokens = {name: sources[name][0] / max(1, sources[name][1]) if name in sources else usual for name in stored}
        total = sum(stored.values())
        rate = sum(size * tokens[name] for name, size in stored.items()) / total if total else usual
        guesses[reason] = value["bytes"] * rate
    if cut := counts.get("repeated_text"):
        guesses["cut"] = cut["bytes"] * usual
    about = {"read": kept + sum(guesses.values()), **guesses}
    exact = {name: f"{number:,} tokens" for name, number in {"kept": kept, **splits}.items()}
    return {name: f"about {count(number)} tokens" for name, number in about.items()} | exact


def funnel_figure(counts: Mapping[str, Any], tokens: Mapping[str, str] | None = None) -> Figure:
    """Bars of the bytes at each step, with the numbers of documents, by the counts of the corpus."""

    def bar(name: str, value: dict[str, int], key: str, start: float = 0, quiet: bool = False) -> Bar:
        number = f"{value['documents']:,}"
        if value.get("parts", value["documents"]) != value["documents"]:
            number += f" in {value['parts']:,} parts"
        label = " \u00b7 ".join(
            [number, data_size(value["bytes"]), *([tokens[key]] if tokens and key in tokens else [])]
        )
        return Bar(name, value["bytes"], label, None, start, quiet)

    bars, left = [bar("read", counts["read"], "read", quiet=True)], float(counts["read"]["bytes"])
    for reason, value in sorted(counts["rejected"].items(), key=lambda item: -item[1]["bytes"]):
        left = max(0.0, left - value["bytes"])
        words = counts.get("reasons", {}).get(reason, reason.replace("_", " "))
        bars.append(bar(f"dropped: {words}", value, reason, left, quiet=True))
    if cut := counts.get("repeated_text"):
        left = max(0.0, left - cut["bytes"])
        bars.append(bar("cut out: repeated text", cut, "cut", left, quiet=True))
    train = counts["train"]
    bars += [bar("kept", counts["kept"], "kept"), bar("for training", train, "train")]
    bars.append(bar("for validation", counts["validation"], "validation", train["bytes"]))
    caption = "Number of documents \u00b7 size of their text."
    if tokens:
        caption += (
            " Tokens are counted where text was kept, and estimated by the bytes per token of each source elsewhere."
        )
    return Figure(lambda width: bar_chart(bars, "The corpus funnel", width), caption)
