"""`neolm corpus train-filter`: train the quality classifier of `corpus.quality`, and measure it on texts held out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neolm.core.artifact import Stage
from neolm.core.errors import InputError, SettingError
from neolm.core.manifest import read_manifest
from neolm.core.progress import task
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filters import judge
from neolm.corpus.quality import STAGE, WEIGHTS, Features, fit, quality_scores
from neolm.corpus.records import read_records
from neolm.corpus.sources import RawText
from neolm.corpus.text import clean
from neolm.metrics.calibration import expected_calibration_error, reliability_table
from neolm.metrics.intervals import bootstrap_score
from neolm.metrics.ranking import auroc

FEWEST, MOST = 25, 50_000  # documents of a side
HELD_OUT = 0.2  # share of the smaller side, of which so many documents of both sides are held out
SIDES = ("positive", "negative")


def train_filter(positive: Path, negative: Path, output: Path, l2: float) -> None:
    """Write the classifier of `positive` and `negative` files to `output`, unless it is up to date.

    Raises:
        InputError: the files cannot be read or have too few documents, or `output` is something else.
    """
    made, raws = read_manifest(output), {}
    if output.exists() and (made is None or made.stage != STAGE):
        raise InputError(f"{output} exists and is no filter; choose another --output")
    for side, path in zip(SIDES, (positive, negative), strict=True):
        raws[side] = RawText(CorpusConfig(source="files", path=str(path)), output)
        try:
            raws[side].found  # noqa: B018 - raises what is wrong with the files
        except SettingError as error:
            raise InputError(f"{side.upper()}: {error.problem}") from None
    stage = Stage(STAGE, "corpus", output, raws, {"l2": l2})
    stage.ensure(lambda directory: _train(directory, raws, l2), _summary)


def _train(directory: Path, raws: Mapping[str, RawText], l2: float) -> dict[str, Any]:
    """Write the weights and return the counts: documents, and the scores of those that are held out."""
    from safetensors.numpy import save_file

    found, counts = {}, {}
    for side, raw in raws.items():
        with task(f"filter: reading {side}", sum(file.size for file in raw.found.files) / 1e6, "MB") as bar:
            read = {"records": 0}
            found[side] = dict(heapq.nsmallest(MOST, _texts(raw, read, bar.advance)))
        counts[side] = read
    shared = found["positive"].keys() & found["negative"].keys()
    sides = [[text for key, text in found[side].items() if key not in shared] for side in SIDES]
    for side, texts in zip(SIDES, sides, strict=True):
        counts[side]["used"] = len(texts)
        if len(texts) < FEWEST:
            raise InputError(f"{side.upper()}: {len(texts)} different documents are too few; give {FEWEST} or more")
    size = round(HELD_OUT * min(map(len, sides)))  # the texts are sorted by hash: the first are a random sample
    with task("filter: training"):
        gold = np.repeat([True, False], [len(texts) - size for texts in sides])
        weights = fit(Features.of(text for texts in sides for text in texts[size:]), gold, l2).astype(np.float32)
    save_file({"weights": weights}, directory / WEIGHTS)
    scores = quality_scores(weights.astype(np.float64), (text for texts in sides for text in texts[:size]))
    truth = np.repeat([True, False], size)
    bins = reliability_table(scores, truth)

    def error(rows: Any) -> float:
        return expected_calibration_error(reliability_table(scores[rows], truth[rows]))

    return {
        **counts,
        "in_both": len(shared),
        "held_out": size,
        "auroc": bootstrap_score(lambda rows: auroc(truth[rows], scores[rows]), 2 * size).as_json(),
        "calibration_error": bootstrap_score(error, 2 * size).as_json(),
        "reliability": [{"score": b.probability, "documents": b.count, "positive": b.rate.as_json()} for b in bins],
        "kept_at_alpha_9": dict(zip(SIDES, ((2 - scores) ** -9.0).reshape(2, size).mean(axis=1).tolist(), strict=True)),
    }


def _texts(raw: RawText, read: dict[str, int], advance: Any) -> Iterator[tuple[bytes, str]]:
    """The different texts of a side that the corpus would accept, each with its hash; `read` counts the records."""
    seen = set()
    for file in raw.found.files:
        for record in read_records(file, raw.config):
            read["records"] += 1
            text = clean(record.text)
            key = hashlib.blake2b(text.strip().encode("utf-8"), digest_size=16).digest()
            if not record.reason and not judge(text, raw.config) and key not in seen:
                seen.add(key)
                yield key, text
        advance(file.size / 1e6)


def _summary(counts: Mapping[str, Any]) -> str:
    used = " and ".join(f"{counts[side]['used']:,} of {counts[side]['records']:,} {side}" for side in SIDES)
    shown = "{value:.3f} ({low:.3f} to {high:.3f})".format
    kept = counts["kept_at_alpha_9"]
    return (
        f"{used} documents; {counts['in_both']:,} texts on both sides are left out\n"
        f"filter: {counts['held_out']:,} of each held out: AUROC {shown(**counts['auroc'])}, calibration error "
        f"{shown(**counts['calibration_error'])}; alpha 9 keeps {kept['positive']:.1%} of the positive and "
        f"{kept['negative']:.1%} of the negative ones"
    )
