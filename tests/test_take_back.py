"""`neolm corpus drop`: the new corpus, what is left of the text, and what was built from it before."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

Command = Callable[..., tuple[int, str, str]]
TRAINING = (
    *("tokenizer.vocab_size=280", "model.family=gpt-neo", "model.hidden_size=16", "model.num_layers=1"),
    *("model.num_heads=2", "model.preset=null", "pretrain.steps=6", "pretrain.sequence_length=32"),
    *("pretrain.batch_size=2", "pretrain.micro_batch_size=2", "pretrain.validate_every=3", "pretrain.device=cpu"),
    *("pretrain.precision=float32", "evaluate=null", "corpus.split_characters=null"),
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"d{n}",
            "text": f"Story {n}: the sea was {'very ' * (n % 5)}cold, and they went home.",
            "source": f"s{n % 4}",
        }
        for n in range(40)
    ]
    rows += [{"id": f"{row['id']}-copy", "text": row["text"]} for row in rows[:3]]
    rows.append({"id": "page", "text": "A page from the web, with words.", "meta": {"url": "https://example.org/a"}})
    path = tmp_path / "raw.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def build(neolm_: Command, command: tuple[str, ...], raw: Path, output: Path) -> None:
    settings = TRAINING if command == ("run",) else ("corpus.split_characters=null",)
    code, _, err = neolm_(*command, "text", f"corpus.path={raw}", f"output={output}", *settings)
    assert code == 0, err


def table(corpus: Path, folder: str) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in pq.read_table(corpus / folder).to_pylist()}


def test_documents_are_dropped_and_their_text_is_gone(raw: Path, tmp_path: Path, neolm_: Command) -> None:
    build(neolm_, ("corpus", "build"), raw, tmp_path / "runs/old")
    before = table(tmp_path / "runs/old/corpus", "documents")
    code, out, err = neolm_(
        "corpus", "drop", tmp_path / "runs/old", "--source", "s1", "--id", "d0", "--url", "https://example.org/a",
        "--matching", "story 7:", "--output", tmp_path / "runs/new",
    )  # fmt: skip
    assert code == 0, err
    corpus = tmp_path / "runs/new/corpus"
    gone = {"d0", "page", "d7", *(f"d{n}" for n in range(40) if n % 4 == 1)}
    assert f"{len(gone)} documents, " in err
    after, rejected = table(corpus, "documents"), table(corpus, "rejected")
    assert after.keys() == before.keys() - gone
    assert all(row == before[name] for name, row in after.items())
    assert {name for name, row in rejected.items() if row["reason"] == "taken_back"} == gone
    assert all(rejected[name]["text"] == "" for name in (*gone, "d0-copy", "d1-copy"))
    assert rejected["d2-copy"]["text"] != ""
    written = b"".join(path.read_bytes() for path in corpus.rglob("*") if path.is_file())
    assert b"Story 7:" not in written
    counts = json.loads((corpus / "manifest.json").read_text())["counts"]
    assert counts["kept"]["documents"] == len(after) == counts["train"]["documents"] + counts["validation"]["documents"]
    assert counts["rejected"]["taken_back"]["documents"] == len(gone)
    assert "s1" not in counts["sources"]
    assert (corpus / "datasheet.html").is_file()
    assert "Nothing that is known was built" in out
    code, _, err = neolm_("run", "text", f"corpus.path={raw}", f"output={tmp_path / 'runs/new'}", *TRAINING)
    assert code == 2
    assert "was written by `neolm corpus drop`; leave it as it is with corpus=null" in err
    settings = [one for one in TRAINING if not one.startswith("corpus.")]
    code, _, err = neolm_("run", "text", "corpus=null", f"output={tmp_path / 'runs/new'}", *settings)
    assert code == 0, err
    assert (tmp_path / "runs/new/model/model.safetensors").is_file()


def test_what_was_built_from_them_is_named_with_its_step(raw: Path, tmp_path: Path, neolm_: Command) -> None:
    build(neolm_, ("run",), raw, tmp_path / "runs/old")
    code, out, err = neolm_(
        "corpus", "drop", tmp_path / "runs/old/corpus", "--source", "s2", "--output", tmp_path / "new"
    )
    assert code == 0, err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert {"shards", "tokenizer", "pretrain", "model"} <= lines.keys()
    from neolm.training.seen_documents import first_step_with

    step, steps = first_step_with(tmp_path / "runs/old/pretrain", {f"d{n}" for n in range(2, 40, 4)})
    assert steps == 6
    assert f"saw them from step {step} of 6 on" in lines["pretrain"]
    assert first_step_with(tmp_path / "runs/old/pretrain", {"nobody"}) == (None, 6)
    held_out = [row["id"] for row in pq.read_table(tmp_path / "runs/old/corpus/documents").to_pylist()]
    validation = pq.read_table(next((tmp_path / "runs/old/corpus/documents").glob("validation*"))).to_pylist()
    assert {row["id"] for row in validation} < {*held_out}
    code, out, _ = neolm_(
        "corpus", "drop", tmp_path / "runs/old", "--id", validation[0]["id"], "--output", tmp_path / "newer"
    )
    assert code == 0
    assert "was validated on them" in out


def test_near_copies_of_dropped_documents_are_named_and_dropped_if_asked(tmp_path: Path, neolm_: Command) -> None:
    base = " ".join(f"word{n}" for n in range(80))
    rows = [{"id": name, "text": f"{base} {name * 3}"} for name in ("a", "bb", "ccc")] + [{"id": "d", "text": "other"}]
    rows += [{"id": "e1", "parent": "e", "text": f"{base} e"}, {"id": "e2", "parent": "e", "text": "more of e"}]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ("corpus.split_characters=null", "corpus.min_characters=1", "corpus.near_duplicates.action=report")
    code, _, err = neolm_(
        "corpus", "build", "text", f"corpus.path={tmp_path / 'raw.jsonl'}", f"output={tmp_path / 'old'}", *settings
    )
    assert code == 0, err
    for name, options, left in (("named", (), {"bb", "ccc", "d", "e1", "e2"}), ("all", ("--near-copies",), {"d"})):
        code, _, err = neolm_("corpus", "drop", tmp_path / "old", "--id", "a", "--output", tmp_path / name, *options)
        assert code == 0, err
        assert table(tmp_path / name / "corpus", "documents").keys() == left
        message = "near copies of them are kept, 3 documents; --near-copies drops these too"
        assert (message in err) == (not options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say what is to be dropped: --source, --url, --id or --matching"),
        (("--id", "nobody"), "no document is named"),
        (("--matching", "[a-z]"), "every document would be dropped"),
        (("--matching", "("), "'(' is not a regular expression"),
    ],
)
def test_bad_requests(raw: Path, tmp_path: Path, neolm_: Command, options: tuple[str, ...], message: str) -> None:
    build(neolm_, ("corpus", "build"), raw, tmp_path / "old")
    code, _, err = neolm_("corpus", "drop", tmp_path / "old", "--output", tmp_path / "new", *options)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "new" / "corpus").exists()
    code, _, err = neolm_("corpus", "drop", tmp_path / "old", "--output", tmp_path / "old", "--id", "d1")
    assert (code, "give another directory" in err) == (2, True)
