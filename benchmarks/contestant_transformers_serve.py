"""`transformers serve` in a process of its own, and clients that ask it over HTTP from this one."""

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

from crowd import crowd
from protocol import Channel, leave


def main() -> None:
    channel = Channel()
    job = channel.job
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", job["model"], "--device", "cpu"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", job["dtype"]]
    batching = ["--continuous-batching"] if job["batching"] else []
    server = subprocess.Popen([*command, *options, *batching], stdout=2, stderr=2, start_new_session=True)

    def complete(text: str, tokens: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1200)
        body = {"model": job["model"], "prompt": text, "max_tokens": tokens, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return int(answer["usage"]["completion_tokens"])

    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                complete("once, to load", 4)
                break
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.5)
        channel.answer(server=server.pid)
        while True:
            command = channel.receive()
            if command["do"] != "crowd":
                break
            channel.answer(**crowd(complete, command))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    leave()


if __name__ == "__main__":
    main()
