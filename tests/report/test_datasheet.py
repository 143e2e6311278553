"""The datasheet of a corpus, through the real command: its numbers, its examples, and what stays open."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from neolm.report.datasheet import places_of_text

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def corpus(tmp_path: Path, neolm_: Command) -> Path:
    rows = [
        {
            "id": f"d{n}",
            "text": f"Story number {n} tells <b>a story</b> | of the sea and of the people in the old town.",
            "licence": "MIT",
        }
        for n in range(30)
    ]
    rows += [{"id": f"copy{n}", "text": rows[0]["text"]} for n in range(12)]
    rows += [
        {"id": "mail", "text": "Write to jane@firm.de and to joe@firm.de, please.", "source": "letters"},
        {"id": "e", "text": ""},
    ]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = neolm_(
        "corpus", "build", "text", f"corpus.path={tmp_path / 'raw.jsonl'}", "corpus.privacy={}",
        "corpus.split_characters=null", "corpus.language={}", f"output={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, err
    return tmp_path / "run" / "corpus"


def test_the_page_has_what_the_corpus_has(corpus: Path) -> None:
    page, sheet = ((corpus / f"datasheet.{kind}").read_text("utf-8") for kind in ("html", "md"))
    counts = json.loads((corpus / "manifest.json").read_text())["counts"]
    assert counts["kept"]["documents"] == 31
    for text in (page, sheet):
        assert "31 documents of 44 that were read are kept" in text
        assert "22 of 38 questions below are open" in text
        assert "a copy of another document" in text
        assert "d29" in text or "d1" in text
    assert f"| kept | 31 | {counts['kept']['bytes']} |" in sheet
    assert "| MIT | 29 | " in sheet
    assert "| letters | 1 | " in sheet
    assert "2 email" in sheet
    assert "| en | 31 |" in sheet
    assert sheet.count("*Open: a person has to answer this.*") == page.count("Open: a person has to answer this.") == 22
    assert "<b>a story" not in page
    assert "&lt;b&gt;a story" in page
    assert sheet.count("(of copy0)") == page.count("of copy0</dt>") == 10  # of twelve copies
    assert "jane" not in page
    assert "2 documents are held out" in page or f"{counts['validation']['documents']} document" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # it loads nothing


def test_it_is_written_again_only_with_its_corpus(corpus: Path, neolm_: Command) -> None:
    written = (corpus / "datasheet.html").stat().st_mtime_ns
    again = ("corpus", "build", "text", f"corpus.path={corpus.parent.parent / 'raw.jsonl'}", f"output={corpus.parent}")
    same = ("corpus.privacy={}", "corpus.split_characters=null", "corpus.language={}")
    assert neolm_(*again, *same)[0] == 0
    assert (corpus / "datasheet.html").stat().st_mtime_ns == written
    (corpus / "datasheet.md").unlink()
    assert neolm_(*again, *same)[0] == 0
    assert (corpus / "datasheet.md").is_file()
    assert neolm_(*again, *same[:2])[0] == 0
    assert "Languages were not measured" in (corpus / "datasheet.md").read_text()


def test_places_of_text() -> None:
    assert [places_of_text({"path": path}) for path in (None, "a", ["a", "b"])] == [[], ["a"], ["a", "b"]]
    assert places_of_text({"path": list("abcdefg")}) == ["a", "b", "c", "d", "e", "2 others"]
