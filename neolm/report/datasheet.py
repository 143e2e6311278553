"""The datasheet of a corpus: what is in it and where it came from, as a page and as Markdown.

The questions are those of Datasheets for Datasets (Gebru et al. 2021), in short words, and of the European Union's
template for the public summary of training content (July 2025). What was measured is answered; the rest stays
visibly open, for a person to answer.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neolm.core.files import write_text
from neolm.core.manifest import MANIFEST, Manifest, require
from neolm.report.chart import Bar, bar_chart
from neolm.report.corpus_funnel import funnel_figure, shards_of, source_tokens, stage_tokens
from neolm.report.pages import Figure, data_size, plural, render

KEPT_SHOWN, REJECTED_SHOWN, CHARACTERS_SHOWN = 20, 10, 400
ROWS_SHOWN = 20
PLACES_SHOWN = 5  # of corpus.path
COLUMNS = ("id", "text", "source", "licence", "metadata")
FILES = ("datasheet.html", "datasheet.md")
Question = tuple[str, str | None]
"""A question and its answer; None: a person has to answer it."""


@dataclass
class Contents:
    """What the rows of a corpus have: documents and bytes by kind, and some of the rows."""

    sources: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    licences: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    languages: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Rows by the power of two that their number of characters does not reach."""
    kept: list[dict[str, str]] = field(default_factory=list)
    rejected: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    dropped: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Stored bytes of each reason by source."""


def write_datasheet(corpus: Path) -> None:
    """Write `datasheet.html` and `datasheet.md` into a finished corpus, unless they are as new as it and its shards.

    Raises:
        NeoLMError: the corpus is not finished.
    """
    manifest = require(corpus, "corpus", "corpus build")
    shards = shards_of(corpus, manifest)
    built = [corpus, corpus.with_name("shards")] if shards else [corpus]
    made = max((stage / MANIFEST).stat().st_mtime for stage in built)
    if all((corpus / name).is_file() and (corpus / name).stat().st_mtime >= made for name in FILES):
        return
    values = _values(corpus, manifest, _read(corpus), shards)
    for name in FILES:
        write_text(corpus / name, render(name, **values))


def _read(corpus: Path) -> Contents:
    found = Contents()
    chosen: list[tuple[str, dict[str, str]]] = []
    for row in _rows(corpus / "documents"):
        size, licence = len(row["text"].encode("utf-8")), row["licence"] or "unknown"
        for group in (found.sources[row["source"]], found.licences[licence]):
            group["documents"] += 1
            group["bytes"] += size
        found.languages[json.loads(row["metadata"]).get("language", "")] += 1
        found.lengths[max(6, len(row["text"]).bit_length())] += 1
        _sample(chosen, row, KEPT_SHOWN)
    found.kept = [row for _, row in chosen]
    by_reason: defaultdict[str, list[tuple[str, dict[str, str]]]] = defaultdict(list)
    for row in _rows(corpus / "rejected", "reason"):
        _sample(by_reason[row["reason"]], row, REJECTED_SHOWN)
        found.dropped[row["reason"]][row["source"]] += len(row["text"].encode("utf-8"))
    found.rejected = {reason: [row for _, row in by_reason[reason]] for reason in sorted(by_reason)}
    return found


def _rows(folder: Path, *more: str) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=[*COLUMNS, *more]):
                yield from batch.to_pylist()


def _sample(chosen: list[tuple[str, dict[str, str]]], row: Mapping[str, str], size: int) -> None:
    """Keep `row` if the hash of its id is among the `size` smallest, which is a random sample of the ids."""
    key = hashlib.blake2b(row["id"].encode("utf-8"), digest_size=8).hexdigest()
    if len(chosen) < size or key < chosen[-1][0]:
        text = " ".join(row["text"].split())
        told = json.loads(row["metadata"])
        why = told.get("why") or told.get("error") or (f"of {told['duplicate_of']}" if "duplicate_of" in told else "")
        shown = text[:CHARACTERS_SHOWN] + ("…" if len(text) > CHARACTERS_SHOWN else "")
        entry = (key, {"id": row["id"], "source": row["source"], "text": shown, "why": str(why)})
        chosen[:] = heapq.nsmallest(size, [*chosen, entry], key=lambda one: one[0])


def _values(corpus: Path, manifest: Manifest, found: Contents, shards: Manifest | None) -> dict[str, Any]:
    counts, tokens = manifest.counts, dict[str, str]()
    if shards is not None and counts.get("read") and (of_source := source_tokens(corpus.with_name("shards"))):
        tokens = stage_tokens(counts, shards.counts, of_source, found.dropped)
        for name, (number, _) in of_source.items():
            found.sources[name]["tokens"] = number
    total = found.lengths.total() or 1
    lengths = [
        Bar(f"under {2**power:,}", number, f"{number / total:.1%}") for power, number in sorted(found.lengths.items())
    ]
    languages = [(name or "not measured", f"{number:,}") for name, number in found.languages.most_common(ROWS_SHOWN)]
    masked = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in counts.get("masked", {}).items())
    shared: dict[str, Any] = {
        "name": corpus.resolve().parent.name,
        "manifest": manifest,
        "counts": counts,
        "sources": _table(found.sources, ("tokens",) if tokens else ()),
        "tokens": tokens,
        "licences": _table(found.licences),
        "languages": languages,
        "measured_languages": set(found.languages) - {""},
        "masked": masked,
        "evaluations": [
            _evaluation_row(*one) for one in counts.get("contamination", {}).get("evaluations", {}).items()
        ],
        "kept": found.kept,
        "rejected": found.rejected,
        "reasons": counts.get("reasons", {}),
        "funnel": funnel_figure(counts, tokens) if counts.get("read") else None,
        "lengths": Figure(lambda width: bar_chart(lengths, "Documents by length", width)),
        "length_rows": [(bar.name, bar.label) for bar in lengths],
    }
    questions, union = _questions(manifest, found, masked), _union_summary(manifest, found)
    answers = [answer for _, part in [*questions, *union] for _, answer in part]
    return {**shared, "questions": questions, "union": union, "open": answers.count(None), "asked": len(answers)}


def _evaluation_row(name: str, counts: Mapping[str, Any]) -> tuple[str, ...]:
    """An evaluation set: its items, those in the corpus with their share, their documents, and those not judged."""
    items, touched, unjudged = counts["items"], counts["touched"], sum(counts["not_judged"].values())
    return name, f"{items:,}", f"{touched:,} ({touched / items:.1%})", f"{counts['documents']:,}", f"{unjudged:,}"


def _table(groups: Mapping[str, Counter[str]], more: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Name, documents, size and `more` counts of the largest groups, and of the rest together."""
    order = sorted(groups, key=lambda name: (-groups[name]["bytes"], name))
    parts = [(name, [name]) for name in order[:ROWS_SHOWN]]
    if rest := order[ROWS_SHOWN:]:
        parts.append((f"{len(rest):,} others", rest))
    sums = [(label, sum((groups[name] for name in names), Counter[str]())) for label, names in parts]
    return [
        (label, f"{one['documents']:,}", data_size(one["bytes"]), *(f"{one[key]:,}" for key in more))
        for label, one in sums
    ]


def places_of_text(settings: Mapping[str, Any]) -> list[str]:
    """The first places that `corpus.path` names, and how many others there are."""
    given = settings.get("path") or []
    places = [given] if isinstance(given, str) else list(given)
    rest = len(places) - PLACES_SHOWN
    return places[:PLACES_SHOWN] + ([f"{rest:,} others"] if rest > 0 else [])


def _questions(manifest: Manifest, found: Contents, masked: str) -> list[tuple[str, list[Question]]]:
    """The questions of Datasheets for Datasets, group by group."""
    counts, settings = manifest.counts, manifest.config
    kept, read = counts["kept"], counts["read"]
    origin = ", ".join(places_of_text(settings)) or settings.get("source") or "another corpus"
    unknown = f"{found.licences['unknown']['documents']:,} rows have no known licence"
    broken = f"{counts.get('mojibake', 0):,} kept documents look wrongly decoded; copies were removed, see the funnel"
    size = f"{plural(kept['documents'], 'document')} of text, {data_size(kept['bytes'])}"
    share = f"{kept['documents'] / (read['documents'] or 1):.1%} of the {read['documents']:,} documents that were read"
    names = ("url", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "webtext", "quality", "scores")
    filters = [name for name in names if settings.get(name)]
    cleaned = "Unicode NFC, one kind of line end; exact copies are removed"
    cleaned += f"; filters: {', '.join(filters)}" if filters else "; no quality filter was applied"
    if cut := counts.get("repeated_text"):
        cleaned += f"; repeated text, {data_size(cut['bytes'])}, is cut out of {plural(cut['documents'], 'document')}"
    split = f"{plural(counts['validation']['documents'], 'document')} are held out, chosen by a hash of their ids"
    private = f"Placeholders replace {masked}" if masked else None
    languages = ", ".join(name for name, _ in found.languages.most_common(5) if name)
    return [
        ("Motivation", [("For what purpose was the corpus made, and what gap does it fill?", None),
                        ("Who made it, on behalf of whom, and who paid for it?", None)]),
        ("Composition", [
            ("What does an instance represent, and how many are there?", size),
            ("Is it all of what there is, or a sample?", share),
            ("What is each instance made of?", "Text, an id, a source, a licence and metadata, in Parquet files"),
            ("Is information missing?", unknown if "unknown" in found.licences else "Every row has a licence"),
            ("Are there recommended splits?", split),
            ("Are there errors, noise or redundancies?", broken),
            ("Which languages does it have?", languages or None),
            ("Does it rely on external resources?", "No: the text itself is stored"),
            ("Might it contain confidential or personal data?", private),
            ("Might it contain offensive content, or identify people or groups?", None),
        ]),
        ("Collection", [
            ("How was the data acquired?", f"Read from {origin}"),
            ("Over what time was it collected?", None),
            ("Were people told, did they consent, and can they withdraw?", None),
            ("Was there an ethical review, or an analysis of the impact on people?", None),
        ]),
        ("Preprocessing", [
            ("How was the data cleaned?", cleaned),
            ("Was the raw data kept?", "Rejected records are stored beside the documents, with their reasons"),
            ("Is the software available?", f"NeoLM, version {manifest.code.get('version', 'unknown')}"),
        ]),
        ("Uses", [("What has it been used for, and what should it not be used for?", None),
                  ("Could its composition harm a group of people, and how is that avoided?", None)]),
        ("Distribution", [("Will it be given to others, how, when and under which licence?", None),
                          ("Do third parties hold rights in it, or do export controls apply?", None)]),
        ("Maintenance", [("Who maintains it, and how can they be reached?", None),
                         ("Will it be updated, and how are errors and requests for removal handled?", None)]),
    ]  # fmt: skip


def _union_summary(manifest: Manifest, found: Contents) -> list[tuple[str, list[Question]]]:
    """The fields of the European Union's template, section by section."""
    kept = manifest.counts["kept"]
    size = f"Text, {data_size(kept['bytes'])} in {plural(kept['documents'], 'document')}"
    known = ", ".join(name for name in sorted(found.sources)[:ROWS_SHOWN])
    return [
        ("1. General information", [
            ("Provider, and authorised representative", None),
            ("Model, versions, date of placing on the market", None),
            ("Modality and size of the training data", size),
            ("Latest date of the data; whether it is collected on", None),
            ("Languages", ", ".join(name for name, _ in found.languages.most_common(ROWS_SHOWN) if name) or None),
        ]),
        ("2. List of data sources", [
            ("Sources by their names in the corpus", known),
            ("Which are public data sets, with links", None),
            ("Which are licensed from third parties", None),
            ("Which were crawled: crawler, period, the most frequent domains", None),
            ("Which come from users of the provider's services", None),
            ("Which were made by models", None),
        ]),
        ("3. Data processing", [
            ("How reservations of rights (opt-outs) are respected", None),
            ("How illegal content is removed", None),
        ]),
    ]  # fmt: skip
