"""Raw files behind URLs: list what a URL names, and download each file once to a local folder.

`https://` and `http://` name one file. `s3://` and `gs://` name a file, a folder or a glob, and are read by pyarrow
with the credentials of the environment. `hf://datasets/ORG/NAME[@REVISION][/PATH]` is listed by huggingface_hub.

A file is identified by its name, its size and its ETag or time of modification. An interrupted download goes on where
it ended if the server still has that version; without ETag and time it starts again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

import neolm
from neolm.core.errors import InputError
from neolm.core.files import digest_file, read_json, sync_file, write_json
from neolm.core.progress import gibibytes, task

SCHEMES = ("https://", "http://", "s3://", "gs://", "hf://")
_STORES = ("s3://", "gs://")
TIMEOUT = 30.0  # s without a byte
ATTEMPTS = 4  # in a row that give no byte
WAIT = 1.0  # s before the second attempt; twice as long before each further one
CONNECTIONS = 8
RESERVE = 2**30  # bytes of the disk that downloads leave free
_CHUNK = 2**18
_FINAL = frozenset({400, 401, 403, 404, 405, 410, 416, 451})  # a second attempt gets the same answer
T = TypeVar("T")
R = TypeVar("R")


class UnreachableError(Exception):
    """A URL that cannot be read, with the cause. `final`: another attempt would fail too."""

    def __init__(self, cause: str, final: bool = False) -> None:
        super().__init__(" ".join(cause.split())[:200])
        self.final = final


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL. After the download `path`, `digest` (SHA-256) and `retrieved` are known, else `failure`."""

    name: str
    url: str
    entry: str
    """The value of `corpus.path` that names it."""
    size: int | None = None
    version: str = ""
    """ETag or time of modification; empty: the server gives none."""
    licence: str = ""
    """The licence that the data set declares."""
    path: str = ""
    digest: str = ""
    retrieved: str = ""
    failure: str = ""

    @property
    def key(self) -> str:
        """The name of the local file."""
        return hashlib.sha256("\n".join((self.name, str(self.size), self.version)).encode()).hexdigest()[:32]


def is_remote(path: str) -> bool:
    """Whether `path` is a URL."""
    return path.startswith(SCHEMES)


def is_glob(path: str) -> bool:
    """Whether `path` has a character that is special in a glob."""
    return any(mark in path for mark in "*?[")


def fixed_part(path: str) -> str:
    """The folder that a glob searches, or the path itself."""
    return re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0] if is_glob(path) else path.rstrip("/")


def name_pattern(path: str) -> re.Pattern[str]:
    """The names that a glob, a file or a folder stands for."""
    from fsspec.utils import glob_translate

    start = re.escape(path.rstrip("/"))
    return re.compile(glob_translate(path) if is_glob(path) else f"{start}(/.*)?" if start else ".*", re.DOTALL)


def list_remote(entries: Sequence[str]) -> list[RemoteFile]:
    """The files that the URLs name, in their order. What cannot be listed is one file with a `failure`.

    Raises:
        InputError: a URL has another form.
    """

    def listed(entry: str) -> list[RemoteFile]:
        listing = {"s3": _list_store, "gs": _list_store, "hf": _list_hub}.get(entry.partition(":")[0], _list_web)
        try:
            found = _attempts(lambda: listing(entry))
        except UnreachableError as error:
            return [RemoteFile(entry, entry, entry, failure=str(error))]
        return found or [RemoteFile(entry, entry, entry, failure="no file has such a name")]

    found = dict(_in_parallel(listed, entries))
    return [file for entry in entries for file in found[entry]]


def _list_web(entry: str) -> list[RemoteFile]:
    """The file at an address. Its first byte is asked for, because not every server answers HEAD."""
    parts = urlsplit(entry)
    if parts.username or not parts.hostname or is_glob(parts.path):
        raise InputError(f"{entry}: the address of one file is expected here, without a user and without * and [")
    with _open_web(RemoteFile(entry, entry, entry), {"Range": "bytes=0-0"}) as answer:
        size = answer.headers.get("Content-Range" if answer.status == 206 else "Content-Length", "").rpartition("/")[2]
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return [RemoteFile(entry, entry, entry, int(size) if size.isdigit() else None, version)]


def _list_store(entry: str) -> list[RemoteFile]:
    from pyarrow.fs import FileSelector, FileType

    scheme, _, path = entry.partition("://")
    store, start, wanted = _store(entry), fixed_part(path), name_pattern(path)
    with _unreachable():
        found = store.get_file_info([start]) if "/" in start and not is_glob(path) else []
        if not found or found[0].type != FileType.File:
            found = store.get_file_info(FileSelector(start, recursive=True))
    files = [one for one in found if one.type == FileType.File and wanted.fullmatch(one.path)]
    names = {f"{scheme}://{one.path}": one for one in files}
    return [RemoteFile(name, name, entry, names[name].size, str(names[name].mtime or "")) for name in sorted(names)]


def _list_hub(entry: str) -> list[RemoteFile]:
    """The files of a data set at one commit, which is part of their URLs, without its card."""
    from huggingface_hub import HfApi

    form = re.fullmatch(r"(hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?)(?:/(.*))?", entry)
    if form is None:
        raise InputError(f"{entry}: hf://datasets/ORG/NAME[@REVISION][/PATH] is expected here")
    root, name, revision, path = form.groups("")
    hub = HfApi()
    with _unreachable():
        known = hub.dataset_info(name, revision=revision or None, files_metadata=True, timeout=TIMEOUT)
    declared = known.card_data.get("license") if known.card_data else None
    return [
        RemoteFile(
            name=f"{root}/{file.rfilename}",
            url=f"{hub.endpoint}/datasets/{name}/resolve/{known.sha}/{quote(file.rfilename)}",
            entry=entry,
            size=file.size,
            version=file.lfs.sha256 if file.lfs else file.blob_id or "",
            licence=declared if isinstance(declared, str) else "",
        )
        for file in known.siblings or []
        if name_pattern(path).fullmatch(file.rfilename) and (path or file.rfilename != "README.md")
    ]


def download(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    """The files in `folder`, each downloaded unless it is there. One that cannot be has a `failure`.

    Where a listing failed, the files of an earlier listing stand in if they are still in `folder`.

    Raises:
        InputError: the disk has too little space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = sorted(folder.glob("*.json"))
    kept = [replace(RemoteFile(**read_json(note)), path=str(note.with_suffix(""))) for note in notes]
    kept = [file for file in kept if Path(file.path).is_file() and Path(file.path).stat().st_size == file.size]
    wanted: list[RemoteFile] = []
    for file in files:
        wanted += (file.failure and [copy for copy in kept if copy.entry == file.entry]) or [file]
    found = {file.name: file for file in kept}
    have = {(file.name, file.version, size) for file in kept for size in (None, file.size)}
    missing = [file for file in wanted if not file.failure and (file.name, file.version, file.size) not in have]
    parts = {path.stem: path.stat().st_size for path in folder.glob("*.part")}
    needed, free = sum((file.size or 0) - parts.get(file.key, 0) for file in missing), shutil.disk_usage(folder).free
    if missing and free < needed + RESERVE:
        raise InputError(
            f"{folder}: {gibibytes(needed)} are to be downloaded, and the disk has {gibibytes(free)} free, of which "
            f"{gibibytes(RESERVE)} stay free; choose another output=DIR, or name fewer files"
        )
    with task("corpus: downloading", needed / 1e6, "MB") as bar:
        for file, done in _in_parallel(lambda file: _download(file, folder), missing):
            bar.advance((file.size or 0) / 1e6)
            found[file.name] = done
    for copy in kept:
        if found[copy.name].path not in ("", copy.path):  # there is a newer version
            Path(copy.path).unlink()
            Path(f"{copy.path}.json").unlink()
    return [file if file.failure else found[file.name] for file in wanted]


def _download(file: RemoteFile, folder: Path) -> RemoteFile:
    """The file with its `path`, or with a `failure`. Errors of the disk are raised."""
    place, part = folder / file.key, folder / f"{file.key}.part"
    part.touch()
    try:
        _attempts(lambda: _receive(file, part), lambda: part.stat().st_size)
    except UnreachableError as error:
        return replace(file, failure=str(error))
    sync_file(part)
    part.replace(place)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = replace(file, path=str(place), size=place.stat().st_size, digest=digest_file(place), retrieved=now)
    write_json(place.with_suffix(".json"), asdict(done))
    return done


def _receive(file: RemoteFile, part: Path) -> None:
    """Append to `part` what it lacks."""
    start = part.stat().st_size if file.version else 0
    if start == file.size:
        return
    limit = shutil.disk_usage(part).free - RESERVE + start if file.size is None else file.size
    beyond = not file.url.startswith(_STORES)  # a server may send more than it said
    with _open(file, start) as (start, read), part.open("r+b") as sink:
        sink.truncate(sink.seek(start))
        end, chunk = start, b"?"
        while chunk:
            with _unreachable():
                chunk = read(min(_CHUNK, limit - end + beyond))
            end += sink.write(chunk)
            if end > limit or _stopped.is_set():
                raise UnreachableError("it is larger than the server said, or than the disk", final=True)
    if file.size is not None and end < file.size:
        raise UnreachableError(f"the connection ended after {end:,} of {file.size:,} bytes")


@contextlib.contextmanager
def _open(file: RemoteFile, start: int) -> Iterator[tuple[int, Callable[[int], bytes]]]:
    """Where the data starts (0: another version, or the server sends files whole), and a function that reads it."""
    if file.url.startswith(_STORES):
        with _unreachable():
            stream = _store(file.url).open_input_file(file.url.partition("://")[2])
            if start:
                stream.seek(start)
        with stream:
            yield start, stream.read
        return
    wanted = {"Range": f"bytes={start}-", "If-Range": file.version} if start else {}
    if file.entry.startswith("hf:"):
        wanted.pop("If-Range", None)  # the URL names the version
    with _open_web(file, wanted) as answer:
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise UnreachableError("the server sends another part of the file than it was asked for")
        yield start if answer.status == 206 else 0, answer.read1


_WEB = urllib.request.OpenerDirector()  # without the handlers for files and FTP, to which a server could redirect
for _name in ("Proxy", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect", "Unknown"):
    _WEB.add_handler(getattr(urllib.request, f"{_name}Handler")())
_WEB.add_handler(urllib.request.HTTPErrorProcessor())


@contextlib.contextmanager
def _open_web(file: RemoteFile, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """The answer of a server. The token for the hub is not sent to another server, to which the hub redirects."""
    sent = {"User-Agent": f"neolm/{neolm.__version__}", "Accept-Encoding": "identity", **headers}
    with _unreachable():
        request = urllib.request.Request(file.url, headers=sent)
        if file.entry.startswith("hf:"):
            from huggingface_hub import get_token

            if token := get_token():
                request.add_unredirected_header("Authorization", f"Bearer {token}")
        answer = cast(http.client.HTTPResponse, _WEB.open(request, timeout=TIMEOUT))
    with answer:
        yield answer


def _store(url: str) -> Any:
    """The file system of pyarrow for `s3://` or `gs://`, with the credentials of the environment."""
    from pyarrow import fs

    with _unreachable():
        if url.startswith("gs://"):
            account = Path.home() / ".config/gcloud/application_default_credentials.json"
            known = "GOOGLE_APPLICATION_CREDENTIALS" in os.environ or account.is_file()
            return fs.GcsFileSystem(anonymous=not known, retry_time_limit=timedelta(seconds=TIMEOUT))
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return fs.S3FileSystem(
            endpoint_override=endpoint,
            region=region or (None if endpoint else fs.resolve_s3_region(urlsplit(url).netloc)),
            connect_timeout=TIMEOUT,
            request_timeout=TIMEOUT,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )


@contextlib.contextmanager
def _unreachable() -> Iterator[None]:
    """Turn the errors of the libraries into one cause."""
    try:
        yield
    except UnreachableError:
        raise
    except Exception as error:  # urllib, pyarrow, huggingface_hub and its HTTP client have no common class
        inner = getattr(error, "reason", error)
        code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
        text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
        if isinstance(error, FileNotFoundError):
            text = "no file has such a name"
        elif found := re.search(r"AWS Error.*|CURL error[^}(]*|last message of [^}]*", text):
            text = found[0]
        final = code in _FINAL or isinstance(error, FileNotFoundError)
        raise UnreachableError(f"{code} {text}" if code and str(code) not in text else text, final) from None


def _attempts(work: Callable[[], R], size: Callable[[], int] = lambda: 0) -> R:
    """The result of `work`, which is tried again until ATTEMPTS in a row did not add to `size`."""
    failed = 0
    while True:
        before = size()
        try:
            return work()
        except UnreachableError as error:
            failed = failed + 1 if size() <= before else 1
            if error.final or failed >= ATTEMPTS or _stopped.is_set():
                raise
            time.sleep(WAIT * 2 ** (failed - 1))


_stopped = threading.Event()
"""Set when the downloads are to end, because of an error or an interrupt."""


def _in_parallel(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Each item with its result, in their order."""
    _stopped.clear()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        try:
            yield from zip(items, threads.map(work, items), strict=True)
        except BaseException:
            _stopped.set()
            threads.shutdown(cancel_futures=True)
            raise
