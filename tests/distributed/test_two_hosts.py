"""Two hosts, which are network namespaces: the link between them is taken down and comes back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torchrun_command import small_recipe

from neolm.core.metrics import read_metrics
from neolm.pipeline import run

FIRST, SECOND = "10.99.87.1", "10.99.87.2"


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, str, str]]]:
    """Name, address and network interface of each of two connected namespaces."""
    names = [f"neolm-{os.getpid()}-{letter}" for letter in "ab"]
    if shutil.which("ip") is None or not ip("netns", "add", names[0]):
        pytest.skip("network namespaces need Linux, the command ip and the rights of root")
    found = [(names[0], FIRST, "left"), (names[1], SECOND, "right")]
    try:
        assert ip("netns", "add", names[1])
        assert ip("-n", names[0], "link", "add", "left", "type", "veth", "peer", "name", "right", "netns", names[1])
        for name, address, interface in found:
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            assert ip("-n", name, "link", "set", "lo", "up")
            assert ip("-n", name, "link", "set", interface, "up")
        yield found
    finally:
        for name in names:
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for process in left.stdout.split():
                os.kill(int(process), signal.SIGKILL)
        for name in names:
            ip("netns", "del", name)


def start(hosts: list[tuple[str, str, str]], place: Path) -> list[subprocess.Popen[str]]:
    """Start torchrun on both hosts, with one process each, whose stderr goes to the files `said-0` and `said-1`."""
    processes = []
    for number, (name, address, interface) in enumerate(hosts):
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29500", "--rdzv-id", place.name]
        # the namespaces have the same host name
        rendezvous += ["--rdzv-conf", f"is_host={int(number == 0)}", "--local-addr", address]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        command += ["--nproc-per-node", "1", *rendezvous, "-m", "neolm", "pretrain", str(place / "recipe.yaml")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
        command.append(f"output={place / 'two'}")
        with (place / f"said-{number}").open("w") as file:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file, text=True)
            )
    return processes


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_host_that_is_cut_off_is_named_and_the_run_goes_on_when_it_is_back(
    hosts: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    recipe = small_recipe(tmp_path, steps=500, log_every=10, checkpoint_every=10, parallel={"timeout": 10})
    checkpoints, said = tmp_path / "two" / "pretrain" / "checkpoints", [tmp_path / f"said-{n}" for n in range(2)]
    processes = start(hosts, tmp_path)
    wait_for(lambda: list(checkpoints.glob("step-*")), 180)
    assert ip("-n", hosts[1][0], "link", "set", hosts[1][2], "down")
    first = "neolm: rank 1 ended or cannot be reached .* The same command resumes from the last checkpoint"
    wait_for(
        lambda: re.search(first, said[0].read_text()), 60
    )  # 10 s, and the time to see whose heartbeat stands still
    wait_for(lambda: re.search("neolm: rank 1: rank 0 (ended or )?cannot be reached", said[1].read_text()), 60)
    assert processes[0].wait(120)
    processes[1].kill()  # torchrun itself waits for the other host for minutes
    processes[1].wait()

    assert ip("-n", hosts[1][0], "link", "set", hosts[1][2], "up")
    processes = start(hosts, tmp_path)
    assert [process.wait(300) for process in processes] == [0, 0], [file.read_text() for file in said]
    assert "resuming at step" in said[0].read_text()
    found = [
        [row["loss"] for row in read_metrics(output / "pretrain" / "metrics.jsonl") if "loss" in row]
        for output in (tmp_path / "two", run(recipe))
    ]
    assert len(found[0]) == 51
    assert found[0] == pytest.approx(found[1], abs=1e-4)
