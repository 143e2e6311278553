"""Corpora on Ray: the same files as without it, also if a worker is killed; addresses that cannot be used."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neolm.cli import main
from neolm.core.manifest import read_manifest

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra [cluster] is not installed")
SECONDS = 240  # of one build; Ray starts a process for each node, which takes a while on a busy machine
PAGE = "<html><body><article><p>{}</p></article></body></html>"
NEAR = ["corpus.near_duplicates.ngram=5", "corpus.near_duplicates.max_dropped_share=1"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Files of several kinds in several groups: near-duplicates, copies, pages, an archive of pages, a broken file."""
    folder, draw = tmp_path_factory.mktemp("raw"), random.Random(0)
    words = [f"word{number}" for number in range(300)]
    texts = [[draw.choice(words) for _ in range(120)] for _ in range(60)]
    for number in range(12):
        rows = []
        for _ in range(20):
            text = list(draw.choice(texts))
            for place in draw.sample(range(len(text)), draw.randint(0, 3)):
                text[place] = draw.choice(words)
            rows.append({"text": " ".join(text), "id": f"a{draw.randrange(200)}"})
        rows += [{"no": "text"}]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = PAGE.format(" ".join(texts[0]) + ". " + " ".join(texts[1]) + ".")
    (folder / "page.html").write_text(body)
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{body}"
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/\r\nContent-Type: application/http"
    (folder / "b.warc").write_text(f"{head}; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n{http}\r\n\r\n")
    (folder / "broken.txt").write_bytes(b"\xff\xfe\xfd")
    return folder


def command(raw: Path, output: Path, *others: str) -> list[str]:
    """The build of `raw` in groups of one file each, by the real command line."""
    code = "import neolm.corpus.ingest as i; i.GROUP_BYTES = 1; from neolm.cli import main; main()"
    settings = [f"corpus.path={raw}", f"output={output}", *NEAR]
    return [sys.executable, "-c", code, "corpus", "build", "text", *settings, *others]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    names = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    return {**os.environ, **names, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def built(command: list[str]) -> str:
    """Run a build with a time limit and return its messages; all of its processes end."""
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        end(process)
    assert process.returncode == 0, errors
    return errors


def end(process: subprocess.Popen) -> None:
    """Kill a process and the others of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outputs(output: Path) -> dict[str, str]:
    manifest = read_manifest(output / "corpus")
    assert manifest is not None
    assert manifest.counts["near_duplicates"]["documents"] > 20
    return manifest.outputs


@pytest.fixture(scope="module")
def native(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("native") / "run"
    built(command(raw, output))
    return outputs(output)


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def cluster(tmp_path_factory):
    """A Ray of two nodes with one core each: the address for clients, and the process of the second node."""
    place = Path(subprocess.check_output(["mktemp", "-d", "/tmp/ray.XXXX"], text=True).strip())  # sockets: short paths
    port, client = free_ports(2)
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    start += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=200000000"]
    head = [f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false", f"--temp-dir={place}"]
    nodes: list[subprocess.Popen] = []
    try:
        for others in (["--head", "--node-ip-address=127.0.0.1", *head], [f"--address=127.0.0.1:{port}"]):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            nodes.append(subprocess.Popen([*start, *others], env=environment(), start_new_session=True, **quiet))
            status = [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address=127.0.0.1:{port}"]
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                found = subprocess.run(status, env=environment(), capture_output=True, text=True, check=False).stdout
                if found.count("1 node_") == len(nodes):
                    break
        assert found.count("1 node_") == 2, found
        while time.monotonic() < deadline:  # the server for clients may start later than the nodes
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", client), timeout=1).close()
                break
            time.sleep(0.1)
        yield f"ray://127.0.0.1:{client}", nodes[1]
    finally:
        for node in nodes:
            end(node)
        subprocess.run(["rm", "-rf", place], check=True)


@needs_ray
@pytest.mark.slow
def test_a_ray_of_two_workers_gives_the_same_bytes(raw, native, cluster, tmp_path):
    built(command(raw, tmp_path / "run", "--cluster", cluster[0]))
    assert outputs(tmp_path / "run") == native
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".corpus")] == []


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_changes_nothing(raw, native, cluster, tmp_path):
    address, second = cluster
    build = subprocess.Popen(
        command(raw, tmp_path / "run", "--cluster", address), env=environment(), start_new_session=True
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not list(tmp_path.glob("run/.corpus.read/*/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert build.poll() is None
        end(second)
        assert build.wait(timeout=SECONDS) == 0
    finally:
        end(build)
    assert outputs(tmp_path / "run") == native


def test_a_killed_build_takes_over_what_was_read(raw, native, tmp_path):
    output = tmp_path / "run"
    slow = (
        "import neolm.corpus.ingest as i, time; rows = i._rows\n"
        "def later(files, config):\n    time.sleep(0.1)\n    yield from rows(files, config)\n"
        "i._rows = later; "
    )
    arguments = command(raw, output)
    arguments[2] = slow + arguments[2]
    process = subprocess.Popen(arguments, env=environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(list(output.glob(".corpus.read/*/*.parquet"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        end(process)
    present = sorted(output.glob(".corpus.read/*/*.parquet"))
    assert 4 <= len(present) < 15
    present[0].write_bytes(present[0].read_bytes()[:-9])  # a disk that was not flushed
    present[1].with_name(".half").write_bytes(b"PAR1")
    messages = built(command(raw, output))
    assert f"corpus: {len(present) - 1} of 15 groups of files were read by an earlier run" in messages
    assert outputs(output) == native
    assert [path.name for path in output.iterdir() if path.name.startswith(".corpus")] == []


def test_what_was_read_is_used_again_only_for_the_same_files_and_settings(build, write, capsys, tmp_path):
    rows = [{"text": f"{'the same words in all of these texts ' * 4}{n % 2}", "id": str(n)} for n in range(200)]
    path = write("a.jsonl", rows)
    near = {"ngram": 5, "max_dropped_share": 0.0}
    refused = pytest.raises(Exception, match="max_dropped_share")
    with refused:
        build(path, near_duplicates={**near, "threshold": 0.5})
    assert "read by an earlier run" not in capsys.readouterr().err
    build(path, near_duplicates={**near, "max_dropped_share": 1.0, "threshold": 0.5})  # consent: nothing is read again
    assert "1 of 1 groups of files" in capsys.readouterr().err
    with refused:
        build(path, near_duplicates={**near, "threshold": 0.5}, licence="MIT")
    build(path, licence="CC0-1.0")
    assert "read by an earlier run" not in capsys.readouterr().err
    assert not list((tmp_path / "output").glob(".corpus*"))


@pytest.mark.parametrize("address", ["", "auto", "10.0.0.1:6379", "local:2"])
def test_addresses_that_are_none(tmp_path, capsys, monkeypatch, address):
    arguments = ["corpus", "build", "text", f"corpus.path={tmp_path}", f"output={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["neolm", *arguments, "--cluster", address])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--cluster: {address!r} is neither `local` nor" in capsys.readouterr().err
