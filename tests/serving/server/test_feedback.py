"""Feedback is stored with consent only, in SQLite and PostgreSQL, and exported as preferences."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.serving.server import feedback
from neolm.serving.server.feedback import Feedback, FeedbackError, FeedbackStore
from neolm.serving.server.preferences import export

PROMPT = [{"role": "user", "content": "What is the sea?"}]


def choice(chosen: int | None = 0, texts: tuple[str, str] = ("water", "sand"), **more: Any) -> dict[str, Any]:
    answers = [{"model": "tiny", "text": text, "settings": {"temperature": 0.5, "stop": ["x"]}} for text in texts]
    return {
        "consent": True,
        "kind": "choice",
        "mode": "chat",
        "prompt": PROMPT,
        "answers": answers,
        "chosen": chosen,
    } | more


def rating(up: bool, text: str, **more: Any) -> dict[str, Any]:
    answers = [{"model": "tiny", "text": text}]
    common = {"consent": True, "kind": "rating", "mode": "completion", "prompt": "the sea", "answers": answers}
    return common | {"rating": "up" if up else "down"} | more


def test_feedback_is_stored_with_consent_only(server: Any, tmp_path: Path) -> None:
    for refused in (choice(consent=False), {key: value for key, value in choice().items() if key != "consent"}):
        server.error("/api/feedback", refused)
    path = Path(server.service.feedback.url.database)
    assert not path.exists()
    kept = server.client.post("/api/feedback", json=choice(1))
    assert kept.status_code == 201
    assert kept.json() == {"id": 1}
    with sqlite3.connect(path) as database:
        row = database.execute("select consent, kind, prompt, answers, chosen, client from neolm_feedback").fetchone()
    database.close()
    assert row[:2] == (1, "choice")
    assert json.loads(row[2]) == PROMPT
    answers = json.loads(row[3])
    assert [answer["text"] for answer in answers] == ["water", "sand"]
    assert answers[0]["digest"].startswith("sha256:")
    assert answers[0]["settings"] == {"temperature": 0.5, "stop": ["x"]}
    assert row[4:] == (1, "anyone")


@pytest.mark.parametrize(
    "wrong",
    [
        choice(2),
        choice(True),
        choice(kind="rating"),
        choice(rating="up"),
        choice(prompt="a text"),
        choice(answers=[]),
        rating(True, "x", rating=None),
        rating(True, "x", chosen=0),
        rating(True, "x", mode="chat"),
        rating(True, "x", more=1),
        rating(True, "x" * 300_000),
    ],
)
def test_invalid_feedback_is_refused(server: Any, wrong: dict[str, Any]) -> None:
    server.error("/api/feedback", wrong)


def test_feedback_can_be_switched_off(directory: Path, start: Callable[..., Any]) -> None:
    with start([str(directory)], feedback="off") as server:
        assert server.client.get("/api/info").json()["feedback"] is False
        assert server.error("/api/feedback", choice(), 404)["code"] == "feedback_off"


def fill(url: str) -> None:
    store = FeedbackStore(url)
    feedbacks = [
        choice(0),
        choice(1),
        choice(None),
        choice(0, ("same", "same")),
        rating(True, "is blue"),
        rating(True, "is deep"),
        rating(False, "is sea sea sea"),
        rating(False, "is \U0001f30a", prompt="elsewhere"),
    ]
    for one in feedbacks:
        store.save(Feedback.model_validate(one), {"tiny": "sha256:1"}, "alice")
    store.close()


def check(url: str, tmp_path: Path) -> None:
    """Preferences from the database at `url`, filled by `fill`."""
    (tmp_path / "pairs.jsonl").touch()  # an earlier export without a line
    assert export(url, tmp_path / "pairs.jsonl") == export(url, tmp_path / "pairs.jsonl") == 3
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    said = [{"role": "assistant", "content": text} for text in ("water", "sand")]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs[:2]] == [
        ([said[0]], [said[1]]),
        ([said[1]], [said[0]]),
    ]
    assert all(pair["prompt"] == PROMPT for pair in pairs[:2])
    assert (pairs[2]["prompt"], pairs[2]["chosen"], pairs[2]["rejected"]) == ("the sea", "is blue", "is sea sea sea")
    assert pairs[0]["models"]["chosen"] == {
        "model": "tiny",
        "digest": "sha256:1",
        "settings": {"temperature": 0.5, "stop": ["x"]},
    }
    assert export(url, tmp_path / "single.jsonl", single=True) == 4
    single = [json.loads(line) for line in (tmp_path / "single.jsonl").read_text().splitlines()]
    assert [(one["completion"], one["label"]) for one in single] == [
        ("is blue", True),
        ("is deep", True),
        ("is sea sea sea", False),
        ("is \U0001f30a", False),
    ]


def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a b' / 'feedback.sqlite'}"
    fill(url)
    check(url, tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a b").iterdir()}
    assert set(modes.values()) == {0o600}, modes


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A PostgreSQL server; as root it runs as the user that its package creates."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "none")]
    if not found[-1].is_file():
        pytest.skip("needs PostgreSQL's server programs (Debian's package postgresql)")
    root = os.geteuid() == 0
    if root and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    place = Path(tempfile.mkdtemp(prefix="neolm-pg-"))  # a short path: sockets need it
    if root:
        shutil.chown(place, "postgres")

    def run(program: str, *arguments: object) -> None:
        own = ["runuser", "-u", "postgres", "--"] if root else []
        command = [*own, str(found[-1].with_name(program)), "-D", f"{place}/data", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    run("initdb", "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync")
    run("pg_ctl", "-w", "-l", f"{place}/log", "-o", f"-k {place} -c listen_addresses='' -F", "start")
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={place}"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(place)


def test_postgresql(postgresql: str, tmp_path: Path) -> None:
    fill(postgresql)
    check(postgresql, tmp_path)


def test_unusable_databases_are_refused(tmp_path: Path) -> None:
    for url in ("nonsense", "mysql+nothing://x", "oracle://me:secret@host/x"):
        with pytest.raises(InputError, match=r"^feedback: '.*' is not a database that can be used") as caught:
            FeedbackStore(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        export(f"sqlite:///{tmp_path / 'none.sqlite'}", tmp_path / "x.jsonl")
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(InputError, match="cannot be read"):
        export(f"sqlite:///{tmp_path / 'text.sqlite'}", tmp_path / "x.jsonl")
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"notes\.txt: this is not an export of feedback, and it was not changed"):
        export(f"sqlite:///{tmp_path / 'none.sqlite'}", tmp_path / "notes.txt")
    with pytest.raises(FeedbackError, match="does not accept it"):
        FeedbackStore("sqlite:////proc/none/x.sqlite").save(Feedback.model_validate(choice()), {}, "x")
    with pytest.raises(FeedbackError) as failed:
        FeedbackStore("postgresql+psycopg://me:secret@127.0.0.1:1/x").save(Feedback.model_validate(choice()), {}, "x")
    assert "secret" not in str(failed.value)


def test_a_database_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg")
    monkeypatch.setattr(feedback, "_TIMEOUT", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        began, end = time.monotonic(), threading.Timer(20, silent.close)  # so that this test fails instead of hanging
        end.start()
        with pytest.raises(FeedbackError, match="does not accept it"):
            FeedbackStore(url).save(Feedback.model_validate(choice()), {}, "x")
        end.cancel()
        assert time.monotonic() - began < 15
