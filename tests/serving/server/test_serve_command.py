"""`neolm serve` as a process: start, stop, restart after a kill, options, and one-line errors."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import served

from neolm.serving.server import main
from neolm.serving.server.model_pool import model_name
from neolm.serving.server.service import open_models
from neolm.serving.server.settings import ServeConfig


def test_sigterm_completes_the_answers_in_progress(directory: Path, tmp_path: Path) -> None:
    with served(directory, "--feedback", "off") as (process, url):
        body = {"model": "tiny", "prompt": "the", "max_tokens": 90, "ignore_eos": True, "stream": True, "n": 8}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [first, *lines]
        assert rest[-2] == "data: [DONE]"
        assert sum('"finish_reason":"length"' in line for line in rest) == 8
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert "serve: stopping" in log
    assert "the" not in json.dumps([json.loads(line).get("prompts") for line in log.splitlines() if line[0] == "{"])


def test_the_shutdown_time_limit_ends_a_stream_with_an_error(tmp_path: Path, write: Callable[..., Path]) -> None:
    options = ("--feedback", "off", "--set", "shutdown_seconds=0")
    with served(write(tmp_path / "tiny", context=4096), *options) as (process, url):
        body = {"model": "tiny", "prompt": "the", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line]
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "not_ready"
        assert rest[-1] == "data: [DONE]"
        assert process.wait(timeout=60) == 0


def test_a_killed_server_restarts(directory: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.sqlite'}"
    rating = {
        "consent": True,
        "kind": "rating",
        "mode": "completion",
        "prompt": "x",
        "answers": [{"model": "tiny", "text": "y"}],
        "rating": "up",
    }
    for number in (1, 2):
        with served(directory, "--feedback", url) as (process, address):
            assert httpx.post(f"{address}/api/feedback", json=rating).json() == {"id": number}
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_prompts_are_logged_only_with_log_text(directory: Path) -> None:
    ask = {"model": "tiny", "prompt": "a secret of the sea", "max_tokens": 3, "ignore_eos": True}
    for options, logged in [((), False), (("--set", "log_text=true"), True)]:
        with served(directory, "--feedback", "off", *options) as (process, url):
            for stream in (False, True):
                answer = httpx.post(f"{url}/v1/completions", json={**ask, "stream": stream}, timeout=60)
                assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            assert process.stderr is not None
            log = [json.loads(line) for line in process.stderr.read().splitlines() if line[0] == "{"]
            assert [entry["completion_tokens"] for entry in log] == [3, 3]
            expected = [["a secret of the sea"]] * 2 if logged else [None, None]
            assert [entry.get("prompts") for entry in log] == expected
            assert all(("answers" in entry) is logged for entry in log)


def test_mistakes_give_one_line(neolm_: Callable[..., tuple[int, str, str]], directory: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[list[Any], str]] = [
            ([directory, "--host", "0.0.0.0"], "can be reached from other machines: give --keys FILE"),
            ([directory, "--port", port], f"cannot listen on 127.0.0.1, port {port}"),
            ([directory, "--host", "no.such.host.invalid", "--keys", tmp_path / "k"], "no such file of keys"),
            ([directory, directory], "two models are called tiny; give them names"),
            ([tmp_path / "none"], "no such model directory"),
            ([tmp_path], "config.json"),
            ([directory, "--memory", 0.001], "are for models"),
            ([directory, "--memory", -1], "memory: must be greater than 0"),
            ([directory, "--port", 70000], "port"),
            ([directory, "--set", "quue=5"], "did you mean 'queue'"),
            ([directory, "--feedback", "what"], "is not a database"),
            ([directory, "--device", "meta"], "device"),
            ([directory, "--set", "memory=1e308"], "memory"),
            ([directory, "--set", "text_memory=1e308"], "text_memory"),
            ([directory, "--quantize", "int5"], "quantize"),
        ]
        for arguments, words in cases:
            code, _, said = neolm_("serve", *arguments)
            assert (code, said.count("\n")) == (2, 1), said
            assert words in said


def test_key_commands(neolm_: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    code, key, _ = neolm_("keys", "new", file, "alice", "--tokens", 1000)
    assert code == 0
    assert key.startswith("nlm-")
    assert "alice" in neolm_("keys", "list", file)[1]
    assert "1000" in neolm_("keys", "list", file)[1]
    assert neolm_("keys", "new", file, "alice")[0] == 2
    for name in ("", "a b", "a" * 65):
        code, _, said = neolm_("keys", "new", file, name)
        assert (code, said.count("\n")) == (2, 1), said
        assert said.startswith("neolm: name: must ")
    assert "Is a directory" in neolm_("keys", "new", tmp_path, "alice")[2]
    assert neolm_("keys", "remove", file, "alice")[0] == 0
    assert neolm_("keys", "remove", file, "alice")[0] == 2
    assert "shutdown_seconds" in neolm_("config", "serve")[1]


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, write: Callable[..., Path]) -> None:
    with served(write(tmp_path / "tiny", context=4096), "--feedback", "off") as (process, url):
        body = {"model": "tiny", "prompt": "the", "max_tokens": 4000, "ignore_eos": True, "stream": True, "n": 16}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()  # kept alive: otherwise the connection is closed
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert any("serve: stopping" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=5) == 128 + signal.SIGINT


def test_two_servers_on_one_port(directory: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    command = [sys.executable, "-m", "neolm", "serve", str(directory), "--feedback", "off", "--port", port]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        while all(process.poll() is None for process in both):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [loser] = [process for process in both if process.poll() is not None]
        assert loser.stderr is not None
        assert loser.returncode == 2
        assert "cannot listen on 127.0.0.1" in loser.stderr.read()
        [winner] = [process for process in both if process is not loser]
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
                break
            time.sleep(0.05)
        assert winner.poll() is None
    finally:
        for process in both:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


TEXTS = ["a #b", "#1", "yes", "[old]", "CC BY: 4.0", "-x", "null", "2024", "~", "a: b", "'x'", "off", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_options_stay_text(
    neolm_: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    calls: list[tuple[list[str], ServeConfig]] = []
    monkeypatch.setattr(main, "serve", lambda models, settings: calls.append((models, settings)))
    options = ("--host", text, "--keys", text, "--feedback", text)
    assert neolm_("serve", *options, "--set", f"host={text}", "--", text, f"a={text}") == (0, "", "")
    [(models, settings)] = calls
    assert models == [text, f"a={text}"]
    assert (settings.host, settings.keys, settings.feedback) == (text, text, text)
    assert neolm_("serve", "--set", f"host={text}", "--", text)[0] == 0
    assert calls[1][1].host == text


def test_models_in_directories_with_unusual_names(tmp_path: Path, write: Callable[..., Path]) -> None:
    for name in ("a #b", "[c]: d", "-e", "x=y"):
        path = write(tmp_path / name)
        assert model_name(str(path)) == (name, str(path))
        settings = ServeConfig(text_memory=0.01, device="cpu")
        pool = open_models([str(path), f"n #1={path}"], settings)
        assert list(pool.models) == [name, "n #1"]


def test_a_claimed_context_is_limited_to_what_memory_holds(
    tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "huge", family="gpt-neox", context=2**24)
    settings = ServeConfig(text_memory=0.01, memory=0.25, device="cpu")
    [model] = open_models([str(path)], settings).models.values()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"serve: huge: texts are limited to {model.context:,} tokens of the context of 16,777,216")
    assert line.endswith("Choose another limit by --set context=TOKENS")
    assert 0.9 * 2**28 < model.size <= 2**28
    two = open_models([f"{name}={path}" for name in "ab"], settings)
    assert sum(other.size for other in two.models.values()) <= 2**28  # both may be loaded at once
    assert two.models["a"].context == pytest.approx(model.context / 2, rel=0.01)
    capsys.readouterr()
    [model] = open_models([str(path)], settings.model_copy(update={"context": 100})).models.values()
    assert (model.context, capsys.readouterr().err) == (100, "")
    model.start()
    assert model.engine is not None and model.engine.context == 100
    model.close()
    [model] = open_models([str(write(tmp_path / "small"))], settings).models.values()
    assert (model.context, capsys.readouterr().err) == (96, "")


def test_options_are_stronger_than_settings_and_the_file(
    neolm_: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[ServeConfig] = []
    monkeypatch.setattr(main, "serve", lambda models, settings: calls.append(settings))
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nqueue: 1\nmemory: 1.0\nfeedback: off\n")
    options = ("--config", file, "--set", "port=2", "--set", "queue=2", "--port", 3)
    assert neolm_("serve", "x", *options)[0] == 0
    assert (calls[0].port, calls[0].queue, calls[0].memory, calls[0].feedback) == (3, 2, 1.0, "off")


def test_dependencies_whose_private_parts_are_used_have_upper_bounds() -> None:
    file = Path(__file__).parents[3] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    bounds = {re.split(r"[<>=]", line)[0]: line for line in needed}
    assert all("<" in bounds[name] for name in ("numba", "uvicorn"))
