"""Raw files behind URLs and in several places: which are found, and what happens to those that cannot be read."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import remote_server
from remote_server import Server, serving

from neolm.core.errors import InputError, SettingError
from neolm.corpus import remote
from neolm.corpus.config import CorpusConfig
from neolm.corpus.remote import download, list_remote, name_pattern
from neolm.corpus.sources import RawText, find_files

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in (("TIMEOUT", 0.5), ("WAIT", 0.01), ("ATTEMPTS", 2), ("RESERVE", 0)):
        monkeypatch.setattr(remote, name, value)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with serving() as found:
        yield found


def found(server: Server, *paths: str, folder: Path) -> dict[str, bytes | str]:
    """The content of each file, or why it cannot be read."""
    files = download(list_remote([f"{server.address}/{path}" for path in paths]), folder)
    return {
        file.name.removeprefix(f"{server.address}/"): file.failure or Path(file.path).read_bytes() for file in files
    }


# ---- places on this machine ----


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("raw/*.txt", {"a.txt"}),
        ("raw/**/*.txt", {"a.txt", "en/b.txt", "en/old/c.txt"}),
        ("raw/e?/**", {"b.txt", "c.jsonl", "old/c.txt"}),
        ("raw/en/[bd].txt", {"b.txt"}),
    ],
)
def test_globs(write, tmp_path, monkeypatch, pattern, names):
    for name in ("a.txt", "en/b.txt", "en/old/c.txt", "de/d.md"):
        write(name, "some text")
    write("en/c.jsonl", [{"text": "some text"}])
    monkeypatch.chdir(tmp_path)
    for path in (pattern, str(tmp_path / pattern)):
        raw = find_files(CorpusConfig(source="files", path=path), tmp_path / "output")
        prefix = "" if "/e?" not in pattern else "en/"
        assert {file.name for file in raw.files} == {prefix + name for name in names}
        assert not raw.ignored


def test_a_name_with_special_characters_is_a_name(write, tmp_path):
    write("a[1].txt", "some text")
    raw = find_files(CorpusConfig(source="files", path=str(tmp_path / "raw/a[1].txt")), tmp_path)
    assert [file.name for file in raw.files] == ["a[1].txt"]


def test_several_places(build, write, tmp_path):
    for name in ("en/texts/a.txt", "de/texts/a.txt", "b.txt", "de/texts/picture.png"):
        write(name, f"the text of {name}")
    raw = tmp_path / "raw"
    places = (raw / "en" / "texts", raw / "de" / "texts", raw / "b.txt", raw / "*.txt")
    corpus = build(tuple(map(str, places)))
    assert set(corpus.kept) == {"en/texts/a.txt", "de/texts/a.txt", "raw/b.txt"}
    assert corpus.counts["ignored_kinds"] == {".png": 1}
    again = find_files(CorpusConfig(source="files", path=tuple(map(str, places[::-1]))), tmp_path / "output")
    assert [file.name for file in again.files] == ["de/texts/a.txt", "en/texts/a.txt", "raw/b.txt"]
    (raw / "link.md").symlink_to(raw / "b.txt")
    one = find_files(CorpusConfig(source="files", path=(str(raw / "link.md"),)), tmp_path / "output")
    assert [(file.name, file.kind) for file in one.files] == [("link.md", "text")]
    with pytest.raises(SettingError, match="missing does not exist"):
        find_files(CorpusConfig(source="files", path=(str(raw), str(raw / "missing"))), tmp_path)


def test_a_list_on_the_command_line(neolm_: Command, write, tmp_path):
    write("a/x.txt", "the first text")
    write("b/x.txt", "the second text")
    places = f"corpus.path=[{tmp_path / 'raw/a'}, {tmp_path / 'raw/b/*.txt'}]"
    assert neolm_("corpus", "build", "text", places, f"output={tmp_path / 'out'}")[0] == 0
    code, _, error = neolm_("corpus", "build", "text", f"corpus.path={tmp_path}/raw/**/*.csv", f"output={tmp_path}/o")
    assert code == 2 and "has no text to read (no files)" in error and error.count("\n") == 1


# ---- the web ----


def test_files_are_downloaded_once_and_again_when_they_change(server, tmp_path):
    server.files = {"/a.txt": b"one", "/b.jsonl.gz": gzip.compress(b'{"text": "two"}'), "/empty.txt": b""}
    names = ("a.txt", "to/b.jsonl.gz", "empty.txt")
    first = found(server, *names, folder=tmp_path)
    assert first == {"a.txt": b"one", "to/b.jsonl.gz": server.files["/b.jsonl.gz"], "empty.txt": b""}
    server.seen.clear()
    assert found(server, *names, folder=tmp_path) == first
    assert all(asked == "bytes=0-0" for _, asked, _ in server.seen)  # nothing was downloaded again
    server.version, server.files["/a.txt"] = '"v2"', b"new"
    assert found(server, *names, folder=tmp_path)["a.txt"] == b"new"
    assert len(list(tmp_path.iterdir())) == 2 * len(names)  # nothing is left of the old version


def test_a_download_goes_on_where_the_connection_ended(server, tmp_path):
    data = bytes(range(256)) * 4000
    server.files, server.drops = {"/a.txt": data}, 5
    assert found(server, "a.txt", folder=tmp_path) == {"a.txt": data}
    starts = [int(asked[6:-1]) for _, asked, _ in server.seen if asked and asked != "bytes=0-0"]
    assert starts == sorted(starts) and starts[0] == len(data) // 2
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == ["", ".json"]


@pytest.mark.parametrize("fault", ["changed", "no ranges", "no version"])
def test_what_cannot_go_on_starts_again(server, tmp_path, fault):
    server.files, server.version = {"/a.txt": b"12345678" * 100}, '"v1"' if fault != "no version" else ""
    [file] = list_remote([f"{server.address}/a.txt"])
    (tmp_path / f"{file.key}.part").write_bytes(b"of another run")
    server.ranges = fault != "no ranges"
    if fault == "changed":
        server.files, server.version = {"/a.txt": b"abcdefgh" * 100}, '"v2"'
    [done] = download([file], tmp_path)
    assert Path(done.path).read_bytes() == server.files["/a.txt"]


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("missing.txt", "404 Not Found"),
        ("status/403/a.txt", "403 Forbidden"),
        ("status/503/a.txt", "503 Service Unavailable"),
        ("hang.txt", "timed out"),
        ("ftp.txt", "unknown url type"),
        ("to/" * 30 + "a.txt", "infinite loop"),
    ],
)
def test_what_cannot_be_read(server, tmp_path, path, cause):
    server.files = {"/a.txt": b"one"}
    result = found(server, path, "a.txt", folder=tmp_path)
    assert cause in str(result[path]) and result["a.txt"] == b"one"
    attempts = sum(seen.startswith(f"/{path[:9]}") for seen, _, _ in server.seen)
    assert attempts == {"503": 2, "tim": 2}.get(cause[:3], attempts)


def test_names_that_are_not_known_and_ports_that_are_closed(server, tmp_path):
    for url, cause in (
        ("http://no-such-name.invalid/a.txt", "name|resolution"),
        ("http://127.0.0.1:9/a.txt", "refused"),
    ):
        with pytest.raises(SettingError, match=f"(?i){url} cannot be read: .*({cause})"):
            find_files(CorpusConfig(source="files", path=url), tmp_path)
    for url in (
        "https://user:word@example.org/a.txt",
        "https://example.org/*.txt",
        "hf://models/a/b",
        "https:///a.txt",
    ):
        with pytest.raises(InputError, match="expected here"):
            find_files(CorpusConfig(source="files", path=url), tmp_path)


def test_an_answer_that_is_too_long_or_short(server, tmp_path):
    server.files = {"/a.txt": b"12345678"}
    [file] = list_remote([f"{server.address}/a.txt"])
    server.files, server.ranges = {"/a.txt": b"123456789"}, False
    assert "larger than the server said" in download([file], tmp_path)[0].failure
    server.files, server.version = {"/a.txt": b"1234"}, '"v2"'
    assert "ended after 4 of 8 bytes" in download([file], tmp_path)[0].failure


def test_a_disk_that_is_too_small(server, tmp_path, monkeypatch):
    server.files = {"/a.txt": b"12345678"}
    monkeypatch.setattr(remote, "RESERVE", 2**60)
    with pytest.raises(InputError, match="are to be downloaded"):
        found(server, "a.txt", folder=tmp_path)


# ---- stores ----


@pytest.fixture
def stores(server, monkeypatch) -> Server:
    texts = {
        "a.txt": b"one",
        "en/b.txt": b"two",
        "en/c.jsonl": b'{"text": "three"}',
        "en/d.png": b"\x89",
        "README.md": b"#",
    }
    server.files = {f"/bucket/data/{name}": data for name, data in texts.items()}
    server.files |= {f"/datasets/org/name/resolve/abc/{name}": data for name, data in texts.items()}
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    return server


@pytest.fixture
def google(stores, monkeypatch) -> Iterator[None]:
    """The same in a process of its own, because pyarrow keeps the interpreter's lock while it reads from Google."""
    script = Path(remote_server.__file__)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write(json.dumps({name: data.decode("latin-1") for name, data in stores.files.items()}) + "\n")
        process.stdin.flush()
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", process.stdout.readline().strip())
        yield
        process.stdin.close()


@pytest.mark.usefixtures("google")
@pytest.mark.parametrize("store", ["s3://bucket/data", "gs://bucket/data", "hf://datasets/org/name"])
def test_stores(stores, tmp_path, store):
    for path, names in (
        (store, {"a.txt", "en/b.txt", "en/c.jsonl", "en/d.png"} | ({"README.md"} if store[0] != "h" else set())),
        (f"{store}/**/*.txt", {"a.txt", "en/b.txt"}),
        (f"{store}/en", {"en/b.txt", "en/c.jsonl", "en/d.png"}),
        (f"{store}/en/b.txt", {"en/b.txt"}),
    ):
        files = list_remote([path])
        assert {file.name.removeprefix(f"{store}/") for file in files} == names
    assert download(files, tmp_path)[0].failure == "" and Path(download(files, tmp_path)[0].path).read_bytes() == b"two"
    if store.startswith("hf"):
        assert files[0].licence == "cc-by-4.0" and files[0].url.endswith("/resolve/abc/en/b.txt")
        assert stores.seen[-1][2] == "Bearer secret"
    if not store.startswith("gs"):  # whose client retries by itself
        assert list_remote([f"{store}/none/*.txt"])[0].failure == "no file has such a name"


def test_a_store_that_refuses(stores):
    assert "ACCESS_DENIED" in list_remote(["s3://private/a"])[0].failure
    stores.files.clear()
    assert "no" in list_remote(["s3://bucket/nothing/a.txt"])[0].failure


# ---- the stage ----


def test_a_corpus_of_files_behind_urls(server, build, neolm_: Command, write, tmp_path, capsys):
    server.files = {"/a.txt": b"a text on the web", "/b.jsonl": b'{"text": "a record on the web"}\n'}
    local = write("c.txt", "a text on this machine")
    urls = [f"{server.address}/{name}" for name in ("a.txt", "b.jsonl", "gone.txt", "picture.png")]
    server.files["/picture.png"] = b"\x89PNG"
    corpus = build((*urls, str(local)))
    assert set(corpus.kept) == {urls[0], f"{urls[1]}:1", "c.txt"}
    assert corpus.reasons == {urls[2]: "unreachable"} and "404" in corpus.rejected[urls[2]]["metadata"]
    facts = json.loads(corpus.kept[urls[0]].metadata)
    assert facts["url"] == urls[0] and facts["digest"].startswith("sha256:") and facts["retrieved"][:2] == "20"
    assert json.loads(corpus.kept[f"{urls[1]}:1"].metadata)["file_url"] == urls[1]
    assert corpus.counts["ignored_kinds"] == {".png": 1}
    capsys.readouterr()

    assert build((*urls, str(local))).manifest == corpus.manifest  # up to date
    server.files["/gone.txt"] = b"a text that is back"
    assert urls[2] in build((*urls, str(local))).kept
    server.files.clear()  # the server has lost everything: the copies are used
    again = build((*urls, str(local)), licence="CC0-1.0")
    assert len(again.kept) == 4 and set(again.reasons) == {urls[3]}

    capsys.readouterr()
    raw = RawText(CorpusConfig(source="files", path=urls[0]), tmp_path / "other")
    assert raw.stamp() is None
    code, _, error = neolm_("corpus", "build", "text", f"corpus.path={urls[0]}", f"output={tmp_path / 'none'}")
    assert code == 2 and f"{urls[0]} cannot be read: 404 Not Found" in error and error.count("\n") == 1


def test_a_download_that_fails_is_counted(server, neolm_: Command, tmp_path):
    server.files, server.drops, server.version = {"/a.txt": b"a text that never arrives"}, 10**6, ""
    code, _, error = neolm_("corpus", "build", "text", f"corpus.path={server.address}/a.txt", f"output={tmp_path}/out")
    assert code == 2 and "no document is kept (unreachable 1)" in error and "the connection ended after" in error


def test_nothing_is_asked_of_the_network_without_a_url(write, tmp_path, monkeypatch):
    write("http.txt", "a text")
    monkeypatch.setattr(remote, "_attempts", None)
    raw = RawText(CorpusConfig(source="files", path=str(tmp_path / "raw")), tmp_path / "output")
    assert [file.name for file in raw.fetched.files] == ["http.txt"] and not (tmp_path / "output").exists()


def test_patterns_of_folders_and_files():
    assert name_pattern("a/b").fullmatch("a/b/c") and name_pattern("a/b").fullmatch("a/b")
    assert not name_pattern("a/b").fullmatch("a/bc") and name_pattern("").fullmatch("x/y")
