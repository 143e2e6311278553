"""Find the items of evaluation sets in a corpus, and cut them out.

1. Find the n-grams of the items in every document, and leave out those that are common in the corpus (Daft).
2. Judge the documents that have one of the others, item by item.

The items and their n-grams are in the memory of each process, about 400 bytes for an n-gram.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neolm.corpus.engine import daft
from neolm.corpus.evaluation_items import EvaluationIndex
from neolm.corpus.shingles import TOKEN
from neolm.corpus.text import part_ends
from neolm.formats.json_values import json_text

MARGIN, MIN_PIECE, MAX_PIECES = 200, 200, 10  # characters, characters, pieces: GPT-3, appendix C
NEAR = 300  # bytes between the texts of a short item
MATCHES_SHOWN, SHOWN_CHARACTERS = 10, 300  # documents of an item, and characters of what was found

col: Any = daft.col
_TEXT, _INTEGER = daft.DataType.string(), daft.DataType.int64()
_COLUMNS = {"found": _TEXT, "told": _TEXT, "cut": _TEXT, "left": _INTEGER, "gone": _INTEGER}
Span = tuple[int, int]


@dataclass(frozen=True)
class Contamination:
    """The documents with items of evaluation sets, and what is to be said about them."""

    frame: Any
    """Frame of these documents: file, record, `told` (JSON for the metadata), `cut` (the text without the items, or
    null), `left` (its parts), and `gone` (1: the document is dropped)."""
    counts: dict[str, Any]
    report: list[dict[str, Any]]
    """The items that were found, and those that cannot be judged."""


def find_contamination(records: Any, kept: Any, index: EvaluationIndex, split_characters: int | None) -> Contamination:
    """Compare the `kept` documents (frame: file, record, id) with the items. Their texts are in `records`."""

    @daft.func.batch(return_dtype=daft.DataType.list(_INTEGER), batch_size=64)
    def known(text: Any) -> list[list[int]]:
        found: list[set[int]] = [set() for _ in range(len(text))]
        for number, _, ngram in index.find([index.form(value.as_py()) for value in text.to_arrow()]):
            found[number].add(index.known[ngram])
        return [sorted(one) for one in found]

    @daft.func(return_dtype=daft.DataType.struct(_COLUMNS), unnest=True)
    def judge(text: str) -> dict[str, Any]:
        return _judged(text, index, counting, split_characters)

    texts = records.select("file", "record", "text").join(kept, on=["file", "record"])
    hits = texts.select("file", "record", known(col("text")).alias("ngram")).explode("ngram")
    hits = hits.where(col("ngram").not_null()).collect()
    counting = np.ones(len(index.clues), bool)
    if index.config.rule != "ngram":
        documents = hits.groupby("ngram").agg(col("file").count().alias("documents"))
        counting[documents.where(col("documents") > index.config.max_documents).to_pydict()["ngram"]] = False
    rare = daft.from_arrow(pa.table({"ngram": pa.array(np.flatnonzero(counting))}))
    candidates = hits.join(rare, on="ngram").select("file", "record").distinct()
    frame = texts.join(candidates, on=["file", "record"]).select("file", "record", "id", judge(col("text")))
    frame = frame.where(col("found").not_null()).collect()
    return Contamination(frame.exclude("id", "found"), *_report(frame, index, counting))


def _judged(text: str, index: EvaluationIndex, counting: npt.NDArray[np.bool_], limit: int | None) -> dict[str, Any]:
    """What is found in a text, and what happens to it."""
    words, offsets, runs = _located(text, index)
    places: defaultdict[int, set[Span]] = defaultdict(set)
    seen: defaultdict[int, set[bytes]] = defaultdict(set)
    found = set()
    for _, at, ngram in index.find([words[1:-1]]):
        start, end = at + 1, at + 1 + len(ngram)
        for clue in index.clues[index.known[ngram]] if counting[index.known[ngram]] else ():
            low, high = (max(0, start - NEAR), end + NEAR) if clue.near else (0, len(words))
            others = [_first(words, group, low, high) for group in clue.needs]
            if None not in others:
                places[clue.item].update([(start, end), *filter(None, others)])
                seen[clue.item].add(ngram)
                if len(seen[clue.item]) >= clue.least:
                    found.add(clue.item)
    if not found:
        return dict.fromkeys(_COLUMNS)
    spans, shown = list[Span](), dict[int, str]()
    for item in sorted(found):
        ends = np.searchsorted(offsets, sorted(places[item]), side="right") - 1  # first and last word
        spans += (own := [(int(runs[first, 0]), int(runs[last, 1])) for first, last in ends])
        start, end = own[0][0], max(last for _, last in own)
        excerpt = " ".join(text[start : min(end, start + SHOWN_CHARACTERS)].split())
        shown[item] = excerpt + "…" * (end - start > SHOWN_CHARACTERS)
    told: dict[str, Any] = {"contamination": Counter(index.items[item].evaluation for item in found)}
    action = index.config.action or ("cut" if index.config.rule == "gpt3" else "drop")
    left = cut(text, spans) if action == "cut" else None
    gone = action != "report" and left is None
    if gone:
        first = index.items[min(found)]
        told["why"] = f"it has {first.name} of {first.evaluation}: {shown[min(found)]}"
    elif left is not None:
        told["cut_characters"] = len(text) - len(left)
    parts = sum(1 for _ in part_ends(left, limit)) if limit and left else None
    return {
        "found": json_text({str(item): one for item, one in shown.items()}),
        "told": json_text(told),
        "cut": left,
        "left": parts,
        "gone": int(gone),
    }


def _located(text: str, index: EvaluationIndex) -> tuple[bytes, npt.NDArray[Any], npt.NDArray[Any]]:
    """The words of a text with a space before and after each; where each starts, (words,), and the characters of the
    text that it comes from, (words, 2).
    """
    token = re.compile(r"\S+") if index.config.rule == "gpt3" else TOKEN
    words, runs = bytearray(b" "), array("q")
    for run in token.finditer(text):
        for word in index.form(run[0]).split():
            words += word + b" "
            runs.extend(run.span())
    offsets = np.flatnonzero(np.frombuffer(bytes(words), np.uint8) == ord(" "))[:-1] + 1
    return bytes(words), offsets, np.array(runs, np.int64).reshape(-1, 2)


def _first(words: bytes, group: Iterable[bytes], low: int, high: int) -> Span | None:
    """The first place of one of some texts between two bytes."""
    for text in group:
        if (at := words.find(b" %b " % text, low, high)) >= 0:
            return at + 1, at + 1 + len(text)
    return None


def cut(text: str, spans: Iterable[Span]) -> str | None:
    """The text without `spans` (characters) and MARGIN characters on each side; None: too little is left.

    As for GPT-3, a text that falls into more than MAX_PIECES pieces is dropped, and so is a piece of fewer than
    MIN_PIECE characters. A blank line separates what stays.
    """
    pieces, end = [], 0
    for first, last in [*sorted(spans), (len(text) + MARGIN, 0)]:
        if first - MARGIN > end:
            pieces.append(text[end : first - MARGIN])
        end = max(end, last + MARGIN)
    kept = [piece.strip() for piece in pieces if len(piece) >= MIN_PIECE]
    return "\n\n".join(kept) if len(pieces) <= MAX_PIECES and any(kept) else None


def _report(
    frame: Any, index: EvaluationIndex, counting: npt.NDArray[np.bool_]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The numbers for the manifest, and a line for each item that was found or cannot be judged."""
    matches: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    totals: Counter[Any] = Counter()
    for batch in frame.select("id", "found", "told", "cut", "gone").to_arrow_iter():
        for row in batch.to_pylist():
            totals.update({"documents": 1, "dropped": row["gone"], "cut": int(row["cut"] is not None)})
            totals.update(list(json.loads(row["told"])["contamination"]))
            for item, shown in json.loads(row["found"]).items():
                totals[int(item)] += 1
                matches[int(item)] = sorted([*matches[int(item)], (row["id"], shown)])[:MATCHES_SHOWN]
    common = {clue.item for number in np.flatnonzero(~counting) for clue in index.clues[number]}
    evaluations: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for number, item in enumerate(index.items):
        new = {"items": 0, "touched": 0, "documents": totals[item.evaluation], "not_judged": Counter[str]()}
        counts = evaluations.setdefault(item.evaluation, new)
        counts["items"] += 1
        line = {"evaluation": item.evaluation, "item": item.name}
        why = index.not_judged.get(number) or ("only common n-grams" if number in common else None)
        if number in matches:
            counts["touched"] += 1
            shown = [{"document": name, "text": text} for name, text in matches[number]]
            lines.append({**line, "status": "touched", "documents": totals[number], "matches": shown})
        elif why is not None:
            counts["not_judged"][why] += 1
            lines.append({**line, "status": "not_judged", "why": why})
    told = {"rule": index.config.rule, **{key: totals[key] for key in ("documents", "dropped", "cut")}}
    return {**told, "common_ngrams": int((~counting).sum()), "evaluations": evaluations}, lines
