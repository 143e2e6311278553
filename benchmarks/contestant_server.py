"""An HTTP server of NeoLM, transformers or llama.cpp in a separate process, and its clients."""

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

from concurrent_clients import run_clients
from protocol import Channel, exit_process

MAX_SEQUENCES = 40  # slots of llama.cpp's server
MODEL_NAME = "model"


def main() -> None:
    channel = Channel()
    job = channel.job
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments, model = COMMANDS[job["server"]](job, str(port))
    threads = {"OMP_NUM_THREADS": str(job["threads"])}
    server = subprocess.Popen(
        [*map(str, arguments)], stdout=2, stderr=2, start_new_session=True, env={**os.environ, **threads}
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
                complete("loads the model", 4)
                break
            except (OSError, http.client.HTTPException, KeyError):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.5)
        channel.answer(server=server.pid)
        while True:
            command = channel.receive()
            if command["do"] != "run_clients":
                break
            channel.answer(**run_clients(complete, command))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    exit_process()


def neolm(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """Return the command that starts NeoLM's server, and the name of its model."""
    quantization = ["--quantize", job["quantize"]] if job["quantize"] else []
    options = ["--dtype", job["dtype"], *quantization, "--device", job["device"], "--feedback", "off", "--port", port]
    options += ["--set", "text_memory=2"]
    return [sys.executable, "-m", "neolm", "serve", f"{MODEL_NAME}={job['model']}", *options], MODEL_NAME


def transformers(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """Return the command of transformers' server, with or without continuous batching, and the name of its model."""
    options = ["--host", "127.0.0.1", "--port", port, "--dtype", job["dtype"], "--device", job["device"]]
    batching = ["--continuous-batching"] if job["batching"] else []
    return [Path(sys.executable).parent / "transformers", "serve", job["model"], *options, *batching], job["model"]


def llama(job: dict[str, Any], port: str) -> tuple[list[Any], str]:
    """Return the command of llama.cpp's server, and the name of its model."""
    threads, context = str(job["threads"]), str(MAX_SEQUENCES * 1024)
    options = ["--host", "127.0.0.1", "--port", port, "-t", threads, "-tb", threads]
    options += ["-c", context, "-np", str(MAX_SEQUENCES)]
    return [job["program"], "-m", Path(job["model"]).parent / job["file"], *options, "--no-webui"], MODEL_NAME


COMMANDS = {"neolm": neolm, "transformers": transformers, "llama.cpp": llama}


if __name__ == "__main__":
    main()
