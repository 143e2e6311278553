"""Repeated text: equal to a search by brute force, what is cut out, the order of files, the guard, settings."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.corpus import repeated_text
from neolm.corpus.config import CorpusConfig, RepeatedTextConfig
from neolm.corpus.repeated_text import Compared, candidates, compared, cuts, fingerprints, without, words_of
from neolm.pipeline import run

ALL = {"max_dropped_share": 1.0, "min_words_left": 1}


def compare(texts: list[str], config: RepeatedTextConfig) -> Compared | None:
    """The comparison of documents whose ids are their numbers, as `find_repeated_text` makes it."""
    hashes = np.concatenate([fingerprints(text, config) for text in texts])
    repeated, counts = np.unique(hashes, return_counts=True)
    repeated = repeated[counts > 1]
    if not len(repeated):
        return None
    rows = [{"row": number, "pieces": candidates(text, repeated, config)} for number, text in enumerate(texts)]
    order = sorted(
        range(len(texts)), key=lambda number: (-len(texts[number]) if config.keep == "longest" else 0, number)
    )
    return compared(pa.Table.from_pylist(rows[::-1]), np.array(order))


def brute_force(texts: list[list[str]], size: int, order: list[int]) -> tuple[set[Any], set[Any]]:
    """Places (document, word) in a span that occurs twice without overlap: all, and those that are not the first."""
    seen: dict[tuple[str, ...], tuple[int, int]] = {}
    everywhere, copies = set(), set()
    for number in order:
        for place in range(len(texts[number]) - size + 1):
            first = seen.setdefault(tuple(texts[number][place : place + size]), (number, place))
            if first[0] != number or place >= first[1] + size:
                copies |= {(number, place + offset) for offset in range(size)}
                everywhere |= {(first[0], first[1] + offset) for offset in range(size)}
    return everywhere | copies, copies


def places(found: Compared | None, chosen: Any) -> set[tuple[int, int]]:
    if found is None:
        return set()
    pieces = found.pieces[chosen]
    ranges = zip(found.row[chosen].tolist(), pieces["first"].tolist(), pieces["last"].tolist(), strict=True)
    return {(row, place) for row, first, last in ranges for place in range(first, last)}


TEXTS = st.lists(
    st.lists(st.tuples(st.sampled_from(["a", "b", "C", "d.", "é?"]), st.sampled_from([" ", " ", "  ", "\n", "\n\n"]))),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("bits", [2, 62])
@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, size=st.integers(2, 7), keep=st.sampled_from(["first", "longest"]))
def test_spans_equal_those_of_a_search_by_brute_force(bits, texts, size, keep):
    """With two bits most hashes of different spans are equal, and only their words tell them apart."""
    config = RepeatedTextConfig(span_words=size, keep=keep)
    raw = ["".join(word + space for word, space in text) for text in texts]
    order = sorted(range(len(raw)), key=lambda number: (-len(raw[number]) if keep == "longest" else 0, number))
    everywhere, copies = brute_force([text.split() for text in raw], size, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_text, "HASH_BITS", bits)
        found = compare(raw, config)
    assert places(found, [] if found is None else found.is_copy) == copies
    if found is not None:
        twice = found.is_copy.copy()
        twice[found.original[found.is_copy]] = True
        assert places(found, twice) == everywhere


@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, size=st.integers(2, 7))
def test_no_repeated_span_stays_whole_and_nothing_else_is_cut(texts, size):
    raw = ["".join(word + space for word, space in text) for text in texts]
    _, copies = brute_force([text.split() for text in raw], size, [*range(len(raw))])
    found = compare(raw, RepeatedTextConfig(span_words=size, keep="first"))
    ranges = {} if found is None else {row["row"]: row for row in repeated_text._ranges(found).to_pylist()}
    for number, row in ranges.items():
        text, words = raw[number], words_of(raw[number])
        places, removed, left = cuts(text, np.frombuffer(row["ranges"], np.int64).reshape(-1, 3), size)
        inside = [any(start <= place < end for start, end in places) for place in words.starts.tolist()]
        gone = {(number, place) for place, is_gone in enumerate(inside) if is_gone}
        assert gone <= copies
        rest = without(text, json.dumps(places))
        assert rest.split() == [word for word, is_gone in zip(text.split(), inside, strict=True) if not is_gone]
        assert (len(gone), len(inside) - len(gone)) == (removed, left)
        is_copy = found.is_copy & (found.row == number)
        assert all(any(inside[place : place + size]) for place in found.pieces["first"][is_copy].tolist())


STORY = " ".join(f"The fisherman number {n} went out to sea in a boat of his own." for n in range(6))
OWN = " ".join(f"own{n}" for n in range(25))


def texts_of(corpus: Any) -> dict[str, str]:
    return {name: document.text for name, document in corpus.kept.items()}


def test_whole_sentences_are_cut_and_half_ones_stay(build, write):
    records = [
        {"id": "a", "text": f"It began so: {STORY} That was all of it. {OWN} {OWN}"},
        {"id": "b", "text": f"{OWN}. Otherwise nothing is known, but {STORY} That was all. And so on."},
    ]
    corpus = build(write("a.jsonl", records), repeated_text=ALL)
    assert texts_of(corpus)["a"] == records[0]["text"]
    first = "The fisherman number 0 went out to sea in a boat of his own."
    assert texts_of(corpus)["b"] == f"{OWN}. Otherwise nothing is known, but {first} That was all. And so on."
    removed = len(STORY) - len(first)
    told = {"characters": removed, "cuts": 1, "words": 5 * 14}
    assert json.loads(corpus.kept["b"].metadata) == {"repeated_text": told}
    assert corpus.counts["repeated_text"] == {"documents": 1, "bytes": removed}


def test_a_span_without_a_whole_sentence_is_cut_at_words(build, write):
    span = " ".join(f"w{n}" for n in range(50))
    texts = {"a": f"before {span} after {OWN}", "b": f"{OWN[:50]} {span}\n{OWN[50:]}", "c": f"x {span[:-4]} {OWN[60:]}"}
    path = write("a.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    corpus = build(path, repeated_text={**ALL, "keep": "first"})
    assert texts_of(corpus) == texts | {"b": f"{OWN[:49]}\n{OWN[50:]}"}


LINE = "a line that many pages have at their end, all of them"
PARAGRAPH = "One paragraph of two lines, of which\nthe second one is short but the two are long enough."
KINDS = {
    "lines": (f"x\n}}\n{LINE}\n    y()\n", f"z\n}}\n  {LINE} \n    y()\n", "z\n}\n    y()\n"),
    "the last line of a paragraph": (f"x\n{LINE}", f"own words\n{LINE}\n\nmore words", "own words\n\nmore words"),
    "paragraphs": (f"x\n\n{PARAGRAPH}\n\ny", f"z\n\n{PARAGRAPH}\n\n\nw", "z\n\nw"),
    "not a line of it": (f"x\n\n{PARAGRAPH}\n\ny", f"z\n{PARAGRAPH}\n\nw", None),
    "sentences": ("A b c d. E f g h. I j k l. M.", "X y. A b c d. E f g h. I j k l. Z.", "X y. Z."),
    "not two sentences": ("A b c d. E f g h. I j k l m n o.", "X y. A b c d. E f g h. Z z z z z z z z z.", None),
    "abbreviations": ("Mr. X saw Dr. Y and J. Z then. A b. C d e.", "No. Mr. X saw Dr. Y and J. Z then. A b. F.", None),
    "words of Chinese": ("一二三四五六七八九十甲。\n乙", "丙丁\n一二三四五六七八九十甲。\n戊", "丙丁\n戊"),
}
KIND_OF = {"the last": "lines", "words of": "lines", "not a line": "paragraphs", "not two": "sentences"}


@pytest.mark.parametrize("name", KINDS)
def test_lines_paragraphs_and_sentences(build, write, name):
    first, second, rest = KINDS[name]
    kind = next((kind for start, kind in KIND_OF.items() if name.startswith(start)), name)
    kind = "sentences" if name == "abbreviations" else kind
    path = write("a.jsonl", [{"id": "a", "text": first}, {"id": "b", "text": second}])
    corpus = build(path, min_text_fraction=0.0, repeated_text={**ALL, "keep": "first", "kinds": (kind,)})
    assert texts_of(corpus) == {"a": first, "b": second if rest is None else rest}


def test_a_text_that_repeats_itself(build, write):
    verse = "row the boat and row it on and on again, you all"
    text = f"{OWN}\n{verse}\n{OWN[:30]}\n{verse}\nend"
    corpus = build(write("a.jsonl", [{"id": "a", "text": text}]), repeated_text={**ALL, "kinds": ("lines",)})
    assert texts_of(corpus) == {"a": f"{OWN}\n{verse}\n{OWN[:30]}\nend"}
    words = " ".join(["na"] * 130)
    corpus = build(write("b.jsonl", [{"id": "a", "text": words}]), repeated_text=ALL)
    assert texts_of(corpus) == {"a": " ".join(["na"] * 50)}


def shared_texts(number: int) -> list[dict[str, str]]:
    """Documents of some own words and some passages, which others have too."""
    draw = random.Random(0)
    passages = [
        ". ".join(" ".join(f"P{n}-{draw.getrandbits(40):x}" for _ in range(9)) for _ in range(8)) + "."
        for n in range(12)
    ]
    records = []
    for n in range(number):
        own = ["\n".join(f"own {n} {part} {word}" for word in range(9)) for part in range(3)]
        records.append(
            {"id": f"{n:03d}", "text": "\n\n".join(map("\n".join, zip(own, draw.sample(passages, 3), strict=True)))}
        )
    return [row | {"source": f"s{int(row['id']) % 3}"} for row in records]


@pytest.mark.parametrize("action", ["cut", "drop"])
def test_the_result_does_not_depend_on_files_order_groups_or_rounds(build, write, tmp_path, monkeypatch, action):
    outputs, records = [], shared_texts(60)
    chosen = {**ALL, "kinds": ("lines", "paragraphs", "sentences", "spans")} | {"action": action}
    chosen = {name: value for name, value in chosen.items() if action == "cut" or name != "min_words_left"}
    for number, (files, group, rounds) in enumerate([(1, 2**22, 2**31), (7, 1, 2**31), (13, 2**22, 9000)]):
        shuffled = random.Random(number).sample(records, len(records))
        for file in range(files):
            write(f"{number}/{file}.jsonl", shuffled[file::files])
        monkeypatch.setattr("neolm.corpus.ingest.GROUP_BYTES", group)
        monkeypatch.setattr("neolm.corpus.repeated_text.ROUND_CHARACTERS", rounds)
        path, output = tmp_path / "raw" / str(number), tmp_path / f"out {number}"
        built = build(path, output=output, split_characters=500, repeated_text=chosen)
        outputs.append({name: digest for name, digest in built.manifest.outputs.items() if name != "config.json"})
    assert all(other == outputs[0] for other in outputs[1:])
    if action == "cut":
        every = "\n".join(document.text for document in built.kept.values())
        names = set(re.findall(r"P\d+-[0-9a-f]+", every))
        assert all(every.count(word) == 1 for word in names)
        assert len(names) == 12 * 72
        assert max(len(document.text) for document in built.kept.values()) <= 500


def test_drop_rejects_documents_with_text_of_a_document_that_stays(build, write):
    """b is dropped because of a, so its own text is not gone: c, which shares that, stays."""
    x, y = (" ".join(f"{name}{n}" for n in range(55)) for name in "xy")
    texts = {"a": f"{x} a", "b": f"{x} {y}", "c": f"c {y}", "d": f"d {y}"}
    path = write("a.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    corpus = build(path, repeated_text={"action": "drop", "keep": "first", "max_dropped_share": 1})
    assert texts_of(corpus) == {name: texts[name] for name in "ac"}
    assert corpus.reasons == dict.fromkeys("bd", "repeated_text")
    assert json.loads(corpus.rejected["b"]["metadata"]) == {"why": "text of it is in a document that is kept"}


def test_a_document_with_too_few_words_left_is_rejected_as_it_was(build, write):
    records = [{"id": "a", "text": f"{STORY} {OWN}"}, {"id": "b", "text": f"Only {STORY}"}, {"id": "c", "text": "c"}]
    corpus = build(write("a.jsonl", records), repeated_text={"max_dropped_share": 1})
    assert set(corpus.kept) == {"a", "c"}  # c was short before
    assert corpus.rejected["b"]["text"] == records[1]["text"]
    assert "15 of its 85 words" in json.loads(corpus.rejected["b"]["metadata"])["why"]


def test_after_the_items_of_evaluation_sets_are_cut_out(tmp_path):
    question = "Which gardener plants seven rows of purple tulips and waters every second row on Monday morning again"
    left, right, tail = (" ".join(f"{name}{n}" for n in range(60)) for name in ("left", "right", "tail"))
    texts = {"a": f"{STORY} {OWN}", "b": f"{left} {question} Nobody {right}.\n{STORY}\n{tail}"}
    (tmp_path / "raw.jsonl").write_text("\n".join(json.dumps({"id": n, "text": text}) for n, text in texts.items()))
    (tmp_path / "items.jsonl").write_text(json.dumps({"q": question, "a": "Nobody"}))
    table = {"name": "items", "path": str(tmp_path / "items.jsonl"), "question": ["q"], "answer": "a"}
    corpus = {"source": "files", "path": str(tmp_path / "raw.jsonl"), "min_characters": 1}
    corpus |= {"decontamination": {"tables": [table], "action": "cut"}, "repeated_text": {**ALL, "keep": "first"}}
    run({"output": str(tmp_path / "run"), "corpus": corpus})
    rows = pq.read_table(tmp_path / "run/corpus/documents").to_pylist()
    kept, metadata = ({row["id"]: row[name] for row in rows} for name in ("text", "metadata"))
    assert kept["a"] == texts["a"]
    assert kept["b"].startswith("left0 left1")
    assert kept["b"].endswith(f"right59.\n{tail}")
    assert not {"gardener", "fisherman"} & set(kept["b"].split())
    assert {"contamination", "cut_characters", "repeated_text"} == json.loads(metadata["b"]).keys()


def test_the_guard(build, write):
    line = "the same long line of many words, which stands in each of the documents of this source"
    spam = [{"text": f"{line}\n{n} and one", "source": "spam"} for n in range(110)]
    good = [{"text": f"{OWN} {n}", "source": "good"} for n in range(110)]
    path = write("a.jsonl", spam + good)
    problem = (
        r"repeated_text.max_dropped_share: [\d,]+ of [\d,]+ characters \(\d\d.\d%\) of the source 'spam' are repeated"
    )
    with pytest.raises(InputError, match=problem):
        build(path, repeated_text={"kinds": ("lines",), "min_words_left": 1})
    assert len(build(path, repeated_text={**ALL, "kinds": ("lines",)}).kept) == 220


SETTINGS: dict[str, Any] = {
    "kinds": ("lines",),
    "action": "drop",
    "span_words": 60,
    "sentences": 4,
    "min_words": 100,
    "min_words_left": 60,
    "keep": "first",
    "source_order": ("s2",),
    "max_dropped_share": 0.1,
}


def test_every_setting_changes_the_result(build, write, tmp_path):
    assert set(SETTINGS) == set(RepeatedTextConfig.model_fields)
    words = [" ".join(f"{name}{n}" for n in range(55)) for name in "xyz"]
    texts = [f"{OWN} {words[0]} a", f"{OWN[:9]} {words[0]} {words[1]} {OWN[9:]} b", f"c {words[1]} {OWN} {words[2]}"]
    texts += [f"{STORY[:190]}\nmany words {OWN}", f"{OWN[:70]}\n{STORY[:250]} {OWN}"]
    rows = [{"id": f"{9 - n}", "text": text, "source": f"s{n}"} for n, text in enumerate(texts)]
    path = write("a.jsonl", rows)

    def result(name: str, **chosen: Any) -> str:
        try:
            built = build(path, output=tmp_path / name, repeated_text=chosen)
        except InputError as error:
            return str(error)
        return json.dumps([texts_of(built), built.reasons])

    for name, value in SETTINGS.items():
        base: dict[str, Any] = {"max_dropped_share": 1.0}
        base |= {"kinds": ("sentences",)} if name in ("sentences", "min_words") else {}
        given = base | {name: value} | ({"keep": "source"} if name == "source_order" else {})
        assert result(f"{name} changed", **given) != result(f"{name} plain", **base), name


def test_presets_and_off_by_default():
    assert CorpusConfig().repeated_text is None
    assert CorpusConfig(preset="c4").repeated_text == RepeatedTextConfig(kinds=("sentences",), min_words=1)
    assert CorpusConfig.model_validate({"preset": "c4", "repeated_text": None}).repeated_text is None


BAD = {
    "corpus.repeated_text.span_words=1": "span_words",
    "corpus.repeated_text.kinds=[words]": "kinds",
    "corpus.repeated_text.kinds=[]": "kinds",
    "corpus.repeated_text.keep=source": "keep=source and source_order need each other",
    "corpus.repeated_text.min_words=5": "min_words has no effect with kinds=['spans'], action=cut",
    "corpus.repeated_text.span=50": "span",
}


@pytest.mark.parametrize("setting", BAD)
def test_bad_settings(neolm_, write, tmp_path, setting):
    path = write("a.txt", "a text")
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={path}", f"output={tmp_path / 'run'}", setting)
    assert code == 2
    assert BAD[setting] in err
    assert len(err.strip().splitlines()) == 1


def test_the_command_line(neolm_, write, tmp_path):
    path = write("a.jsonl", [{"id": name, "text": f"{OWN} {name}. {STORY}"} for name in "abc"])
    common = ("corpus", "build", "text", f"corpus.path={path}", f"output={tmp_path / 'run'}")
    code, _, err = neolm_(*common, "corpus.repeated_text.max_dropped_share=0.2")
    assert code == 2
    assert "corpus.repeated_text.max_dropped_share: " in err
    code, _, err = neolm_(
        *common, "corpus.repeated_text.max_dropped_share=1", "corpus.repeated_text.min_words_left=1",
    )  # fmt: skip
    assert code == 0
    assert "repeated text: 732 bytes are cut out of 2 documents" in err
    sheet = (Path(tmp_path) / "run/corpus/datasheet.md").read_text()
    assert "cut out: repeated text | 2 | 732 |" in sheet
