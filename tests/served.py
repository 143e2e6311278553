"""`neolm serve` in a thread or as a process, and tiny models whose answers vary."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tiny_models import tiny_decoder

from neolm.models.hf import save_model
from neolm.serving.server.app import create_app
from neolm.serving.server.connection import Connection
from neolm.serving.server.feedback import FeedbackStore
from neolm.serving.server.keys import KeyRing
from neolm.serving.server.response_schema import Completion
from neolm.serving.server.service import Service, open_models
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.tokenizer import train_tokenizer

TEXT = """User: What is the sea? Assistant: The sea is water, and more water under it. It was a bright cold day in
April, and the clocks were striking thirteen. def main(): return the sea, the day, the clock and the water of April."""


def write_model(directory: Path, seed: int = 0, context: int = 96, family: str = "gpt-neo") -> Path:
    fields = {"window_size": 24} if family == "gpt-neo" else {}
    save_model(tiny_decoder(family, context, seed, **fields), directory)
    train_tokenizer(iter([TEXT] * 3), 310).save(directory)
    return directory


@dataclass
class Running:
    """A running server."""

    url: str
    service: Service
    client: httpx.Client

    def ask(self, **body: Any) -> dict[str, Any]:
        """Request a completion that must succeed."""
        answer = self.client.post("/v1/completions", json={"model": "tiny", "temperature": 0, **body})
        assert answer.status_code == 200, answer.text
        Completion.model_validate(answer.json())
        return dict(answer.json())

    def error(self, path: str, body: Any, status: int = 400) -> dict[str, Any]:
        """Send a request that must fail, and return the error."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


@contextlib.contextmanager
def running(models: list[str], key: str | None = None, **fields: Any) -> Iterator[Running]:
    """Run a server with these settings in a thread."""
    settings = ServeConfig(**{"text_memory": 0.01, "preload": False} | fields)
    store = None if settings.feedback in ("off", None) else FeedbackStore(settings.feedback)
    keys = KeyRing(Path(settings.keys) if settings.keys else None)
    service = Service(settings, open_models(models, settings), keys, store)
    config = uvicorn.Config(create_app(service), http=Connection, port=0, log_config=None, ws="none", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield Running(url, service, client)
    finally:
        service.stop()
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server as a process; yield the process and its address."""
    command = [sys.executable, "-m", "neolm", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"(http://\S+)/ is the page", line):
                yield process, found[1]
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def waiting_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
