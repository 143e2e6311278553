"""`neolm corpus inspect` through the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]
SAID = "The old men sat in the boat and went down to the town by the river on a cold day in April."


@pytest.fixture
def run(tmp_path: Path, neolm_: Command) -> Path:
    rows = [
        {"id": f"d{n}", "text": f"Document {n} is about something else, and it says {'so ' * n}."} for n in range(12)
    ]
    rows += [
        {"id": "boat", "text": SAID},
        {"id": "again", "text": f"{SAID} Then they slept."},
        {"id": "x", "text": "short"},
    ]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = tmp_path / "run"
    code, _, err = neolm_(
        "corpus", "build", "text", f"corpus.path={tmp_path / 'raw.jsonl'}", f"output={place}",
        "corpus.split_characters=null", "corpus.gopher_quality.min_words=8", "corpus.gopher_quality.min_stop_words=0",
    )  # fmt: skip
    assert code == 0, err
    return place


def test_samples(run: Path, neolm_: Command) -> None:
    code, out, _ = neolm_("corpus", "inspect", run, "--limit", 3)
    assert code == 0
    assert out == neolm_("corpus", "inspect", run / "corpus", "--limit", 3)[1]
    assert out.count("; raw.jsonl; unknown)") == 3
    code, out, _ = neolm_("corpus", "inspect", run, "--json", "--limit", 100)
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["id"] for row in rows} == {"boat", "again", *(f"d{n}" for n in range(12))}
    assert {row["split"] for row in rows} == {"train", "validation"}


def test_search_and_reasons(run: Path, neolm_: Command) -> None:
    code, out, _ = neolm_("corpus", "inspect", run, "--search", "old M[a-z]n")
    assert code == 0
    assert "boat  (" in out
    assert "again  (" in out
    assert "d1  (" not in out
    code, out, _ = neolm_("corpus", "inspect", run, "--reason", "too_short")
    assert (code, "rejected    too short" in out) == (0, True)
    code, out, _ = neolm_("corpus", "inspect", run, "--id", "boat")
    assert SAID in out
    assert "gopher_quality.words  22" in out


def test_near(run: Path, neolm_: Command) -> None:
    code, out, _ = neolm_("corpus", "inspect", run, "--near", "boat", "--json")
    first = json.loads(out.splitlines()[0])
    assert code == 0
    words, more = SAID.split(), f"{SAID} Then they slept.".split()
    sets = [{tuple(part[n : n + 5]) for n in range(len(part) - 4)} for part in (words, more)]
    assert first["id"] == "again"
    assert first["similarity"] == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert "similarity  0.8" in neolm_("corpus", "inspect", run, "--near", "boat")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reason", "language"), "no document was rejected for 'language'; the reasons are too_short"),
        (("--id", "nobody"), "no document has the id 'nobody'"),
        (("--search", "("), "'(' is not a regular expression"),
        (("--search", "zebra"), "no document is found"),
        (("--near", "x"), "'x' has fewer than 5 words"),
        (("--id", "boat", "--near", "boat"), "give one of --search, --reason, --id and --near"),
    ],
)
def test_questions_without_an_answer(run: Path, neolm_: Command, options: tuple[str, ...], message: str) -> None:
    code, _, err = neolm_("corpus", "inspect", run, *options)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_there_is_no_corpus(tmp_path: Path, neolm_: Command) -> None:
    code, _, err = neolm_("corpus", "inspect", tmp_path / "nothing")
    assert code != 0
    assert "corpus build" in err
