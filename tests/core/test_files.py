"""Bounded reading of JSON files."""

import json
import os

import pytest

from neolm.core import files
from neolm.core.errors import InputError
from neolm.core.files import read_json, read_json_value, remove


def test_the_object_of_a_file_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    for mark in ("", "\ufeff"):
        path.write_text(mark + '{"a": [1, "é"]}', encoding="utf-8")
        assert read_json(path) == {"a": [1, "é"]}
    path.write_text("[1]")
    assert read_json_value(path) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "a JSON object is expected here, this is a list"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"{}" + b" " * 2**10, "more than 1,000 bytes"),
        (b'{"a":' + b"1" * 900 + b"}", None),
    ],
)
def test_other_content_is_refused_with_the_path(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    if message is None:
        read_json(path)
        return
    with pytest.raises(InputError, match=f"a.json: {message}"):
        read_json(path)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_and_huge_numbers_are_refused(tmp_path, opening):
    path = tmp_path / "a.json"
    path.write_text(opening * 200_000)
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)
    path.write_text(json.dumps({"a": 1}).replace("1", "1" * 10_000))
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)


def test_remove_takes_files_directories_and_links_but_not_their_targets(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").touch()
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("file", "folder", "link", "dangling", "missing"):
        remove(tmp_path / name)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["kept", "a"]


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name, message in (
        ("pipe", "not a file"),
        ("dangling", "no such file"),
        ("", "not a file"),
        ("a\0b", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            read_json(tmp_path / name)
