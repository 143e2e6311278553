"""A server in a process of its own, NeoLM's, transformers' or llama.cpp's, and clients that ask it over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from crowd import crowd
from protocol import Channel, leave

MOST = 40  # texts at a time; as many places as llama.cpp is told to keep
NAME = "asked"


def main() -> None:
    channel = Channel()
    job = channel.job
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, model = COMMANDS[job["server"]](job, str(port))
    threads = {"OMP_NUM_THREADS": str(job["threads"])}
    server = subprocess.Popen(
        [*map(str, command)], stdout=2, stderr=2, start_new_session=True, env={**os.environ, **threads}
    )

    def complete(text: str, tokens: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1200)
        body = {"model": model, "prompt": text, "max_tokens": tokens, "temperature": 0} | job.get("more", {})
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {raw[:200]!r}")
        answer = json.loads(raw)
        return int(answer["usage"]["completion_tokens"])

    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                complete("once, to load", 4)
                break
            except (OSError, http.client.HTTPException, KeyError):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.5)
        channel.answer(server=server.pid)
        while True:
            asked = channel.receive()
            if asked["do"] != "crowd":
                break
            channel.answer(**crowd(complete, asked))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    leave()


def neolm(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """How to start NeoLM's, and what the model is called there."""
    rounded = ["--quantize", job["quantize"]] if job["quantize"] else []
    options = ["--dtype", job["dtype"], *rounded, "--device", job["device"], "--feedback", "off", "--port", port]
    options += ["--set", "text_memory=2"]
    return [sys.executable, "-m", "neolm", "serve", f"{NAME}={job['model']}", *options], NAME


def transformers(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """The same for transformers', with or without its continuous batching."""
    options = ["--host", "127.0.0.1", "--port", port, "--dtype", job["dtype"], "--device", job["device"]]
    batching = ["--continuous-batching"] if job["batching"] else []
    return [Path(sys.executable).parent / "transformers", "serve", job["model"], *options, *batching], job["model"]


def llama(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """The same for llama.cpp's."""
    threads, room = str(job["threads"]), str(MOST * 1024)
    options = ["--host", "127.0.0.1", "--port", port, "-t", threads, "-tb", threads, "-c", room, "-np", str(MOST)]
    return [job["program"], "-m", Path(job["model"]).parent / job["file"], *options, "--no-webui"], NAME


COMMANDS = {"neolm": neolm, "transformers": transformers, "llama.cpp": llama}


if __name__ == "__main__":
    main()
