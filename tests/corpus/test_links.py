"""Links: format and compression belong to the name, linked folders are read once, links to nothing are named."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import pytest
import zstandard

from neolm.core.errors import InputError
from neolm.corpus.config import CorpusConfig
from neolm.corpus.sources import RawText, find_files

LINES = b"".join(json.dumps({"text": f"text number {n}"}).encode() + b"\n" for n in range(3))


@pytest.fixture
def cache(tmp_path):
    """A cache as the Hub, DVC and git-annex lay it out: names are links to files without a suffix."""
    blobs, names = tmp_path / "blobs", tmp_path / "snapshots" / "1f3a"
    blobs.mkdir()
    names.mkdir(parents=True)
    contents = {
        "train.jsonl.gz": gzip.compress(LINES),
        "more.JSONL.ZST": zstandard.compress(LINES.replace(b"text n", b"line n")),
        "plain.jsonl": LINES.replace(b"text n", b"plain n"),
        "book.txt.gz": gzip.compress(b"a book"),
    }
    for number, (name, data) in enumerate(contents.items()):
        (blobs / f"{number}").write_bytes(data)
        (names / name).symlink_to(f"../../blobs/{number}")
    return names


def test_a_link_is_read_by_its_own_name(build, cache, tmp_path):
    linked = build(cache)
    assert (len(linked.kept), linked.reasons) == (10, {})
    shutil.copytree(cache, tmp_path / "copied")
    assert build(tmp_path / "copied", output=tmp_path / "other").kept == linked.kept


@pytest.mark.parametrize("name", ["train.jsonl.gz", "more.JSONL.ZST"])
def test_a_link_alone(build, cache, name):
    assert len(build(cache / name).kept) == 3


def test_a_change_behind_a_link_is_noticed(cache, tmp_path):
    config = CorpusConfig(source="files", path=str(cache))
    first = RawText(config, tmp_path / "output")
    again = RawText(config, tmp_path / "output")
    assert (first.stamp(), first.digest()) == (again.stamp(), again.digest())
    (tmp_path / "blobs" / "2").write_bytes(LINES)
    changed = RawText(config, tmp_path / "output")
    assert changed.stamp() != first.stamp()
    assert changed.digest() != first.digest()


def test_linked_folders_are_followed_and_named(build, write, tmp_path, capsys):
    raw = write("a.txt", "a text").parent
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deeper").mkdir(parents=True)
    (elsewhere / "b.txt").write_text("b text")
    (elsewhere / "deeper" / "c.txt").write_text("c text")
    (raw / "linked").symlink_to(elsewhere)
    corpus = build(raw)
    assert set(corpus.kept) == {"a.txt", "linked/b.txt", "linked/deeper/c.txt"}
    message = capsys.readouterr().err
    assert f"corpus: links to folders were followed: linked -> {elsewhere}\n" in message


def test_links_in_a_circle_end_and_no_folder_is_read_twice(write, tmp_path):
    raw = write("z/a.txt", "a text").parents[1]
    (raw / "z" / "up").symlink_to("..")
    (raw / "z" / "itself").symlink_to("itself")
    (raw / "a").symlink_to("z")  # sorts before the folder that it leads to
    (raw / "b").symlink_to("a")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.txt").write_text("d text")
    (elsewhere / "back").symlink_to(raw)
    for name in ("c", "d"):
        (raw / name).symlink_to(elsewhere)
    found = find_files(CorpusConfig(source="files", path=str(raw)), tmp_path / "output")
    assert [file.name for file in found.files] == ["c/d.txt", "z/a.txt"]
    assert found.links.describe() == [
        f"links to folders were followed: c -> {elsewhere}",
        "linked folders that were read already: 5",
        "links to files that do not exist were left out: z/itself -> itself",
    ]


def test_a_link_above_the_folder_reads_the_rest_once_and_not_the_output(write, tmp_path):
    raw = write("a.txt", "a text").parent
    (raw / "up").symlink_to(tmp_path)
    (tmp_path / "b.txt").write_text("b text")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "c.txt").write_text("c text")
    found = find_files(CorpusConfig(source="files", path=str(raw)), tmp_path / "output")
    assert [file.name for file in found.files] == ["a.txt", "up/b.txt"]


def test_links_to_nothing_are_named(build, write, capsys):
    raw = write("a.txt", "a text").parent
    for name in ("gone.txt", "gone", "1.bin", "2.bin", ".hidden.txt"):
        (raw / name).symlink_to("nowhere")
    corpus = build(raw)
    assert corpus.counts["ignored_kinds"] == {"linked to nothing": 4, "hidden": 1}
    message = capsys.readouterr().err
    links = "1.bin -> nowhere, 2.bin -> nowhere, gone -> nowhere and 1 more"
    assert f"links to files that do not exist were left out: {links}\n" in message


def test_a_path_that_is_a_link_to_nothing(build, tmp_path):
    (tmp_path / "a.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"a\.txt is a link to nowhere, which does not exist"):
        build(tmp_path / "a.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"has no text to read \(ignored 1 file: 1 linked to nothing\)"):
        build(tmp_path / "folder")


def test_hidden_links_and_links_to_devices_are_not_read(build, write, tmp_path):
    raw = write("a.txt", "a text").parent
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b text")
    (raw / ".hidden").symlink_to(tmp_path / "elsewhere")
    (raw / "endless.txt").symlink_to(os.devnull)
    corpus = build(raw)
    assert set(corpus.kept) == {"a.txt"}
    assert corpus.counts["ignored_kinds"] == {"not a regular file": 1}
