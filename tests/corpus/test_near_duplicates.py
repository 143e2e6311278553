"""Near-duplicates in the corpus stage: what is found, which document stays, the split, the guard, bad settings."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from neolm.core.errors import InputError
from neolm.corpus.config import NearDuplicatesConfig
from neolm.corpus.near_duplicates import SMALL_SOURCE

ALL = {"max_dropped_share": 1.0}


def library_texts(number: int, words: int) -> list[list[str]]:
    """The first words of parts of the standard library's modules, as lists of words with what is between them."""
    found: list[list[str]] = []
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        tokens = re.findall(r"\S+\s*", path.read_text(encoding="utf-8"))
        found += [tokens[start : start + words] for start in range(0, len(tokens) - words, words)]
        if len(found) >= number:
            return found[:number]
    raise AssertionError("the standard library is too small")


def edited(tokens: list[str], edits: int, draw: random.Random) -> str:
    """The text with some words replaced, left out or added, and with another case and other white space."""
    changed = list(tokens)
    for place in draw.sample(range(len(changed)), edits):
        new = f"w{draw.getrandbits(40)} "
        changed[place] = draw.choice([new, "", changed[place] + new])
    text = "".join(changed)
    return draw.choice([text, text.upper(), re.sub(r"\s+", "\n", text), text.replace(",", ";")])


def words_of(text: str) -> set[tuple[str, ...]]:
    """The word 5-grams, by code of its own."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def similarity(left: str, right: str) -> float:
    a, b = words_of(left), words_of(right)
    return len(a & b) / len(a | b)


def test_precision_and_recall_on_real_texts(build, write):
    draw = random.Random(0)
    originals = library_texts(600, 200)
    texts = {}
    for number, tokens in enumerate(originals):
        texts[f"{number:04d}a"] = "".join(tokens)
        texts[f"{number:04d}b"] = edited(tokens, draw.randint(2, 12), draw)
    rows = [{"id": name, "text": text, "source": "library"} for name, text in texts.items()]
    corpus = build(write("a.jsonl", rows), near_duplicates={**ALL, "keep": "first"})
    pairs = {f"{n:04d}b": similarity(texts[f"{n:04d}a"], texts[f"{n:04d}b"]) for n in range(len(originals))}
    similar = {name for name, value in pairs.items() if value >= 0.8}
    just = {name for name in similar if pairs[name] < 0.85}
    assert len(just) > 80
    assert len(similar) < 500
    dropped = {name: json.loads(row["metadata"]) for name, row in corpus.rejected.items()}
    for wanted in (similar, just):
        assert len(wanted & set(dropped)) / len(wanted) >= 0.95
    true = [similarity(texts[name], texts[meta["duplicate_of"]]) for name, meta in dropped.items()]
    assert min(true) >= 0.8
    assert [meta["similarity"] for meta in dropped.values()] == pytest.approx(true, abs=1e-4)


def sentence(seed: int, words: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.choice('bcdfgklmnprst')}{draw.choice('aeiou')}{draw.getrandbits(12):x}" for _ in range(words)]


def variants(seed: int, number: int) -> list[str]:
    """A text, and copies of it whose last words differ."""
    words = sentence(seed)
    return [" ".join([*words, *sentence(seed * 1000 + n, n % 3)]) for n in range(number)]


def rows(clusters: int, copies: int = 3) -> list[dict[str, str]]:
    texts = [(f"{c:03d}{'cab'[n]}", text) for c in range(clusters) for n, text in enumerate(variants(c, copies))]
    return [{"id": name, "text": text, "source": f"source {name[-1]}"} for name, text in texts]


def test_the_result_does_not_depend_on_files_order_or_groups(build, write, tmp_path, monkeypatch):
    records = rows(80) + [{"id": f"x{n}", "text": " ".join(sentence(5000 + n)), "source": "others"} for n in range(80)]
    outputs = []
    for number, (files, group) in enumerate([(1, 2**22), (7, 1), (3, 5000), (40, 2**22)]):
        shuffled = random.Random(number).sample(records, len(records))
        for file in range(files):
            write(f"{number}/{file}.jsonl", shuffled[file::files])
        monkeypatch.setattr("neolm.corpus.ingest.GROUP_BYTES", group)
        built = build(tmp_path / "raw" / str(number), output=tmp_path / f"out {number}", near_duplicates=ALL)
        outputs.append({name: digest for name, digest in built.manifest.outputs.items() if name != "config.json"})
        assert built.counts["near_duplicates"] == {
            "clusters": 80,
            "largest": [3] * 10,
            "documents": 160,
            "sources": {"source a": 80, "source c": 80},
        }
    assert all(other == outputs[0] for other in outputs[1:])


KEEP = {
    "longest": ({"keep": "longest"}, "0b"),
    "first": ({"keep": "first"}, "0a"),
    "source": ({"keep": "source", "source_order": ("web", "books")}, "0c"),
    "a source that none has": ({"keep": "source", "source_order": ("news",)}, "0b"),
}


@pytest.mark.parametrize("name", KEEP)
def test_which_document_stays(build, write, name):
    settings, stays = KEEP[name]
    base = " ".join(sentence(1))
    texts = {"0a": (base, "wiki"), "0b": (f"{base} the longest one", "wiki"), "0c": (f"{base} more", "books")}
    records = [{"id": name, "text": text, "source": source} for name, (text, source) in texts.items()]
    corpus = build(write("a.jsonl", records[::-1]), near_duplicates={**ALL, **settings})
    assert set(corpus.kept) == {stays}
    assert corpus.reasons == dict.fromkeys(set(texts) - {stays}, "near_duplicate")
    for row in corpus.rejected.values():
        metadata = json.loads(row["metadata"])
        assert metadata["duplicate_of"] == stays
        assert metadata["similarity"] == round(similarity(row["text"], texts[stays][0]), 4)


def test_exact_duplicates_of_a_near_duplicate_name_the_document_that_is_kept(build, write):
    base = " ".join(sentence(1))
    records = [{"id": "a", "text": base}, {"id": "b", "text": base}, {"id": "c", "text": f"{base} and more"}]
    corpus = build(write("a.jsonl", records), near_duplicates=ALL)
    assert corpus.reasons == {"a": "near_duplicate", "b": "duplicate"}
    assert {json.loads(row["metadata"])["duplicate_of"] for row in corpus.rejected.values()} == {"c"}


def test_unrelated_texts_with_a_common_template_are_kept(build, write):
    """Their pairs share buckets, but half of their words differ: without verification they would be one cluster."""
    template = sentence(0, 60)
    records = [{"text": " ".join([*template, *sentence(n + 1, 15)])} for n in range(200)]
    found = {"threshold": 0.9, "buckets": 40, "rows": 2, **ALL}
    corpus = build(write("a.jsonl", records), near_duplicates=found)
    assert len(corpus.kept) == 200
    assert corpus.counts["near_duplicates"] == {"clusters": 0, "largest": [], "documents": 0, "sources": {}}


def test_a_chain_is_one_cluster_and_the_similarity_is_that_to_the_kept_document(build, write):
    words = sentence(3, 200)
    records = [{"id": str(n), "text": " ".join(words[n * 15 : n * 15 + 140])} for n in range(5)]
    corpus = build(write("a.jsonl", records), near_duplicates={**ALL, "keep": "first", "buckets": 60, "rows": 4})
    assert set(corpus.kept) == {"0"}
    similarities = [json.loads(corpus.rejected[str(n)]["metadata"])["similarity"] for n in range(1, 5)]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] >= 0.8
    assert similarities[-1] < 0.5
    assert corpus.counts["near_duplicates"]["largest"] == [5]


def test_a_hundred_times_the_same_boilerplate(build, write, capsys):
    base = sentence(9)
    marks = [f"{n} ".translate(str.maketrans("0123456789", "!?.,;:-_()")) for n in range(100)]
    records = [{"id": f"{n:02d}", "text": mark + mark.join(base), "source": "web"} for n, mark in enumerate(marks)]
    records += [{"id": "other", "text": " ".join(sentence(10)), "source": "web"}]
    corpus = build(write("a.jsonl", records), near_duplicates=ALL)
    assert len(corpus.kept) == 2
    assert corpus.counts["rejected"]["near_duplicate"]["documents"] == 99
    assert "near-duplicates: 99 in 1 cluster, the largest of 100 documents" in capsys.readouterr().err


def test_short_and_empty_texts_are_never_near_duplicates(build, write):
    texts = ["!?" * n + " …" for n in range(1, 30)] + [f"one two three {'.' * n}four" for n in range(30)]
    corpus = build(write("a.jsonl", [{"text": text} for text in texts]), min_text_fraction=0.0, near_duplicates={})
    assert corpus.reasons == {}
    assert len(corpus.kept) == len(texts)


JAPANESE = (
    "昔々、ある所におじいさんとおばあさんが住んでいました。おじいさんは山へ芝刈りに、おばあさんは川へ洗濯に行きました。"
    "おばあさんが川で洗濯をしていると、大きな桃が流れてきました。家に持って帰り、切ってみると元気な男の子が出てきました。"
)


def test_texts_without_spaces(build, write):
    other = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。"
    texts = {"a": JAPANESE, "b": JAPANESE.replace("桃", "瓜"), "c": other, "d": JAPANESE.replace("。", "\n"), "e": "桃"}
    path = write("a.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    corpus = build(path, near_duplicates={**ALL, "keep": "first"})
    assert corpus.reasons == dict.fromkeys("bd", "near_duplicate")


def test_reported_near_duplicates_are_kept_in_one_split(build, write, capsys):
    records = rows(60)
    path = write("a.jsonl", records)
    for settings in ({}, {"near_duplicates": {"action": "report"}}):
        corpus = build(path, validation_fraction=0.4, **settings)
        splits = [{document.id[:3] for document in corpus.split(split)} for split in ("train", "validation")]
        assert splits[0].isdisjoint(splits[1]) == bool(settings)
    assert set(corpus.kept) == {row["id"] for row in records}
    assert min(map(len, splits)) > 10
    assert corpus.counts["train"]["documents"] + corpus.counts["validation"]["documents"] == 180
    assert json.loads(corpus.kept["001a"].metadata)["duplicate_of"] == "001b"
    assert "duplicate_of" not in json.loads(corpus.kept["001b"].metadata)
    assert "near-duplicates: 120 in 60 clusters, the largest of 3 documents" in capsys.readouterr().err


def test_a_document_follows_the_near_copies_of_all_its_parts(build, write):
    """Documents 0, 1, 2, ... are a chain: part b of each is a near copy of part a of the next."""
    records = []
    for n in range(30):
        link = n % 3  # chains of three documents
        own, following = (" ".join(sentence(n // 3 * 10 + link + k)) for k in range(2))
        records += [
            {"id": f"{n}a", "parent": str(n), "text": own},
            {"id": f"{n}b", "parent": str(n), "text": f"{following} end"},
        ]
    corpus = build(write("a.jsonl", records), validation_fraction=0.5, near_duplicates={"action": "report"})
    train, validation = ({int(d.parent) // 3 for d in corpus.split(split)} for split in ("train", "validation"))
    assert train.isdisjoint(validation)
    assert min(len(train), len(validation)) >= 2
    assert corpus.counts["kept"]["documents"] == 30


def test_one_cluster_is_not_divided(build, write, capsys):
    records = rows(1)
    corpus = build(write("a.jsonl", records), near_duplicates={"action": "report"})
    assert (len(corpus.split("train")), corpus.split("validation")) == (3, [])
    message = capsys.readouterr().err
    assert "nothing is held out for validation, because all documents are near-duplicates" in message
    assert "split_characters" not in message


def test_a_source_is_not_emptied_without_consent(build, write, tmp_path):
    copies = [{"text": f"{' '.join(sentence(1))} {n}", "source": "spam"} for n in range(SMALL_SOURCE)]
    others = [{"text": " ".join(sentence(n)), "source": "good"} for n in range(2, 400)]
    path = write("a.jsonl", copies + others)
    problem = (
        rf"near_duplicates.max_dropped_share: {SMALL_SOURCE - 1} of {SMALL_SOURCE} documents \(99.0%\) of the source "
        r"'spam' are near-duplicates, and at most 50.0% may be dropped. .*action=report.*max_dropped_share=1$"
    )
    with pytest.raises(InputError, match=problem):
        build(path, near_duplicates={})
    assert not list((tmp_path / "output").glob("[!.]*"))
    assert len(build(path, near_duplicates=ALL).kept) == 399


def test_small_sources_are_judged_together(build, write, tmp_path):
    for number in range(40):  # each file is a source, and many of them are dropped whole
        write(f"{number}.txt", " ".join([*sentence(number if number < 25 else 0), str(number)]))
    assert len(build(tmp_path / "raw", near_duplicates={}).kept) == 25
    with pytest.raises(InputError, match=r"15 of 40 documents \(37.5%\) of the sources of fewer than 100 documents"):
        build(tmp_path / "raw", near_duplicates={"max_dropped_share": 0.3})


SETTINGS = {
    "action": "report",
    "threshold": 0.99,
    "ngram": 9,
    "buckets": 1,
    "rows": 30,
    "keep": "first",
    "source_order": ("source c",),
    "max_dropped_share": 0.1,
}


def test_every_setting_changes_the_result(build, write, tmp_path):
    assert set(SETTINGS) == set(NearDuplicatesConfig.model_fields)
    draw = random.Random(0)
    tokens = [[f"{word} " for word in sentence(n, 120)] for n in range(40)]
    records = [
        {"id": f"{n:02d}{kind}", "source": f"source {kind}", "text": edited(words, edits, draw)}
        for n, words in enumerate(tokens)
        for kind, edits in (("a", 0), ("b", n % 4), ("c", n % 6))
    ]
    path = write("a.jsonl", records)

    def result(name: str, **settings: object) -> str:
        try:
            built = build(path, output=tmp_path / name, near_duplicates=settings)
        except InputError as error:
            return str(error)
        return json.dumps([sorted(built.kept), {name: row["metadata"] for name, row in built.rejected.items()}])

    plain = result("plain")
    for name, value in SETTINGS.items():
        given = {name: value, **({"keep": "source"} if name == "source_order" else {})}
        assert result(name, **given) != plain, name


def test_the_command_line(neolm_, write, tmp_path):
    path = write("a.jsonl", rows(10))
    common = ["corpus", "build", "text", f"corpus.path={path}", f"output={tmp_path / 'run'}"]
    code, _, err = neolm_(*common, "corpus.near_duplicates.max_dropped_share=0.2")
    assert code == 2
    assert "corpus.near_duplicates.max_dropped_share: 20 of 30 documents (66.7%) of the sources of fewer" in err
    code, _, err = neolm_(*common, "corpus.near_duplicates.max_dropped_share=1", "corpus.near_duplicates.keep=first")
    assert code == 0
    assert "10 of 30 documents kept" in err
    assert "rejected: near_duplicate 20; near-duplicates: 20 in 10 clusters" in err
    assert "Traceback" not in err


BAD = {
    "corpus.near_duplicates.ngram=0": "ngram",
    "corpus.near_duplicates.threshold=1.5": "threshold",
    "corpus.near_duplicates.threshold=0": "threshold",
    "corpus.near_duplicates.rows=100000": "rows",
    "corpus.near_duplicates.keep=shortest": "keep",
    "corpus.near_duplicates.keep=source": "keep=source and source_order need each other",
    "corpus.near_duplicates.source_order=[a]": "keep=source and source_order need each other",
    "corpus.near_duplicates.bucket=3": "did you mean 'buckets'",
}


@pytest.mark.parametrize("setting", BAD)
def test_bad_settings(neolm_, write, tmp_path, setting):
    path = write("a.txt", "a text")
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={path}", f"output={tmp_path / 'run'}", setting)
    assert code == 2
    assert BAD[setting] in err
    assert len(err.strip().splitlines()) == 1


def test_exact_duplicates_are_kept_by_the_same_rule(build, write):
    text = " ".join(sentence(1))
    records = [{"id": f"{n}", "text": text, "source": source} for n, source in enumerate(["web", "wiki", "books"])]
    path = write("a.jsonl", records)
    assert set(build(path).kept) == {"0"}
    corpus = build(path, near_duplicates={**ALL, "keep": "source", "source_order": ("books", "wiki")})
    assert set(corpus.kept) == {"2"}
    assert {row["metadata"] for row in corpus.rejected.values()} == {'{"duplicate_of": "2"}'}
    assert corpus.reasons == {"0": "duplicate", "1": "duplicate"}


@pytest.mark.parametrize("slice_", [1, 7])
def test_threads_and_slices_of_buckets_do_not_change_the_clusters(build, write, tmp_path, monkeypatch, slice_):
    draw = random.Random(2)
    originals = library_texts(40, 60)
    rows = [{"id": str(n), "text": edited(draw.choice(originals), draw.randint(0, 3), draw)} for n in range(200)]
    path = write("a.jsonl", rows)
    near = {**ALL, "threshold": 0.5}
    whole = build(path, output=tmp_path / "whole", near_duplicates=near)
    monkeypatch.setattr("neolm.corpus.near_duplicates.SLICE", slice_)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(3))
    assert build(path, output=tmp_path / "slices", near_duplicates=near).manifest.outputs == whole.manifest.outputs
    assert whole.counts["near_duplicates"]["documents"] > 100
