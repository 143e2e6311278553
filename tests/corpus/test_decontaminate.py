"""Decontamination: which documents have items of evaluation sets, by each rule, and what happens to them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.corpus.config import DecontaminationConfig
from neolm.corpus.decontaminate import MARGIN, MAX_PIECES, MIN_PIECE, cut
from neolm.corpus.drop import Criteria, drop
from neolm.corpus.evaluation_items import EvaluationIndex, Item, careful_words
from neolm.pipeline import run
from neolm.report.datasheet import write_datasheet

LONG = (
    "A gardener plants seven rows of purple tulips and waters every second row on Monday morning before the bus leaves"
)
ANSWER = "so four rows were watered by the gardener"
SHORT, SHORT_ANSWER = "Which harbour town sells blue lanterns in winter?", "Port Merrow"
PASSAGE = (
    "The old lighthouse of Port Merrow was built by two sisters who had sold their herring boat, and for sixty years "
    "its lamp was lit with oil that children carried up the stairs in small tin buckets every evening before supper."
)
ASKED = "Who paid for the building of the lighthouse at the end of the long pier?"
ITEMS = [
    {"q": LONG, "a": ANSWER},
    {"q": SHORT, "a": SHORT_ANSWER},
    {"q": "Which town?", "a": "Merrow"},
    {"q": "What is the name of the last station on the northern line?", "a": ""},
    {"q": "", "a": "nothing at all"},
    {"q": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "a": "17"},
]
READING = [{"passage": PASSAGE, "question": ASKED, "answer": "two sisters"}]
FILLER = [
    f"On day {number} the {one} of the village walked to the {two} and wrote a letter about {number * 7} small things"
    f" that had happened there, and then the {two} was closed until the {one} came back from another walk in the hills."
    for number, (one, two) in enumerate(itertools.product(("baker", "teacher", "doctor"), ("mill", "church", "river")))
]
PAGE = " ".join(FILLER)


def settings(tmp_path: Path, documents: dict[str, str], **decontamination: Any) -> dict[str, Any]:
    """A recipe of a corpus of `documents` by name, with two evaluation sets."""
    (tmp_path / "raw").mkdir(exist_ok=True)
    lines = [json.dumps({"id": name, "text": text}) for name, text in documents.items()]
    (tmp_path / "raw" / "documents.jsonl").write_text("\n".join(lines))
    for name, rows in (("items", ITEMS), ("reading", READING)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tables = [
        {"name": "items", "path": str(tmp_path / "items.jsonl"), "question": ["q"], "answer": "a"},
        {
            "name": "reading",
            "path": str(tmp_path / "reading.jsonl"),
            "question": ["question"],
            "answer": "answer",
            "passage": "passage",
        },
    ]
    corpus = {"source": "files", "path": str(tmp_path / "raw"), "min_characters": 1}
    return {
        "output": str(tmp_path / "run"),
        "corpus": corpus | {"decontamination": {"tables": tables} | decontamination},
    }


def built(recipe: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Build the corpus: the texts that are kept, the counts, the lines of contamination.jsonl, the rejected texts."""
    corpus = run(recipe, until="corpus") / "corpus"
    kept, rejected = (
        {
            row["id"]: row["text"]
            for path in sorted((corpus / folder).glob("*"))
            for row in pq.read_table(path).to_pylist()
        }
        for folder in ("documents", "rejected")
    )
    counts = json.loads((corpus / "manifest.json").read_text())["counts"]
    report = [json.loads(line) for line in (corpus / "contamination.jsonl").read_text().splitlines()]
    return kept, counts, report, rejected


LEAKS = {
    "verbatim": f"{LONG} {ANSWER}",
    "start": f"{LONG}\n{ANSWER}\n{PAGE}",
    "end": f"{PAGE}\n{LONG} {ANSWER}",
    "inside": f"{PAGE[:300]} {LONG} {PAGE[300:]}",
    "first half": " ".join(LONG.split()[:14]) + ". " + FILLER[0],
    "wrapped": LONG.replace(" ", "\n") + FILLER[1],
    "case": LONG.upper() + FILLER[2],
    "punctuation": "“" + LONG.replace(" ", ", ") + "!” " + FILLER[3],
    "short": f"Q: {SHORT}\nA: {SHORT_ANSWER}. {FILLER[4]}",
    "passage": f"{PASSAGE}\n{ASKED}\nTwo sisters! {FILLER[5]}",
    "question": f"{FILLER[6]} {ASKED} Answer: two sisters",
}
HARMLESS = {
    "passage alone": PASSAGE + FILLER[7],
    "question alone": SHORT + FILLER[8],
    "unanswered": f"{ASKED} Nobody knows. {FILLER[0]}",
    "series": " ".join(map(str, range(1, 30))) + " and so on until the evening came",
    "very short": f"Which town? Merrow. {FILLER[1]} {FILLER[2]}",
}


def test_careful_finds_leaks_and_leaves_what_only_looks_like_them(tmp_path: Path) -> None:
    kept, counts, report, rejected = built(settings(tmp_path, LEAKS | HARMLESS))
    assert set(rejected) == set(LEAKS)
    assert set(kept) == set(HARMLESS)
    assert counts["rejected"]["contaminated"]["documents"] == len(LEAKS)
    told = counts["contamination"]
    assert (told["rule"], told["documents"], told["dropped"], told["cut"]) == ("careful", len(LEAKS), len(LEAKS), 0)
    assert told["evaluations"]["items"] == {
        "items": 6,
        "touched": 2,
        "documents": 9,
        "not_judged": {"no answer": 1, "no text": 1, "nothing of its own": 1, "too short": 1},
    }
    assert told["evaluations"]["reading"] == {"items": 1, "touched": 1, "documents": 2, "not_judged": {}}
    line = next(line for line in report if line["evaluation"] == "reading")
    assert (line["item"], line["status"], line["documents"]) == ("reading.jsonl:1", "touched", 2)
    assert [match["document"] for match in line["matches"]] == ["passage", "question"]
    assert line["matches"][1]["text"].startswith("Who paid for the building")
    assert [line["item"] for line in report if line["status"] == "not_judged"] == [
        f"items.jsonl:{number}" for number in (3, 4, 5, 6)
    ]


def test_common_ngrams_do_not_count(tmp_path: Path) -> None:
    copies = {f"copy {number}": f"{LONG} {number} {FILLER[number % 9]} {number}" for number in range(11)}
    documents = copies | {"page": PAGE}
    _, counts, report, rejected = built(settings(tmp_path, documents))
    assert not rejected
    assert counts["contamination"]["common_ngrams"] > 0
    assert report[0] == {
        **{"evaluation": "items", "item": "items.jsonl:1"},
        **{"status": "not_judged", "why": "only common n-grams"},
    }
    _, _, _, rejected = built(settings(tmp_path, documents, max_documents=11))
    assert set(rejected) == set(copies)
    _, _, _, rejected = built(settings(tmp_path, documents, rule="ngram"))
    assert set(rejected) == set(copies)


def test_the_words_of_many_questions_and_quotations_do_not_count() -> None:
    template = "In the following text choose the one statement that is true of the"
    config = DecontaminationConfig(tasks=("glue/rte",), data="x")
    many = [
        Item("e", str(n), (f"{template} city number {n} among the many towns of the wide river valley",))
        for n in range(11)
    ]
    index = EvaluationIndex(config, many)
    assert careful_words(template) not in index.known
    assert not index.not_judged
    same = [Item("e", str(n), (template + "!" * n,)) for n in range(11)]
    assert set(EvaluationIndex(config, same).not_judged.values()) == {"nothing of its own"}
    speech = "Four score and seven years ago our fathers brought forth on this continent a new nation"
    quoted = Item(
        "e", "q", (f'"{speech}" In which small town did the tired president say these famous words?',), ("Gettysburg",)
    )
    index = EvaluationIndex(config, [quoted])
    assert not list(index.find([careful_words(speech)]))
    assert list(
        index.find([careful_words("So in which small town did the tired president say these famous words Gettysburg")])
    )


def test_gpt3_cuts_and_drops(tmp_path: Path) -> None:
    around = PAGE.replace(".", ";")
    documents = {
        "cut": f"{around} | {LONG} | {around}",
        "short": f"{'x' * 100} {LONG} {'y' * 100}",
        "passage": f"{PAGE} {PASSAGE} {PAGE}",
        "clean": PAGE,
    }
    kept, counts, _, rejected = built(settings(tmp_path, documents, rule="gpt3"))
    assert set(rejected) == {"short"}
    expected = [around[: -MARGIN + 3].strip(), around[MARGIN - 3 :].strip()]
    assert kept["cut"].split("\n\n") == expected
    assert len(kept["passage"]) < len(PAGE) * 2
    assert kept["clean"] == PAGE
    told = counts["contamination"]
    assert (told["documents"], told["cut"], told["dropped"]) == (3, 2, 1)


def test_report_marks_and_keeps(tmp_path: Path) -> None:
    recipe = settings(tmp_path, LEAKS | HARMLESS, action="report")
    kept, counts, _, rejected = built(recipe)
    assert not rejected
    assert kept == LEAKS | HARMLESS
    assert counts["contamination"]["documents"] == len(LEAKS)
    paths = sorted((tmp_path / "run" / "corpus" / "documents").glob("*"))
    told = {row["id"]: json.loads(row["metadata"]) for path in paths for row in pq.read_table(path).to_pylist()}
    assert told["verbatim"] == {"contamination": {"items": 1}}
    assert told["series"] == {}
    drop(tmp_path / "run" / "corpus", tmp_path / "less", Criteria(ids=("passage",)))
    report = (tmp_path / "less" / "corpus" / "contamination.jsonl").read_text()
    assert ("two sisters who" in report, "Who paid for the building" in report) == (False, True)
    write_datasheet(tmp_path / "less" / "corpus")


def test_cut_documents_are_divided_and_order_does_not_matter(tmp_path: Path) -> None:
    recipe = settings(tmp_path, LEAKS | HARMLESS, action="cut")
    recipe["corpus"]["split_characters"] = 200
    first = built(recipe)
    assert {name.partition("#")[0] for name in first[0]} == set(HARMLESS) | {"start", "end", "inside"}
    assert first[1]["kept"]["parts"] == len(first[0])
    (tmp_path / "other").mkdir()
    again = settings(tmp_path / "other", dict(reversed((LEAKS | HARMLESS).items())), action="cut")
    again["corpus"]["split_characters"] = 200
    assert built(again)[:3] == first[:3]


@given(
    st.text(st.sampled_from("ab \n"), max_size=4000),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 90)), max_size=9),
)
def test_cut_leaves_long_pieces_outside_of_the_margins(text: str, found: list[tuple[int, int]]) -> None:
    spans = [(start, min(len(text), start + size)) for start, size in found if start < len(text)]
    outside = [not any(start - MARGIN <= at < end + MARGIN for start, end in spans) for at in range(len(text))]
    runs = [
        "".join(text[at] for at in run)
        for keep, group in itertools.groupby(range(len(text)), outside.__getitem__)
        if keep
        for run in [list(group)]
    ]
    expected = "\n\n".join(run.strip() for run in runs if len(run) >= MIN_PIECE)
    assert (cut(text, spans) or "") == ("" if len(runs) > MAX_PIECES else expected if expected.strip() else "")


WORDS = st.lists(st.sampled_from(["red", "fox", "ran", "über", "犬", "12"]), max_size=60)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=4))
def test_all_ngrams_are_found(items: list[list[str]], texts: list[list[str]]) -> None:
    config = DecontaminationConfig(tasks=("glue/rte",), data="x", rule="ngram", ngram=8)
    index = EvaluationIndex(config, [Item("e", str(n), (" ".join(words),)) for n, words in enumerate(items)])
    known = {tuple(words[at : at + 8]) for words in items for at in range(len(words) - 7)}
    expected = {
        (number, at)
        for number, words in enumerate(texts)
        for at in range(len(words))
        if tuple(words[at : at + 8]) in known
    }
    forms = [careful_words(" ".join(words)) for words in texts]
    assert {(number, forms[number][:at].count(b" ")) for number, at, _ in index.find(forms)} == expected


def test_tasks_by_name(tmp_path: Path) -> None:
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    premise = (
        "The committee of the small coastal town decided on Tuesday that the old ferry would go to a museum in June."
    )
    hypothesis = "A museum buys the old ferry of the small coastal town"
    rows = [("0", premise, hypothesis, "entailment"), ("1", premise, hypothesis + " by itself", "")]
    header = "index\tsentence1\tsentence2\tlabel\n"
    (tmp_path / "glue" / "RTE" / "dev.tsv").write_text(header + "".join("\t".join(row) + "\n" for row in rows))
    recipe = settings(tmp_path, {"news": f"{premise} {PAGE}", "leak": f"{premise}\t{hypothesis}\t{PAGE}", "page": PAGE})
    recipe["corpus"]["decontamination"] = {"tasks": ["glue/rte"], "data": str(tmp_path)}
    _, counts, report, rejected = built(recipe)
    assert set(rejected) == {"leak"}
    assert counts["contamination"]["evaluations"]["glue/rte"] == {
        **{"items": 2, "touched": 1, "documents": 1, "not_judged": {"no answer": 1}}
    }
    assert report[0]["item"] == "dev.tsv:2#0"


def test_changed_files_build_the_corpus_again_and_missing_ones_do_not(
    tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings(tmp_path, {"leak": f"{LONG} {ANSWER}", "page": PAGE})))
    command = ("corpus", "build", str(recipe))
    code, _, err = neolm_(*command)
    assert (code, "contaminated 1" in err, "contamination: 1 of 7 items in 1 documents" in err) == (0, True, True)
    assert "corpus: up to date" in neolm_(*command)[2]
    items, recorded = tmp_path / "items.jsonl", tmp_path / "run" / "corpus" / "manifest.json"
    digests = {name: value["digest"] for name, value in json.loads(recorded.read_text())["inputs"].items()}
    assert set(digests) == {"raw", "evaluation set items", "evaluation set reading"}
    items.write_text(json.dumps({"q": SHORT, "a": SHORT_ANSWER}))
    code, _, err = neolm_(*command)
    assert (code, "2 of 2 documents kept" in err) == (0, True)
    items.unlink()
    code, _, err = neolm_(*command)
    assert (code, "items.jsonl is no longer there" in err) == (0, True)
    page = (tmp_path / "run" / "corpus" / "datasheet.html").read_text()
    assert "Evaluation sets in the corpus" in page
    assert "was not measured" not in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"tables": [], "tasks": ["glue/rtee"], "data": "."},
            "corpus.decontamination.tasks: there is no task 'glue/rtee'",
        ),
        ({"tables": [], "tasks": ["glue/rte"], "data": "."}, "there is no RTE/dev.tsv"),
        ({"tables": [], "tasks": ["glue/rte"], "data": "nowhere"}, "nowhere: there is no"),
        ({"tables": [{"name": "x", "path": "nowhere.csv", "question": ["q"]}]}, "nowhere.csv: there is no such file"),
        ({"tables": [{"name": "x", "path": "items.jsonl", "question": ["qq"]}]}, "did you mean 'q'?"),
        ({"tables": [{"name": "x", "path": "none.csv", "question": ["q"]}]}, "the evaluation set x is empty"),
        ({"tables": [{"name": "x", "path": "folder", "question": ["q"]}]}, "the evaluation set x is empty"),
        ({"tables": []}, "give tasks"),
        ({"tasks": ["glue/rte"]}, "tasks and data need each other"),
        ({"rule": "ngram", "max_documents": 3}, "max_documents has no effect"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "none.csv").write_text("q,a\n")
    recipe = settings(tmp_path, {"page": PAGE})
    recipe["corpus"]["decontamination"] |= change
    with pytest.raises(InputError) as error:
        run(recipe, until="corpus")
    assert told in str(error.value)
    assert not (tmp_path / "run" / "corpus").exists()
