"""Text that occurs before in a corpus: lines, paragraphs, sentences in a row (C4), exact spans (Lee et al. 2022).

1. Collect the hashes that two pieces of text have (Daft). For a span it is the smallest hash of its runs of half its
   words (winnowing: Schleimer et al. 2003): 1 of 13 words has one, and equal spans have the same.
2. Compare the pieces with such a hash by BLAKE2b, as exact duplicates of documents. All but the first are copies.
3. Cut them out, in whole sentences and lines where possible.

Large corpora are searched in rounds, each with a part of the hashes. A round needs 100 bytes for each candidate.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neolm.corpus.config import RepeatedTextConfig
from neolm.corpus.engine import daft
from neolm.corpus.near_duplicates import check_shares, keep_keys
from neolm.corpus.shingles import WITHOUT_SPACES
from neolm.corpus.text import part_ends
from neolm.kernels.shingles import split_words

Array = npt.NDArray[Any]

col: Any = daft.col
_FATE = dict.fromkeys(("reason", "removed", "cuts"), daft.DataType.string())
_FATE |= dict.fromkeys(("parts", "bytes", "amount"), daft.DataType.int64())
ROUND_CHARACTERS = 2**31
HASH_BITS = 62
KINDS = ("lines", "paragraphs", "sentences", "spans")
PIECE = np.dtype([("digest", "<u8", 2), ("first", "<i8"), ("last", "<i8"), ("span", "?")])
"""A piece of text: `first` word, the word after its `last`."""
SENTENCE, LINE, PARAGRAPH = 1, 2, 3
SPACE, LOWER, UPPER, CLOSER, END, OWN_WORD, OWN_WORD_END = range(1, 8)
"""Classes of characters: `CLOSER` may follow the `END` of a sentence; the last two are words of their own."""
_BASE = 0x9E3779B97F4A7C15


@dataclass
class Words:
    """The words of a text: `codes` of its characters, where each word `starts` and `ends`, line ends before it, and
    `prefix`, (words + 1,) the hash of the words before: the sum of hash * _BASE ** index.
    """

    codes: Array
    starts: Array
    ends: Array
    lines: Array
    prefix: Array

    @cached_property
    def begins(self) -> Array:
        """What begins with each word. A sentence ends with `.?!`, unless the next word begins with a small letter, or
        the word is a capital, at most two letters and a full stop.
        """
        classes, last, initial = _classes(), self.ends - 1, _classes()[self.codes[self.starts]]
        for _ in range(2):
            last -= (classes[self.codes[last]] == CLOSER) & (last > self.starts)
        short = (self.codes[last] == ord(".")) & (initial == UPPER) & (last - self.starts <= 3)
        ended = np.append(False, np.isin(classes[self.codes[last]], (END, OWN_WORD_END)) & ~short)[: len(last)]
        sentence = ended & (initial != LOWER) & (initial != CLOSER)
        return np.asarray(np.where(self.lines > 0, np.minimum(self.lines + 1, PARAGRAPH), sentence * SENTENCE))


def words_of(text: str) -> Words:
    """The words of `text`: runs without white space; each character of a script without spaces."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    starts, ends, hashes, lines = split_words(codes, _classes(), SPACE, OWN_WORD)
    lines[:1] = PARAGRAPH
    prefix = np.append(np.uint64(0), np.cumsum(_mixed(hashes) * _powers(len(hashes).bit_length())[0][: len(hashes)]))
    return Words(codes, starts, ends, lines, prefix)


@cache
def _classes() -> Array:
    """The class of every character."""
    classes = np.zeros(0x110000, np.uint8)
    for code, one in enumerate(map(chr, range(0x3001))):
        classes[code] = SPACE if one.isspace() else LOWER if one.islower() else UPPER * one.isupper()
    alone = WITHOUT_SPACES.findall("".join(map(chr, (*range(0xE00, 0xD800), *range(0xF900, 0x40000)))))
    for kind, those in ((OWN_WORD, alone), (OWN_WORD_END, "。！？｡"), (END, ".?!…"), (CLOSER, "\"'”’»)]}」』）】")):
        classes[[*map(ord, those)]] = kind
    return classes


@cache
def _powers(bits: int) -> tuple[Array, Array]:
    """_BASE ** index, and its inverse, modulo 2 ** 64."""
    bases = (_BASE, pow(_BASE, -1, 2**64))
    first, second = (np.cumprod(np.append(np.uint64(1), np.full(2**bits, base, np.uint64))) for base in bases)
    return first, second


def _mixed(hashes: Array) -> Array:
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finalizer
    return np.asarray(hashes ^ (hashes >> np.uint64(32)))


def pieces_of(words: Words, kind: str, config: RepeatedTextConfig) -> tuple[Array, Array, Array]:
    """The pieces of a text of one of the KINDS: first word, the word after the last, and hash to search it by."""
    prefix, inverse = words.prefix, _powers(len(words.starts).bit_length())[1]
    if kind != "spans":
        level = {"lines": LINE, "paragraphs": PARAGRAPH, "sentences": SENTENCE}[kind]
        borders = np.append(np.flatnonzero(words.begins >= level), len(words.starts))
        run = config.sentences if kind == "sentences" else 1
        long_enough = borders[run:] - borders[:-run] >= config.min_words
        first, last = borders[:-run][long_enough], borders[run:][long_enough]
        hashes = _mixed((prefix[last] - prefix[first]) * inverse[first])
    else:
        first = np.arange(len(words.starts) - config.span_words + 1)
        last, half = first + config.span_words, (config.span_words + 1) // 2
        runs = _mixed((prefix[half:] - prefix[:-half]) * inverse[: max(0, len(prefix) - half)])
        # The minimum of a window is that of the end of one block and of the beginning of the next (van Herk 1992).
        width = config.span_words - half + 1
        blocks = np.append(runs, np.full(-len(runs) % width, 2**64 - 1, np.uint64)).reshape(-1, width)
        ahead = np.minimum.accumulate(blocks, axis=1).ravel()[width - 1 :][: len(first)]
        behind = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()[: len(first)]
        hashes = np.minimum(behind, ahead)
    return first, last, hashes >> np.uint64(64 - HASH_BITS) << np.uint64(2) | np.uint64(KINDS.index(kind))


def fingerprints(text: str, config: RepeatedTextConfig) -> Array:
    """Hashes of the pieces of a text. A piece that occurs twice, without overlap, has one that occurs twice."""
    words, found = words_of(text), [np.zeros(0, np.uint64)]
    for kind in config.kinds:
        hashes = pieces_of(words, kind, config)[2]
        if kind == "spans" and len(hashes):
            # Neighbours share theirs. So many with the same one have two equal runs of words.
            starts = np.append(0, np.flatnonzero(hashes[1:] != hashes[:-1]) + 1)
            many = np.diff(np.append(starts, len(hashes))) > config.span_words
            hashes = np.append(hashes[starts], hashes[starts[many]])
        found.append(hashes)
    return np.concatenate(found)


def candidates(text: str, repeated: Array, config: RepeatedTextConfig) -> bytes:
    """The pieces of a text whose fingerprint is in the sorted array `repeated`: an array of PIECE."""
    words, found = words_of(text), [np.zeros(0, PIECE)]
    marked = words.codes.copy()
    marked[words.starts] |= np.uint32(2**31)  # borders of words count, white space between them does not
    content = memoryview(marked[_classes()[words.codes] != SPACE].tobytes())
    offsets = 4 * np.append(0, np.cumsum(words.ends - words.starts))
    for kind in config.kinds:
        first, last, hashes = pieces_of(words, kind, config)
        is_one = repeated[np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)] == hashes
        pieces = np.zeros(is_one.sum(), PIECE)
        pieces["first"], pieces["last"], pieces["span"] = first[is_one], last[is_one], kind == "spans"
        places = offsets[np.stack([first[is_one], last[is_one]], axis=1)].tolist()
        new, salt = hashlib.blake2b, kind.encode()
        digests = b"".join(new(content[a:b], digest_size=16, salt=salt).digest() for a, b in places)
        pieces["digest"] = np.frombuffer(digests, "<u8").reshape(-1, 2)
        found.append(pieces)
    return np.concatenate(found).tobytes()


class Compared(NamedTuple):
    """Candidates (PIECE) in the order of their documents, those to keep first; the number of the first piece with the
    same words, the `original`; and whether a piece is another one that does not overlap it.
    """

    row: Array
    pieces: Array
    original: Array
    is_copy: Array


def compared(table: pa.Table, order: Array, start: int = 0) -> Compared:
    """Compare the `pieces` of each `row`, and number them from `start`. `order` has all rows, those to keep first."""
    sorted_ = np.argsort(order)
    rank = sorted_[np.searchsorted(order, table.column("row").to_numpy(), sorter=sorted_)]
    table = table.take(pa.array(np.argsort(rank)))
    blobs = table.column("pieces").to_pylist()
    pieces = np.frombuffer(b"".join(blobs), PIECE)
    row = np.repeat(table.column("row").to_numpy(), [len(blob) // PIECE.itemsize for blob in blobs])
    digest = pieces["digest"]
    by_digest = np.lexsort((digest[:, 0], digest[:, 1]))  # stable: equal ones stay in the order of documents
    new = np.append(True, (digest[by_digest[1:]] != digest[by_digest[:-1]]).any(axis=1))[: len(pieces)]
    original = np.empty(len(pieces), np.int64)
    original[by_digest] = by_digest[new][np.cumsum(new) - 1]
    elsewhere = (row[original] != row) | (pieces["first"] >= pieces["last"][original])
    return Compared(row, pieces, original + start, (original != np.arange(len(pieces))) & elsewhere)


def find_repeated_text(
    records: Any, kept: Any, config: RepeatedTextConfig, split: int | None
) -> tuple[pa.Table | None, dict[str, int]]:
    """Search all `kept` documents (file, record, id, source, characters), whose texts are in `records`.

    Returns the fate of those with repeated text, if there are any: `id`; `reason`, null if it is kept; `removed`, JSON
    for its metadata; `cuts`, JSON for `without`; `parts` of at most `split` characters. And the counts.
    Raises a SettingError if too large a share of a source would be removed.
    """
    kept = kept.with_column("row", col("file") * 2**32 + col("record")).collect()
    documents = kept.select("row", "id", "source", "characters").to_arrow().sort_by("id")
    documents = documents.take(pa.array(np.lexsort((np.arange(len(documents)), *keep_keys(documents, config)))))
    order = documents.column("row").to_numpy()
    texts = records.select("file", "record", "text").join(kept, on=["file", "record"])
    found: list[Compared] = []
    rounds = (pc.sum(documents.column("characters")).as_py() or 0) // ROUND_CHARACTERS + 1
    for number in range(rounds):
        hashes = texts.select("row", _fingerprints(col("text"), config, rounds, number).alias("hash")).explode("hash")
        grouped = hashes.where(col("hash").not_null()).groupby("hash").agg(col("row").list_agg())
        repeated = grouped.where(col("row").list_count() > 1).to_arrow().combine_chunks()
        if len(repeated):
            rows = daft.from_arrow(pa.table({"row": np.unique(pc.list_flatten(repeated.column("row")).to_numpy())}))
            pieces = _candidates(col("text"), np.sort(repeated.column("hash").to_numpy()), config).alias("pieces")
            table = texts.join(rows, on="row").select("row", pieces).to_arrow()
            found.append(compared(table, order, sum(len(one.row) for one in found)))
    if not found:
        return None, {"documents": 0, "bytes": 0}
    every = Compared(*map(np.concatenate, zip(*found, strict=True)))
    if config.action == "drop":
        marks = _dropped(documents, every)
    else:
        marked = texts.join(daft.from_arrow(_ranges(every)), on="row")
        marks = marked.select("id", "source", _fate(col("text"), col("ranges"), config, split)).to_arrow()
    problem = ("repeated_text", "characters", "are repeated text", "Raise corpus.repeated_text.span_words=N")
    check_shares(kept.with_column("amount", col("characters")), marks, config.max_dropped_share, *problem)
    cut = marks.filter(marks.column("reason").is_null())
    return marks, {"documents": len(cut), "bytes": pc.sum(cut.column("bytes")).as_py() or 0}


def _ranges(found: Compared) -> pa.Table:
    """The copies in each document, joined where they overlap: `row`, `ranges` (first, last, whether a span) int64."""
    row, pieces = found.row[found.is_copy], found.pieces[found.is_copy]
    by_place = np.lexsort((pieces["first"], pieces["span"], row))
    row, span, first, last = (one[by_place] for one in (row, pieces["span"], pieces["first"], pieces["last"]))
    group = np.cumsum(np.append(True, (row[1:] != row[:-1]) | (span[1:] != span[:-1]))[: len(row)]) << 40
    reached = np.maximum.accumulate(group + last)
    new = np.flatnonzero(np.append(True, (group + first)[1:] > reached[:-1])[: len(row)])
    end = np.append(new[1:], len(row))[: len(new)] - 1
    ranges = np.stack([first[new], (reached - group)[end], span[new]], axis=1).astype(np.int64)
    rows, begin = np.unique(row[new], return_index=True)
    return pa.table({"row": rows, "ranges": [one.tobytes() for one in np.split(ranges, begin[1:])][: len(rows)]})


def _dropped(documents: pa.Table, found: Compared) -> pa.Table:
    """The documents with a piece of a document that comes before them and is kept."""
    order = documents.column("row").to_numpy()
    by_row = np.argsort(found.row, kind="stable")
    begins, ends = (np.searchsorted(found.row, order, side, sorter=by_row) for side in ("left", "right"))
    held, dropped = np.zeros(len(by_row), np.bool_), np.zeros(len(order), np.bool_)
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        own = found.original[by_row[begin:end]]
        dropped[number] = bool(held[own].any())
        held[own] |= not dropped[number]
    documents = documents.filter(pa.array(dropped)).rename_columns({"characters": "amount"})
    why = json.dumps({"why": "text of it is in a document that is kept"})
    for name, value in {"reason": "repeated_text", "removed": why, "cuts": "[]", "parts": 1, "bytes": 0}.items():
        documents = documents.append_column(name, pa.array([value] * len(documents)))
    return documents


def cuts(text: str, ranges: Array, shortest: int) -> tuple[list[tuple[int, int]], int, int]:
    """What is cut out of a text for `ranges` of words: characters (start, end), number of words, words that are left.

    Of a span the whole sentences and lines are cut out, and what is left of it at either end if it has `shortest` words
    or more. A span without a whole sentence or line is cut out as it is.
    """
    words = words_of(text)
    begins, size = words.begins, len(words.starts)
    borders, gone = np.append(np.flatnonzero(begins), size), np.zeros(size + 1, np.bool_)
    for first, last, is_span in ranges.tolist():
        inside = borders[np.searchsorted(borders, first) : np.searchsorted(borders, last, "right")].tolist()
        begin, end = (inside[0], inside[-1]) if is_span and len(inside) > 1 else (first, last)
        gone[first if begin - first >= shortest else begin : last if last - end >= shortest else end] = True
    changes = np.flatnonzero(np.diff(gone, prepend=False)).reshape(-1, 2)
    places = [_characters(text, words, begins, first, last) for first, last in changes.tolist()]
    return places, int(gone.sum()), int(size - gone.sum())


def _characters(text: str, words: Words, begins: Array, first: int, last: int) -> tuple[int, int]:
    """The characters of words, with the weaker white space beside them: a line end stays before a space, and so on."""
    before, at_end = begins[first], last == len(words.starts)
    after = PARAGRAPH + 1 if at_end else begins[last]
    if first and max(before, 1) < max(after, 1):
        return int(words.ends[first - 1]), int(words.ends[last - 1])
    start, end = int(words.starts[first]), int(words.starts[min(last, len(words.starts) - 1)])
    if at_end:
        return 0, len(text)
    if before >= LINE and after >= LINE:
        return text.rfind("\n", 0, start) + 1, text.rfind("\n", 0, end) + 1
    return start, end


def without(text: str, cuts: str | None) -> str:
    """`text` without the characters between each start and end of a JSON array."""
    places = json.loads(cuts or "[]")
    ends, starts = (0, *(end for _, end in places)), (*(start for start, _ in places), len(text))
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


@daft.func(return_dtype=daft.DataType.list(daft.DataType.uint64()))
def _fingerprints(text: str, config: RepeatedTextConfig, rounds: int, number: int) -> list[int]:
    found = fingerprints(text, config)
    return list(found[found % np.uint64(rounds) == number].tolist())


_candidates: Any = daft.func(candidates, return_dtype=daft.DataType.binary())


@daft.func(return_dtype=daft.DataType.struct(_FATE), unnest=True)
def _fate(text: str, ranges: bytes, config: RepeatedTextConfig, split: int | None) -> dict[str, Any]:
    """What becomes of a document with copies."""
    places, words, left = cuts(text, np.frombuffer(ranges, np.int64).reshape(-1, 3), config.span_words)
    rest = without(text, json.dumps(places))
    told: dict[str, Any] = {"cuts": len(places), "words": words, "characters": len(text) - len(rest)}
    fate = {"cuts": json.dumps(places), "bytes": len(text.encode()) - len(rest.encode())}
    if left < config.min_words_left:
        why = json.dumps({"why": f"{left:,} of its {left + words:,} words are not repeated text"})
        return fate | {"reason": "repeated_text", "removed": why, "parts": 1, "amount": len(text)}
    parts = sum(1 for _ in part_ends(rest, split)) if split else 1
    told = {"removed": json.dumps({"repeated_text": told}), "amount": told["characters"]}
    return fate | told | {"reason": None, "parts": parts}
