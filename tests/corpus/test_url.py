"""Rules for URLs: each list and side, URLs of all forms, and a corpus that has them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from neolm.core.errors import SettingError
from neolm.core.files import read_json
from neolm.corpus.filter_config import UrlConfig
from neolm.corpus.url import url_rules

Refusal = Callable[[str], str | None]


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., Refusal]:
    """`rules(words="a b")`: rules with these lists, as files."""

    def make(block: tuple[str, ...] = (), **lists: str) -> Refusal:
        for name, entries in lists.items():
            (tmp_path / name).write_text("\n".join(entries.split()) + "\n\n")
        return url_rules(UrlConfig(block=block, **{name: str(tmp_path / name) for name in lists}))

    return make


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.org/a", "its domain example.org is blocked"),
        ("http://www.Example.ORG:8080/", "its domain example.org is blocked"),
        ("user@news.example.org./x", "its domain example.org is blocked"),
        ("https://a.b.xxx", "its domain xxx is blocked"),
        ("https://notexample.org/a", None),
        ("https://example.org.uk/", None),
        ("https://other.net/example.org", None),
        ("http://[broken", None),
        ("", None),
    ],
)
def test_blocked_domains(rules: Callable[..., Refusal], url: str, why: str | None) -> None:
    assert rules(("example.org",), blocked_domains="XXX")(url) == why
    assert rules(blocked_domains="example.org xxx")(url) == why


def test_allowed_domains_words_and_parts_of_words(rules: Callable[..., Refusal], tmp_path: Path) -> None:
    allowed = rules(allowed_domains="example.org")
    assert allowed("https://en.example.org/a") is None
    assert allowed("https://example.com/a") == "its domain example.com is not among those that are allowed"
    assert "is not among those" in (allowed("http://[broken") or "")
    words = rules(words="casino")
    assert words("https://a.org/best-Casino_2020") == "its URL has the word 'casino'"
    assert words("https://a.org/casinos") is None
    parts = rules(subwords="freegame")
    assert parts("https://my-free-games.org/") == "its URL has 'freegame'"
    assert parts("https://free.org/a/games") is None
    with pytest.raises(SettingError, match=r"url\.words: .* cannot be read"):
        url_rules(UrlConfig(words=str(tmp_path / "missing")))
    with pytest.raises(SettingError, match=r"url\.subwords: .* has no words"):
        rules(subwords="")


def test_a_corpus_with_rules_for_urls(tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]) -> None:
    urls = {"a": "https://en.wikipedia.org/wiki/River", "b": "https://example.org/", "c": None, "d": "https://c.org/x"}
    rows = [{"id": name, "text": f"A text about {name} rivers.", "meta": {"url": url}} for name, url in urls.items()]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (words := tmp_path / "words").write_text("x\n")
    run = tmp_path / "run"
    command = ("corpus", "build", "text", f"corpus.path={tmp_path / 'raw.jsonl'}", f"output={run}")
    command += ("corpus.url.block=[wikipedia.org]", f"corpus.url.words={words}")
    code, _, err = neolm_(*command)
    assert code == 0, err
    assert "rejected: url 2; 1 have no URL, and pass the rules for it" in err
    rejected = {row["id"]: row for row in pq.read_table(run / "corpus/rejected").to_pylist()}
    assert {name: row["reason"] for name, row in rejected.items()} == {"a": "url", "d": "url"}
    assert json.loads(rejected["a"]["metadata"])["why"] == "its domain wikipedia.org is blocked"
    assert read_json(run / "corpus/manifest.json")["counts"]["without_url"] == 1
    words.write_text("y\n")
    assert "rejected: url 1;" in neolm_(*command)[2]  # a changed list makes the corpus stale
    code, _, err = neolm_(*command[:-1], f"corpus.url.allowed_domains={tmp_path / 'none'}")
    assert (code, "corpus.url.allowed_domains: " in err) == (2, True), err
