"""Commands in the processes of torchrun."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent


def torchrun(
    *arguments: object, ranks: int = 2, restarts: int = 0, script: Path | None = None
) -> subprocess.Popen[str]:
    """Start `neolm` with these arguments, or a script, in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), *(["-m", "neolm"] if script is None else [str(script)])]
    command += map(str, arguments)
    places = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def worker(process: subprocess.Popen[str], checkpoints: Path) -> int:
    """The process of rank 1, once the training has a checkpoint."""
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return rank_of(process, 1)


def rank_of(process: subprocess.Popen[str], rank: int) -> int:
    """The process of a rank."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    return next(child for child in map(int, children.split()) if f"RANK={rank}".encode() in environment_of(child))


def environment_of(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def mistake(*arguments: object) -> str:
    """The only message of a command that fails in two processes, of which torchrun may end one on its way out."""
    process = torchrun(*arguments)
    printed, said = process.communicate(timeout=300)
    assert printed == ""
    assert process.returncode == 1  # of torchrun, whatever the ranks' exit codes are
    codes = set(re.findall(r"exitcode *: (-?\d+)", said))
    assert codes <= {"1", "-15"} or codes <= {"2", "-15"}, said
    (line,) = [text for text in said.splitlines() if text.startswith("neolm:")]
    return line.removeprefix("neolm: ")
