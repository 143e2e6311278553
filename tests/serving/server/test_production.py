"""The configuration files of docs/serving.md, "In production", with other paths and ports: nginx in front of two
replicas, and the systemd service."""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import served

from neolm.serving.server.keys import new_key

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
SMALL = ("--feedback", "off", "--set", "text_memory=0.02")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def proxy(place: Path, ports: list[int]) -> Iterator[int]:
    """Run nginx with the documented configuration in front of these replicas; yields its port."""
    certificate, key, port = place / "lm.pem", place / "lm.key", free_port()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lm.example.org", "-days", "1"]
    subprocess.run([*made, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    site = block("nginx")
    for was, now in [
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/lm.pem", str(certificate)),
        ("/etc/ssl/lm.key", str(key)),
        ("127.0.0.1:8001", f"127.0.0.1:{ports[0]}"),
        ("127.0.0.1:8002", f"127.0.0.1:{ports[1]}"),
    ]:
        assert was in site
        site = site.replace(was, now)
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{site}}}\n"
    )
    process = subprocess.Popen([str(NGINX), "-p", place, "-c", place / "nginx.conf", "-e", place / "error.log"])
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (place / "error.log").read_text()
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="needs nginx and openssl")
def test_replicas_behind_a_proxy(tmp_path: Path, write: Callable[..., Path]) -> None:
    directory, keys = write(tmp_path / "tiny", context=2048), tmp_path / "keys.json"
    name = {"Host": "lm.example.org", "Authorization": f"Bearer {new_key(keys, 'alice', None, None)}"}
    options = (directory, "--keys", keys, "--set", 'hosts=["lm.example.org"]', *SMALL)
    with served(*options) as (one, first), served(*options) as (other, second), contextlib.ExitStack() as stack:
        ports = [int(url.rpartition(":")[2]) for url in (first, second)]
        port = stack.enter_context(proxy(tmp_path, ports))
        base = f"https://127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(base_url=base, headers=name, verify=False, timeout=60))

        def ask(_: int = 0) -> Any:
            body = {"model": "tiny", "prompt": "the sea", "max_tokens": 20, "temperature": 0}
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"]

        def both() -> list[float]:
            pages = [httpx.get(f"{url}/metrics", headers={**name, "Host": "localhost"}).text for url in (first, second)]
            found = [re.findall(r'neolm_tokens_total\{kind="prompt",model="tiny"\} (\S+)', page) for page in pages]
            return [float(one[0]) if one else 0.0 for one in found]

        right = ask()
        with ThreadPoolExecutor(8) as pool:
            assert all(choices == right for choices in pool.map(ask, range(32)))
        assert min(both()) > 0  # both replicas got requests

        # The web page works through the proxy; pages of other origins are refused.
        own, foreign = {"Origin": "https://lm.example.org"}, {"Origin": "https://example.net"}
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        assert client.get("/").status_code == 200
        assert client.post("/v1/completions", json=body, headers=own).status_code == 200
        assert client.post("/v1/completions", json=body, headers=foreign).status_code == 403
        with_port = {"Host": f"lm.example.org:{port}", "Origin": f"https://lm.example.org:{port}"}
        assert client.post("/v1/completions", json=body, headers=with_port).status_code == 200

        # A stream is not buffered, and is completed although its replica is stopped meanwhile.
        long = body | {"max_tokens": 1000, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=long) as answer:
            lines = answer.iter_lines()
            next(lines)
            running = [
                httpx.get(f"{url}/metrics", headers={**name, "Host": "localhost"}).text.count(
                    'neolm_requests_running{model="tiny"} 1.0'
                )
                for url in (first, second)
            ]
            assert sum(running) == 1
            busy = (one, other)[running.index(1)]
            busy.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert [ask() for _ in range(6)] == [right] * 6  # the other replica answers
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert busy.wait(timeout=60) == 0
        assert [ask() for _ in range(4)] == [right] * 4


@pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="needs nginx and openssl")
def test_a_killed_replica_is_skipped(directory: Path, tmp_path: Path) -> None:
    options = (directory, "--set", 'hosts=["lm.example.org"]', *SMALL)
    with contextlib.ExitStack() as stack:
        (one, first), (_, second) = (stack.enter_context(served(*options)) for _ in range(2))
        port = stack.enter_context(proxy(tmp_path, [int(url.rpartition(":")[2]) for url in (first, second)]))
        base, name = f"https://127.0.0.1:{port}", {"Host": "lm.example.org"}
        client = stack.enter_context(httpx.Client(base_url=base, headers=name, verify=False, timeout=60))
        body = {"model": "tiny", "prompt": "the sea", "max_tokens": 20, "temperature": 0}
        right = [client.post("/v1/completions", json=body).json()["choices"] for _ in range(4)]
        one.kill()
        again = [client.post("/v1/completions", json=body) for _ in range(8)]
        assert [answer.status_code for answer in again] == [200] * 8
        assert all(answer.json()["choices"] == right[0] for answer in again)


def test_the_systemd_service(directory: Path, tmp_path: Path) -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("ini"))
    program, command, *arguments = unit["Service"]["ExecStart"].split()
    assert (program, command) == ("/opt/neolm/bin/neolm", "serve")
    settings = tmp_path / "serve.yaml"
    settings.write_text("feedback: off\ntext_memory: 0.02\nmax_tokens: 3\n")
    places = {"/srv/models/mine": str(directory), "/etc/neolm/serve.yaml": str(settings)}
    environment = dict(pair.split("=", 1) for pair in unit["Service"]["Environment"].split())
    environment = {name: value.replace("/var/lib", str(tmp_path)) for name, value in environment.items()}
    with served(*(places.get(argument, argument) for argument in arguments), **environment) as (process, url):
        body = {"model": "tiny", "prompt": "the sea", "max_tokens": 4}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=120).status_code == 400
        assert httpx.post(f"{url}/v1/completions", json=body | {"max_tokens": 3}, timeout=120).status_code == 200
        assert (tmp_path / "neolm" / "kernels").is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=float(unit["Service"]["TimeoutStopSec"])) == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "neolm.service"
    unit.write_text(block("ini").replace("/opt/neolm/bin/neolm", str(shutil.which("true"))))  # an existing program
    done = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
    assert "neolm.service" not in done.stderr, done.stderr
