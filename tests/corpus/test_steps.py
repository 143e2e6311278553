"""The filters of published corpora: one text for each side of each limit, presets, scores, and languages."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.config import Config
from neolm.core.errors import SettingError
from neolm.corpus.c4 import c4_lines, sentences
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filter_config import (
    LEFT_OUT,
    C4Config,
    FinewebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    QualityConfig,
)
from neolm.corpus.fineweb import fineweb_quality
from neolm.corpus.gopher import gopher_repetition
from neolm.corpus.language import language_codes, language_of
from neolm.corpus.reasons import REASONS
from neolm.corpus.steps import apply, beyond_limit, steps
from neolm.corpus.words import NGrams, duplicates, words_of

PROSE = (
    "The river rose in the night and the people of the town went up to the old church on the hill. They had to leave "
    "their cattle behind, but nobody was hurt. In the morning a boat came with bread and dry clothes, and the mayor "
    "said that the dam would be built again before winter. Some did not believe it. Others began to count their sheep."
)


def step_of(**settings: Any) -> Any:
    """The steps of a corpus with these filters alone."""
    return steps(CorpusConfig(**settings))


def words(count: int) -> str:
    """So many different words of five letters, with two stop words."""
    letters = "bcdfghjklm"
    made = ["".join(letters[int(digit)] for digit in f"{number:05d}") for number in range(count - 2)]
    return " ".join(["the", "of", *made])


# ---- Gopher's quality ----

QUALITY: list[tuple[str, str, str]] = [  # the limit, a text that it just lets pass, one that it rejects
    ("min_words", words(50), words(49)),
    ("max_words", words(100_000), words(100_001)),
    ("min_mean_word_length", "the of " * 20 + "abcd " * 40, "at of the " * 20),
    ("max_mean_word_length", "the of " + "abcdefghij " * 48, "the of " + "abcdefghijkl " * 60),
    ("max_hashes_per_word", words(90) + " #" * 10, words(90) + " #" * 11),
    ("max_ellipses_per_word", words(90) + " …" * 10, words(90) + " …" * 11),
    ("max_bullet_lines", "\n".join(["- the of abcd efgh ijkl"] * 9 + ["the end of all"]), "- the of abcd efgh\n" * 20),
    ("max_ellipsis_lines", f"{words(60)}\nshort…\n" + "line\n" * 2, f"{words(60)}\nshort…\nshort ...\n" + "line\n" * 2),
    ("min_alphabetic_words", words(80) + " 12345" * 20, words(79) + " 12345" * 21),
    ("min_stop_words", words(60), words(60).replace("of ", "")),
]


@pytest.mark.parametrize(("limit", "passes", "fails"), QUALITY)
def test_each_limit_of_gophers_quality(limit: str, passes: str, fails: str) -> None:
    others = {name: None for name in GopherQualityConfig.model_fields if name[:4] in ("min_", "max_")}
    alone = GopherQualityConfig.model_validate({**others, limit: GopherQualityConfig.model_fields[limit].default})
    for text, wanted in ((passes, None), (fails, "gopher_quality")):
        outcome = apply(step_of(gopher_quality=alone), text)
        assert outcome.reason == wanted, outcome.why
        assert (limit[4:] in (outcome.why or "")) == (wanted is not None)


# ---- Gopher's repetition ----


def repeated(pieces: list[str], times: int, others: int, joint: str) -> str:
    """`others` different pieces, and `pieces` so many times."""
    return joint.join([f"{words(9)} number{n}x" for n in range(others)] + pieces * times)


def test_limits_of_gophers_repetition() -> None:
    def measured(text: str) -> dict[str, float]:
        return gopher_repetition(text)

    seven = measured("\n".join(["one a", "two b", "three c", "four d", "five e", "six f", "seven g", *["seven g"] * 3]))
    assert seven["duplicate_lines"] == pytest.approx(0.3)
    assert seven["duplicate_line_characters"] == pytest.approx(21 / (5 + 5 + 7 + 6 + 6 + 5 + 7 * 4 + 9))
    blocks = measured("a b\n\nc d\n\na b\n\na b")
    assert blocks["duplicate_paragraphs"] == 0.5
    assert blocks["duplicate_paragraph_characters"] == pytest.approx(6 / 18)
    pairs = measured("go on then go on now go on")
    assert pairs["top_2_gram"] == pytest.approx(3 * len("go on") / 26)
    assert pairs["top_3_gram"] == 0.0  # nothing of three words is there twice
    five = "one two three four five"
    assert measured(f"{five} and {five}")["duplicate_5_grams"] == pytest.approx(19 / 51)
    assert measured(f"{five} and {five}")["duplicate_6_grams"] == 0.0
    blank = measured("a line\n\n\n\nanother line\n\n\nand one more")
    assert blank["duplicate_lines"] == blank["duplicate_paragraphs"] == 0.0  # blank lines are no duplicates


@pytest.mark.parametrize("name", [*GopherRepetitionConfig.model_fields])
def test_each_limit_of_gophers_repetition_counts(name: str) -> None:
    text = "\n\n".join(["again and again and again we say the same ten words here"] * 9)
    others: dict[str, Any] = dict.fromkeys(GopherRepetitionConfig.model_fields)
    value = gopher_repetition(text)[name[4:]]
    assert value > 0.05
    for limit, wanted in ((value + 1e-9, None), (value - 1e-3, "gopher_repetition")):
        config = GopherRepetitionConfig.model_validate({**others, name: limit})
        assert apply(step_of(gopher_repetition=config), text).reason == wanted


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=40), st.integers(2, 6))
def test_repeated_sequences_are_those_of_a_plain_loop(pieces: list[str], n: int) -> None:
    seen: set[tuple[str, ...]] = set()
    place = found = 0
    while place <= len(pieces) - n:
        gram = tuple(pieces[place : place + n])
        if gram in seen:
            found, place = found + sum(map(len, gram)), place + n
        else:
            seen.add(gram)
            place += 1
    assert NGrams(pieces).repeated(n) == found
    counts = Counter(tuple(pieces[start : start + n]) for start in range(len(pieces) - n + 1))
    gram, times = counts.most_common(1)[0] if counts else ((), 0)
    assert NGrams(pieces).top(n) == (times * len(" ".join(gram)) if times > 1 else 0)


def test_words_and_duplicates() -> None:
    assert [*words_of("It's naïve – isn't it?")] == ["It's", "naïve", "–", "isn't", "it", "?"]
    assert duplicates(["a", "bb", "a", "a"]) == (2, 2)
    assert duplicates([]) == (0, 0)


# ---- C4 ----

LINES = [
    ("terminal_punctuation", "This line has five words here", "This line has five words."),
    ("terminal_punctuation", "This line has many words but trails off...", 'She said "it has five words"'),
    ("min_line_words", "Only four words here.", "There are five words here."),
    ("javascript", "Please enable JavaScript in your browser.", "Please enable scripts in your browser."),
    ("policies", "Read our privacy policy before you go.", "Read our policy before you go."),
    ("max_word_characters", f"A word that is long {'x' * 1001}.", f"A word that is long {'x' * 999}."),
]


@pytest.mark.parametrize(("rule", "removed", "kept"), LINES)
def test_lines_that_c4_removes(rule: str, removed: str, kept: str) -> None:
    text, counts = c4_lines(f"{removed}\n{kept}", C4Config())
    assert (text, counts) == (kept, {rule: 1})


def test_documents_that_c4_refuses(tmp_path: Path) -> None:
    three = "One sentence has five words. Another one has five words! Does this one have five?"
    assert sentences(three) == 3
    assert apply(step_of(c4=C4Config()), three).reason is None
    assert apply(step_of(c4=C4Config(min_sentences=4)), three).why == "sentences 3 is below 4"
    assert apply(step_of(c4=C4Config()), f"{three} It has a {{ too.").why == "it has a curly bracket"
    assert apply(step_of(c4=C4Config()), f"{three} Lorem Ipsum dolor sit amet.").why == 'it has "lorem ipsum"'
    marked = apply(step_of(c4=C4Config()), "A fact[12] that is known.[citation needed]\n" + three)
    assert marked.text.startswith("A fact that is known.\n")
    (tmp_path / "words.txt").write_text("bad word\nworse\n")
    blocking = C4Config(blocklist=str(tmp_path / "words.txt"))
    assert apply(step_of(c4=blocking), f"{three} This is a Bad Word here.").why == "it has 'bad word' of the blocklist"
    assert apply(step_of(c4=blocking), f"{three} This is a bad wording here.").reason is None
    with pytest.raises(SettingError, match=r"c4\.blocklist: .*nothing\.txt cannot be read"):
        step_of(c4=C4Config(blocklist=str(tmp_path / "nothing.txt")))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SettingError, match="has no words"):
        step_of(c4=C4Config(blocklist=str(tmp_path / "empty.txt")))


# ---- FineWeb ----


def test_limits_of_fineweb() -> None:
    long = "This line has more than thirty characters"
    lines = [f"{long} {n}" for n in range(22)] + [f"{long} end {n}." for n in range(3)]
    found = fineweb_quality("\n".join(lines), 30)
    assert found["punctuated_lines"] == 0.12
    assert found["short_lines"] == found["duplicate_line_characters"] == 0.0
    assert beyond_limit(found, FinewebConfig()) is None
    assert beyond_limit(fineweb_quality("\n".join([*lines[:-1], long]), 30), FinewebConfig()) is not None
    short = fineweb_quality("\n".join(["a" * 30] * 2 + ["b" * 31]), 30)
    assert short["short_lines"] == pytest.approx(2 / 3)
    assert short["duplicate_line_characters"] == pytest.approx(30 / 91)
    assert fineweb_quality("one two\nthree four\n", 30)["newlines_per_word"] == 0.5


# ---- languages ----


def test_languages() -> None:
    assert language_of(PROSE)[0] == "en"
    assert language_of("Il pleut depuis trois jours, et la rivière\nmonte toujours.")[0] == "fr"
    assert language_of("この川は三日前から増水している。")[0] == "ja"
    assert language_codes(("eng", "German", "fr")) == {"en", "de", "fr"}
    with pytest.raises(SettingError, match=r"language\.languages: 'klingon' is no language of the model; it has .*en"):
        language_codes(("klingon",))
    german = "Der Fluss stieg in der Nacht, und die Leute gingen auf den Hügel."
    found = apply(step_of(language={"languages": ("english",)}), german)
    assert (found.reason, found.language) == ("language", "de")
    assert apply(step_of(language={"languages": ("deu",)}), german).reason is None
    for unknown, wanted in (("keep", None), ("drop", "language")):
        assert apply(step_of(language={"unknown": unknown}), "Hallo Welt").reason == wanted


# ---- presets, and the command ----


WEBTEXT = [  # metadata, number of words, and why the document is rejected
    ({}, 128, None),
    ({}, 127, "words 127 is below 128"),
    ({"karma": 3}, 128, None),
    ({"karma": 2}, 128, "karma 2 is below 3"),
    ({"reddit_scores": [1, 5]}, 128, None),
    ({"reddit_scores": [1, 2], "karma": None}, 128, "karma 2 is below 3"),
    ({"reddit_scores": "many"}, 128, None),
    ({"url": "https://en.wikipedia.org/wiki/Dam"}, 128, "its domain wikipedia.org is blocked"),
]


@pytest.mark.parametrize(("metadata", "length", "why"), WEBTEXT)
def test_rules_of_webtext(metadata: dict[str, Any], length: int, why: str | None) -> None:
    found = apply(step_of(preset="webtext", language=None), words(length), metadata)
    assert (found.why, found.reason) == (why, why and ("url" if "domain" in why else "webtext"))


def test_near_duplicates_and_classifiers_of_the_presets() -> None:
    found = {name: CorpusConfig.model_validate({"preset": name}) for name in ("webtext", "gpt3", "pile-cc")}
    near = {name: config.near_duplicates for name, config in found.items()}
    assert [(one.threshold, one.ngram, one.buckets, one.rows) for one in near.values() if one] == [
        (0.5, 5, 30, 3), (0.8, 5, 10, 1), (0.5, 5, 10, 1),
    ]  # fmt: skip
    assert [config.quality and config.quality.alpha for config in found.values()] == [None, 9, 3]
    assert [config.language is not None for config in found.values()] == [True, False, True]
    given = CorpusConfig.model_validate({"preset": "pile-cc", "quality": {"model": "a/b"}})
    assert given.quality == QualityConfig(model="a/b", alpha=3)
    assert {*LEFT_OUT} == {*found}
    for config in (found["gpt3"], found["pile-cc"]):
        with pytest.raises(SettingError, match=r"quality\.model: name the folder of a classifier"):
            steps(config)


@pytest.mark.parametrize("preset", ["c4", "gopher", "fineweb"])
def test_prose_passes_every_preset(preset: str) -> None:
    found = apply(step_of(preset=preset), PROSE)
    assert (found.reason, found.why) == (None, None)
    assert all(name in REASONS for name, _ in step_of(preset=preset) if name != "privacy")


def test_a_preset_is_what_is_not_given() -> None:
    config = CorpusConfig.model_validate({"preset": "fineweb", "c4": None, "fineweb": {"min_punctuated_lines": 0.2}})
    assert config.c4 is None
    assert config.fineweb == FinewebConfig(min_punctuated_lines=0.2)
    assert config.gopher_quality == GopherQualityConfig()
    assert config.near_duplicates is not None
    assert (config.near_duplicates.buckets, config.near_duplicates.rows) == (14, 8)
    assert config.near_duplicates is not None
    assert (config.near_duplicates.buckets, config.near_duplicates.rows) == (14, 8)
    assert [name for name, _ in steps(config)] == [
        "language",
        "gopher_repetition",
        "gopher_quality",
        "fineweb",
        "privacy",
    ]
    again = CorpusConfig.model_validate(config.model_dump())
    assert again == config


def test_limits_that_are_null_and_values_that_are_not_measured() -> None:
    class Limits(Config):
        min_a: float | None = 1
        max_b: float | None = None

    assert beyond_limit({"a": 0.5}, Limits()) == "a 0.5 is below 1"
    assert beyond_limit({"b": 9}, Limits()) is None


def test_a_corpus_with_a_preset(tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]) -> None:
    texts = {
        "prose": PROSE,
        "german": "Der Fluss stieg in der Nacht, und alle Leute der Stadt gingen auf den Hügel zur alten Kirche. " * 3,
        "short": "The end of the story, and that was all.",
        "again": "Buy now and save money today. " * 40,
        "menu": "\n".join(f"{one.rstrip('.')}." for one in reversed(PROSE.split(". ")))
        + "\n\n"
        + "\n".join(f"Page {n}" for n in range(20)),
    }
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "raw.jsonl").write_text("\n".join(lines))
    code, _, err = neolm_(
        "corpus", "build", "text", f"corpus.path={tmp_path / 'raw.jsonl'}", "corpus.preset=fineweb",
        f"output={tmp_path / 'run'}", "corpus.split_characters=null",
        "corpus.near_duplicates.threshold=1",
    )  # fmt: skip
    assert code == 0, err
    rejected = pq.read_table(tmp_path / "run/corpus/rejected/rejected-00000.parquet").to_pylist()
    assert {row["id"]: row["reason"] for row in rejected} == {
        "german": "language", "short": "gopher_quality", "again": "gopher_repetition",
    }  # fmt: skip
    why = {row["id"]: json.loads(row["metadata"])["why"] for row in rejected}
    assert why["short"] == "words 9 is below 50"
    assert "its language is de" in why["german"]
    kept = pq.read_table(tmp_path / "run/corpus/documents").to_pylist()
    assert {row["id"] for row in kept} == {"prose", "menu"}
    (menu,) = (row for row in kept if row["id"] == "menu")
    assert "Page 3" not in menu["text"]
    assert json.loads(menu["scores"])["c4.removed_lines"] == 20
    assert json.loads(menu["scores"])["gopher_quality.words"] > 50
    assert json.loads(menu["metadata"])["language"] == "en"
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={tmp_path}", "corpus.preset=pile")
    assert code == 2
    assert "corpus.preset" in err
    other = ("corpus.language.languages=[xx]", f"output={tmp_path / 'b'}")
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={tmp_path}", *other)
    assert code == 2
    assert "corpus.language.languages: 'xx' is no language of the model" in err
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={tmp_path}", "corpus.gopher_quality.min_word=3")
    assert code == 2
    assert "corpus.gopher_quality.min_word" in err
    assert "min_words" in err


def test_a_changed_blocklist_builds_the_corpus_again(
    tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]
) -> None:
    (texts := tmp_path / "texts").mkdir()
    (texts / "a.txt").write_text(PROSE)
    (texts / "b.txt").write_text("The garden was cold. We waited for the train all day. Nobody came to the station.")
    words, place = tmp_path / "words.list", tmp_path / "run"
    command = ("corpus", "build", "text", f"corpus.path={texts}", f"corpus.c4.blocklist={words}", f"output={place}")
    code, _, err = neolm_(*command)
    assert (code, "cannot be read" in err) == (2, True)
    words.write_text("zebra\n")
    assert neolm_(*command)[0] == 0
    assert "up to date" in neolm_(*command)[2]
    words.write_text("garden\n")
    code, _, err = neolm_(*command)
    assert (code, "rejected: c4 1" in err) == (0, True)
