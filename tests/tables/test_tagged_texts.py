"""Words with tags and texts with entities: each form becomes the same example, and what is wrong is named."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.metrics.entities import entities
from neolm.tables.conll import read_conll
from neolm.tables.tagged_table import read_tagged_file
from neolm.tables.tagged_texts import TaggedList, TaggedTexts
from neolm.tables.words import splits_character, text_words


def json_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def found_entities(texts: TaggedTexts) -> list[list[tuple[str, str]] | None]:
    """Label and characters of the entities of each text."""
    return [
        None
        if text.entities is None
        else [(label, text.text[text.words[a][0] : text.words[b - 1][1]]) for label, a, b in text.entities]
        for text in texts.texts
    ]


# ---- CoNLL ----

CONLL = """-DOCSTART- -X- -X- O

# a comment in front of a sentence
EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O


Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
-DOCSTART- -X- O O
#Brexit NNP B-NP B-MISC
# NN B-NP O
"""


def test_a_conll_file_is_read(tmp_path: Path) -> None:
    for name, data in (("a.conll", CONLL.encode()), ("a.txt.gz", gzip.compress(CONLL.encode()))):
        (tmp_path / name).write_bytes(data)
        found = read_tagged_file(tmp_path / name)
        assert [text.text for text in found.texts] == ["EU rejects German call .", "Peter Blackburn", "#Brexit #"]
        assert found_entities(found) == [
            [("ORG", "EU"), ("MISC", "German")],
            [("PER", "Peter Blackburn")],
            [("MISC", "#Brexit")],
        ]
        assert [text.place for text in found.texts] == ["line 4", "line 11", "line 14"]
        assert found.texts[1].tags == ["B-PER", "I-PER"]
        assert found.lines() == [f"{tmp_path / name}: 3 texts of 9 words; entities: MISC 2, ORG 1, PER 1"]
        assert found.rule == "whole"
    assert [text.text for text in read_conll(tmp_path / "a.conll", 4).texts][1] == "B-PER I-PER"
    assert found_entities(read_conll(tmp_path / "a.conll", 1, 3))[1] == [("NP", "Peter Blackburn")]


def test_tabs_keep_the_spaces_of_a_word_and_one_column_is_not_labelled(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("New York\tB-LOC\r\nis\tO\r\n\t\r\n# text = a\r\nbig\tO\r\n".encode("utf-16"))
    found = read_tagged_file(tmp_path / "a.tsv")
    assert [text.text for text in found.texts] == ["New York is", "big"]
    assert found_entities(found) == [[("LOC", "New York")], []]
    (tmp_path / "c.conll").write_text("10\u00a0000  B-N\n tab O\nx\tO\n")  # spaces, but for one line
    assert [text.text for text in read_conll(tmp_path / "c.conll").texts] == ["10\u00a0000 tab x"]
    (tmp_path / "b.txt").write_text("New\nYork\n\nis\n")
    assert found_entities(read_tagged_file(tmp_path / "b.txt")) == [None, None]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-A I-A O B-B", [("A", 0, 2), ("B", 3, 4)]),
        ("I-A I-A O I-B", [("A", 0, 2), ("B", 3, 4)]),  # IOB1
        ("B-A E-A O S-B", [("A", 0, 2), ("B", 3, 4)]),  # IOBES
        ("B-A B-A I-B O", [("A", 0, 1), ("A", 1, 2), ("B", 2, 3)]),
    ],
)
def test_every_scheme_becomes_iob2(tags: str, expected: list[tuple[str, int, int]]) -> None:
    found = TaggedList()
    found.add_words(list("abcd"), tags.split(), "line 1")
    (text,) = found.texts
    assert text.entities == expected
    assert entities(text.tags, strict="IOB2") == expected


def test_repaired_tags_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\nb I-PER\nc I-PER\nd I-LOC\n")
    assert read_conll(tmp_path / "a.conll").lines()[1:] == [
        "tags that cannot follow the one before them, and were read as the start of an entity: 2 (first: line 1)"
    ]


def test_bad_sentences_are_counted_by_reason(tmp_path: Path) -> None:
    lines = ["a O", "b PERSON", "", "a O", "b", "", "a O", "b B-PER", "", "a b-per", "", "a B-", "", "a\x00 O"]
    (tmp_path / "a.conll").write_text("\n".join(lines))
    found = read_conll(tmp_path / "a.conll")
    assert [text.text for text in found.texts] == ["a b"]
    scheme = "is no tag of BIO, IOB2 or IOBES: tags are O, B-LABEL and I-LABEL"
    assert found.lines()[1:] == [
        f"1 text left out: 'PERSON' {scheme} (first: line 1)",
        "1 text left out: a line has 1 columns instead of 2 (first: line 4)",
        f"1 text left out: 'b-per' {scheme} (first: line 10)",
        f"1 text left out: 'B-' {scheme} (first: line 12)",
        "1 text left out: it has a NUL character (first: line 14)",
    ]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a PERSON\n", (1, None), "no text that can be used; 1 text left out: 'PERSON' is no tag"),
        ("\n\n", (1, None), "no text that can be used; it has none"),
        ("a O\n", (3, None), "word_column: there is no column 3, only 2"),
        ("a O\n", (0, None), "word_column: there is no column 0, only 2"),
        ("a O\n", (1, 3), "tag_column: there is no column 3, only 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: str, columns: tuple[int, int | None], message: str
) -> None:
    (tmp_path / "a.conll").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_conll(tmp_path / "a.conll", *columns)
    assert "\n" not in str(caught.value)


def test_missing_binary_and_csv_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_tagged_file(tmp_path / "a.conll")
    (tmp_path / "b.conll").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="an Excel workbook"):
        read_tagged_file(tmp_path / "b.conll")
    with pytest.raises(InputError, match="words with tags are read from"):
        read_tagged_file(tmp_path / "a.csv")


# ---- tables ----


def test_words_with_tags_and_texts_with_entities_in_json_lines(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path / "a.jsonl",
        {"tokens": ["Anna", "is", "in", "New", "York"], "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]},
        {"text": "Anna is in New York!", "entities": [span(11, 19, "LOC"), span(0, 4, "PER")]},
        {"text": "Nobody", "entities": []},
        {"tokens": ["Anna"]},
        {"text": "Anna"},
    )
    found = read_tagged_file(path)
    expected = [("PER", "Anna"), ("LOC", "New York")]
    assert found_entities(found) == [expected, expected, [], None, None]
    assert found.texts[0].tags == found.texts[1].tags[:-1]
    assert found.lines() == [f"{path}: 5 texts of 14 words, 2 of them not labelled; entities: LOC 2, PER 2"]
    assert found.rule == "split"
    table = pa.table({"tokens": [["Anna", "is"]], "tags": [["B-PER", "O"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert found_entities(read_tagged_file(tmp_path / "a.parquet")) == [[("PER", "Anna")]]


def span(start: Any, end: Any, label: Any = "X") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "it has 2 words but 1 tags"),
        ({"tokens": [], "tags": []}, "it has no words"),
        ({"tokens": ["\x07", " "], "tags": [1, 2]}, "the tag 1 is not text: tags are O, B-LABEL and I-LABEL"),
        ({"tokens": ["a", 3]}, "a value under 'tokens' is not text"),
        ({"tokens": "a b"}, "the value under 'tokens' is not a list (str)"),
        ({"text": " \n", "entities": []}, "the text is empty"),
        ({"text": 3}, "the value under 'text' is not text (int)"),
        ({"text": "Anna", "entities": [[0, 4]]}, "the entity [0, 4] has no start, end or label"),
        ({"text": "Anna", "entities": [span(0, 4, 5)]}, "has no start, end or label"),
        ({"text": "Anna", "entities": [span(0.5, 4)]}, "the place 0.5 is not a whole number of characters"),
        (
            {"text": "Anna", "entities": [span(0, 5)]},
            "the entity from 0 to 5 is not in the text, which has 4 characters",
        ),
        ({"text": "Anna", "entities": [span(3, 3)]}, "the entity from 3 to 3 is not in the text"),
        ({"text": "Anna  a", "entities": [span(4, 6)]}, "the entity from 4 to 6 is white space"),
        ({"text": "Anna is", "entities": [span(0, 4), span(2, 7)]}, "two of its entities overlap"),
        ({"text": "Anna is", "entities": [span(0, 4), span(0, 4, "Y")]}, "two of its entities overlap"),
        ({"text": "AnnaBob", "entities": [span(0, 4), span(4, 7)]}, "two of its entities are in one word"),
        ({"text": "cafe\u0301s", "entities": [span(0, 4)]}, "an end of the entity 'cafe' is inside a character"),
        ({"text": "a \u200b b", "entities": [span(2, 3)]}, "the entity from 2 to 3 has no character that is seen"),
        ({"text": "👍🏽", "entities": [span(1, 2)]}, "is inside a character"),
        ("{", "not a JSON object"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, row: Any, reason: str) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"text": "Bob", "tokens": None, "entities": []}, row)
    line = read_tagged_file(path).lines()[-1]
    assert line.startswith("1 text left out: ")
    assert reason in line
    assert line.endswith("(first: line 2)")


def test_a_table_of_other_columns_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no column 'tokens'; the columns are words, ner"):
        read_tagged_file(json_lines(tmp_path / "a.jsonl", {"words": ["a"], "ner": ["O"]}))


def test_entities_take_whole_words_and_no_white_space(tmp_path: Path) -> None:
    text = "In Parisians' Anna."
    path = json_lines(tmp_path / "a.jsonl", {"text": text, "entities": [span(3, 8), span(13, 18, "PER")]})
    found = read_tagged_file(path)
    assert found_entities(found) == [[("X", "Parisians"), ("PER", "Anna")]]
    assert found.lines()[1:] == [
        "entities with an end inside a word, of which the whole word is taken: 1 (first: line 1)"
    ]


# ---- words of a raw text ----


@pytest.mark.parametrize(
    ("text", "whole", "split"),
    [
        ("don't stop.", "don|'|t|stop|.", "don|'|t|stop|."),
        ("U.S. Paris-based AT&T a@b.c", "U.S|.|Paris-based|AT&T|a@b.c", "U|.|S|.|Paris|-|based|AT|&|T|a|@|b|.|c"),
        ("10:30 1,000 a,b x:y", "10:30|1,000|a|,|b|x|:|y", "10|:|30|1|,|000|a|,|b|x|:|y"),
        ("-a a--b a - b -", "-|a|a|-|-|b|a|-|b|-", "-|a|a|-|-|b|a|-|b|-"),
        ("cafe\u0301s-x", "cafe\u0301s-x", "cafe\u0301s|-|x"),
        ("東京-に a東b", "東|京|-|に|a|東|b", "東|京|-|に|a|東|b"),
        (
            "می\u200cخواهم auto\u00admatic boat\u200b \u200e",
            "می\u200cخواهم|auto\u00admatic|boat",
            "می\u200cخواهم|auto\u00admatic|boat",
        ),
        ("👍🏽👍 👩\u200d👧", "👍🏽|👍|👩\u200d👧", "👍🏽|👍|👩\u200d👧"),
    ],
)
def test_words(text: str, whole: str, split: str) -> None:
    assert "|".join(text[a:b] for a, b in text_words(text, "whole")) == whole
    assert "|".join(text[a:b] for a, b in text_words(text, "split")) == split


@given(st.text(st.sampled_from("ab1.-,:@' \n\u0301東👍🏽\u200d\u200c") | st.characters(), max_size=30))
def test_words_hold_every_visible_character_once_and_whole(text: str) -> None:
    for rule in ("whole", "split"):
        words = text_words(text, rule)  # type: ignore[arg-type]
        inside = [index for start, end in words for index in range(start, end)]
        assert inside == sorted(set(inside))
        left_out = [text[index] for index in set(range(len(text))) - {*inside}]
        assert all(one.isspace() or unicodedata.category(one) in ("Cf", "Mn", "Mc", "Me") for one in left_out)
        assert "".join(left_out).translate(dict.fromkeys(map(ord, "ab1.-,:@'東👍"))) == "".join(left_out)
        assert not any(splits_character(text, index) for word in words for index in word)


@given(st.text(st.sampled_from("ab .-\u0301\u200b東👍🏽"), max_size=20), st.data())
def test_entities_cover_their_places(text: str, data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True).map(sorted))
    spans = [(start, end, "X") for start, end in zip(ends[::2], ends[1::2], strict=False)]
    found = TaggedList()
    found.add_spans(text, spans, "line 1")
    for one in found.texts:
        assert one.entities is not None
        assert len(one.entities) == len(spans)
        for (_, first, after), (start, end, _) in zip(one.entities, spans, strict=True):
            covered = one.words[first][0], one.words[after - 1][1]
            seen = [n for n in range(start, end) if text[n] not in " \u200b\u0301"]
            assert all(covered[0] <= n < covered[1] for n in seen)
    assert len(found.texts) + sum(places.count for places in found.left_out.values()) == 1
