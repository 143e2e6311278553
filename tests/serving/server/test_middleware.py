"""Middleware: origins, hosts, keys, limits, headers and the log; and the description of the API."""

from __future__ import annotations

import html
import json
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.serving.server.api_docs import api_page
from neolm.serving.server.errors import ApiError
from neolm.serving.server.keys import Client, KeyEntry, KeyRing, new_key, read_keys, remove_key
from neolm.serving.server.settings import ServeConfig

ASK = {"model": "tiny", "prompt": "the sea", "max_tokens": 3, "temperature": 0}


def raw(server: Any, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(text)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_every_response_has_the_security_headers(server: Any) -> None:
    for path in ("/", "/v1/models", "/nothing", "/static/app.js", "/health"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert headers["x-request-id"].startswith("req-")


def test_other_origins_and_hosts_are_refused(server: Any) -> None:
    post = server.client.post
    assert post("/v1/completions", json=ASK, headers={"Origin": "https://evil.example"}).status_code == 403
    assert post("/v1/completions", json=ASK, headers={"Origin": "null"}).status_code == 403
    assert post("/v1/completions", json=ASK, headers={"Origin": server.url}).status_code == 200
    assert post("/v1/completions", json=ASK, headers={"Host": "evil.example"}).status_code == 421
    assert server.client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 421
    assert server.client.get("/v1/models", headers={"Host": "LOCALHOST:80"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert post("/v1/completions", content=b"{}", headers={"Content-Type": kind}).status_code == 415


def test_cors_allows_the_configured_origins(directory: Path, start: Callable[..., Any]) -> None:
    with start([str(directory)], cors=("https://good.example",), feedback="off") as server:
        origin = {"Origin": "https://good.example"}
        headers = "authorization, x-stainless-lang,x-stainless-retry-count"  # as OpenAI's client for browsers sends
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
        preflight = server.client.options("/v1/completions", headers={**origin, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://good.example"
        assert preflight.headers["access-control-allow-headers"] == headers
        foreign = server.client.options("/v1/completions", headers={"Origin": "https://evil.example", **asked})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers
        late = server.client.post("/v1/completions", json=ASK, headers=origin)
        assert late.status_code == 200
        assert late.headers["access-control-allow-origin"] == "https://good.example"
        assert "X-Request-Id" in late.headers["access-control-expose-headers"]
        other = server.client.post("/v1/completions", json=ASK, headers={"Origin": "https://good.example.evil"})
        assert other.status_code == 403


def test_large_and_slow_bodies_are_refused(directory: Path, start: Callable[..., Any]) -> None:
    with start([str(directory)], body_bytes=2000, body_seconds=0.3, feedback="off") as server:
        assert server.error("/v1/completions", {**ASK, "prompt": "x" * 3000}, 413)["code"] == "body_too_large"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
        assert raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3).startswith(b"HTTP/1.1 413")
        assert raw(server, head + b"Content-Length: 90\r\n\r\n{").startswith(b"HTTP/1.1 408")
        assert raw(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert server.client.post("/v1/completions", json=ASK).status_code == 200


@pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "....//app.py", "%00"])
def test_no_path_opens_a_file(server: Any, path: str) -> None:
    for place in ("/static/", "/v1/models/", "/api/models/"):
        answer = raw(server, f"GET {place}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.split()[1] in (b"404", b"405"), answer
        assert b"root:" not in answer
        assert b"import" not in answer


def test_unknown_paths_and_methods(server: Any) -> None:
    for method, path, status in [("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("DELETE", "/", 405)]:
        headers = {"Content-Type": "application/json"}
        answer = server.client.request(method, path, headers=headers)
        assert answer.status_code == status
        assert "message" in answer.json()["error"]


def test_the_documentation_has_every_path_and_every_meaning(server: Any) -> None:
    described = server.client.get("/openapi.json").json()
    assert "422" not in str(described["paths"])
    assert "/v1/chat/completions" in described["paths"]
    page = server.client.get("/docs").text
    assert "<script" not in page
    assert all(path in page for path in described["paths"])
    rows = re.findall(r"<tr>(?:<td>(.*?)</td>)(?:<td>(.*?)</td>)(?:<td>(.*?)</td>)</tr>", page)
    assert len(rows) > 60
    assert all(meaning.strip() for _, _, meaning in rows), [row for row in rows if not row[2]]
    kinds = {name.removeprefix("<code>").partition("</code>")[0]: kind for name, kind, _ in rows}
    assert {"messages", "frequency_penalty", "role", "include_usage", "consent", "settings"} <= set(kinds)
    assert kinds["min_p"] == "0 or null"
    assert kinds["top_p"] == "number (≥ 0, ≤ 1) or null"
    assert kinds["max_tokens"] == "512"  # of this server, in the table of limits
    assert "`" not in page
    elsewhere = api_page(described, ServeConfig(port=8765))
    assert "curl http://127.0.0.1:8765/v1/models" in elsewhere
    assert "8000" not in elsewhere


def test_the_examples_of_the_documentation_work(server: Any) -> None:
    page = server.client.get("/docs").text
    commands = [
        shlex.split(html.unescape(code).replace("\\\n", ""))
        for code in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.S)
    ]
    described = server.client.get("/openapi.json").json()
    assert len(commands) == sum(len(methods) for methods in described["paths"].values())
    for curl, url, *options in commands:
        assert curl == "curl"
        assert url.startswith("http://127.0.0.1:8000/")
        path = url.removeprefix("http://127.0.0.1:8000")
        if options:
            assert options[:3] == ["-H", "Content-Type: application/json", "-d"]
            answer = server.client.post(path, content=options[3], headers={"Content-Type": "application/json"})
        else:
            answer = server.client.get(path)
        assert answer.status_code in (200, 201), (url, answer.text)


def test_head_is_get_without_a_body(server: Any) -> None:
    for path in ("/", "/health", "/ready", "/v1/models", "/docs", "/static/app.js"):
        got, head = server.client.get(path), server.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]
    assert server.client.head("/v1/completions").status_code == 405


def test_targets_in_absolute_form(server: Any) -> None:
    for target, status in [("http://localhost/health", 200), ("http://localhost", 200), ("http://x/v1/none", 404)]:
        answer = raw(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status}".encode()), target


def test_health_readiness_metrics_and_model_card(server: Any) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/ready").json() == {"status": "ready"}
    server.ask(prompt="the sea", max_tokens=7)
    counted, page = 'path="/v1/completions",status="200"', ""
    while counted not in page:  # a request is counted after its last byte is sent
        page = server.client.get("/metrics").text
    assert 'neolm_tokens_total{kind="completion",model="tiny"}' in page
    assert 'neolm_model_loaded{model="tiny"} 1.0' in page
    card = server.client.get("/api/models/tiny").json()
    assert card["digest"].startswith("sha256:")
    assert (card["family"], card["context"], card["quantize"]) == ("gpt-neo", 96, None)


def test_keys_are_stored_as_hashes_and_limits_hold(tmp_path: Path, directory: Path, start: Callable[..., Any]) -> None:
    file = tmp_path / "keys.json"
    key, tight = new_key(file, "alice", None, None), new_key(file, "bob", 2, None)
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with start([str(directory)], key=key, keys=str(file), feedback="off") as server:
        assert server.client.post("/v1/completions", json=ASK).status_code == 200
        for path, status in [("/v1/models", 401), ("/metrics", 401), ("/health", 200), ("/", 200), ("/api/info", 200)]:
            for value in ("", "Bearer", "Bearer wrong", "Basic abc", f"Bearer {key}x"):
                assert server.client.get(path, headers={"Authorization": value}).status_code == status
        bob = {"Authorization": f"Bearer {tight}"}
        codes = [server.client.post("/v1/completions", json=ASK, headers=bob).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        limited = server.client.post("/v1/completions", json=ASK, headers=bob)
        assert 1 <= int(limited.headers["retry-after"]) <= 30
        liked = {"consent": True, "kind": "rating", "mode": "completion", "prompt": "x", "rating": "up"}
        liked["answers"] = [{"model": "tiny", "text": "y"}]
        assert server.client.post("/api/feedback", json=liked, headers=bob).status_code == 429
        assert server.client.get("/v1/models", headers=bob).status_code == 200  # only POST requests are counted
        remove_key(file, "bob")
        assert server.client.get("/v1/models", headers=bob).status_code == 401
        assert server.client.get("/v1/models").status_code == 200


def test_tokens_per_minute() -> None:
    now = [0.0]
    client = Client(KeyEntry(name="x", sha256="0" * 64, tokens_per_minute=60), lambda: now[0])
    client.tokens.spend(50)
    client.tokens.level += 20
    with pytest.raises(ApiError, match="limit of tokens per minute"):
        client.tokens.spend(40)
    now[0] = 10.0
    client.tokens.spend(40)
    now[0] = 70.0
    client.tokens.spend(1000)  # more than the capacity: allowed when the bucket is full
    with pytest.raises(ApiError) as caught:
        client.tokens.spend(1)
    assert caught.value.headers["Retry-After"] == str(1000 - 60 + 1)


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(InputError, match="no such file of keys"):
        KeyRing(file)
    new_key(file, "alice", 5, 6)
    with pytest.raises(InputError, match="named alice exists already"):
        new_key(file, "alice", None, None)
    with pytest.raises(InputError, match="no key is named bob"):
        remove_key(file, "bob")
    assert read_keys(file).keys[0].requests_per_minute == 5
    remove_key(file, "alice")
    with pytest.raises(InputError, match="contains no key"):
        KeyRing(file)
    file.write_text("{")
    with pytest.raises(InputError):
        KeyRing(file)


def test_the_log_has_requests_to_the_api_and_errors_but_no_static_files(
    directory: Path, start: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with start([str(directory)], feedback="off") as server:
        for path in ("/", "/static/app.js", "/static/none.js", "/v1/models", "/nothing"):
            server.client.get(path)
        server.client.head("/health")
    log = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    entries = [(entry["method"], entry["path"], entry["status"]) for entry in log if entry["event"] == "request"]
    assert entries == [
        ("GET", "-", 404),
        ("GET", "/v1/models", 200),
        ("GET", "-", 404),
        ("HEAD", "/health", 200),
    ]


def test_an_unexpected_error_is_500_with_all_headers_and_its_place_in_the_log(
    directory: Path, start: Callable[..., Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start([str(directory)], feedback="off") as server:

        def fail() -> None:
            raise RuntimeError("a secret prompt")

        monkeypatch.setattr(server.service.pool.models["tiny"], "entry", fail)
        answer = server.client.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-frame-options"] == "DENY"
    log = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    [failure] = [entry for entry in log if entry["event"] == "failure"]
    assert (failure["id"], failure["error"]) == (answer.headers["x-request-id"], "RuntimeError")
    assert "secret" not in str(log)
