"""A web server for the tests: files, a bucket of S3 and of Google, a data set of the hub, and faults by name."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Server:
    """`files` by path; `seen` requests as `(path, Range, Authorization)`; `drops` answers that end early."""

    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    version: str = '"v1"'
    drops: int = 0
    ranges: bool = True
    address: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body if self.command != "HEAD" else b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url, state = urlsplit(self.path), self.state
        path, query = unquote(url.path), dict(parse_qsl(url.query))
        asked = self.headers.get("Range", "")
        state.seen.append((path, asked, self.headers.get("Authorization", "")))
        if path.startswith("/hang"):
            state.closing.wait(20)
        elif path.startswith("/status/"):
            self.reply(int(path.split("/")[2]))
        elif path.startswith("/to/"):
            self.reply(302, Location="/" + path.removeprefix("/to/"))
        elif path.startswith("/ftp"):
            self.reply(302, Location="ftp://127.0.0.1/x.txt")
        elif path.startswith("/api/datasets/"):
            self._data_set()
        elif "list-type" in query:
            self._bucket(path.strip("/"), query.get("prefix", ""))
        elif path.endswith("/o") and path.startswith("/storage/"):
            items = [self._google(name) for name in state.files if name.startswith("/bucket/" + query["prefix"])]
            self.reply(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif path.startswith("/storage/") and "alt" not in query:
            name = "/bucket/" + path.partition("/o/")[2]
            self.reply(*((200, json.dumps(self._google(name)).encode()) if name in state.files else (404, b"{}")))
        else:
            name = "/bucket/" + path.partition("/o/")[2] if path.startswith("/storage/") else path
            self._file(name, asked)

    def _file(self, name: str, asked: str) -> None:
        state = self.state
        if (data := state.files.get(name)) is None:
            return self.reply(404)
        when = "Mon, 01 Jan 2024 00:00:00 GMT"  # pyarrow needs it of S3
        headers = {"ETag": state.version, "Last-Modified": when, "x-goog-generation": "1"} if state.version else {}
        fresh = self.headers.get("If-Range") in (None, state.version)
        start, code = 0, 200
        if asked and state.ranges and fresh:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, code = int(first), 206
            end = min(len(data), int(last) + 1) if last else len(data)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data = data[start:end]
        if state.drops and len(data) > 1 and self.command == "GET":
            state.drops -= 1
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self.reply(code, data, **headers)

    def _bucket(self, bucket: str, prefix: str) -> None:
        if bucket == "private":
            return self.reply(403, b"<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>")
        names = [
            name.removeprefix(f"/{bucket}/") for name in self.state.files if name.startswith(f"/{bucket}/{prefix}")
        ]
        rows = "".join(
            f"<Contents><Key>{name}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>e</ETag><Size>{len(self.state.files[f'/{bucket}/{name}'])}</Size></Contents>"
            for name in names
        )
        body = f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        return self.reply(200, body.encode(), Content_Type="application/xml")

    def _google(self, name: str) -> dict[str, str]:
        size, when = str(len(self.state.files[name])), "2024-01-01T00:00:00Z"
        known = {"bucket": "bucket", "name": name.removeprefix("/bucket/"), "size": size, "generation": "1"}
        return {"kind": "storage#object", "metageneration": "1", "updated": when, "timeCreated": when, **known}

    def _data_set(self) -> None:
        root = "/datasets/org/name/resolve/abc/"
        files = {name.removeprefix(root): data for name, data in self.state.files.items() if name.startswith(root)}
        siblings = [{"rfilename": name, "size": len(data), "blobId": f"b{len(data)}"} for name, data in files.items()]
        known = {"id": "org/name", "sha": "abc", "siblings": siblings, "cardData": {"license": "cc-by-4.0"}}
        known |= {"private": False, "downloads": 0, "likes": 0, "tags": [], "lastModified": "2024-01-01T00:00:00.000Z"}
        self.reply(200, json.dumps(known).encode(), Content_Type="application/json")


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""
    state = Server()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with serving() as _server:
        _server.files = {name: text.encode("latin-1") for name, text in json.loads(sys.stdin.readline()).items()}
        print(_server.address, flush=True)
        sys.stdin.read()
