"""Commands in the processes of torchrun."""

import json
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


RECIPE = {
    "seed": 3,
    "tokenizer": {"vocab_size": 300},
    "model": {
        **{"family": "gpt2", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 32},
        **{"residual_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0},
    },
    "evaluate": None,
}
PRETRAIN = {
    **{"steps": 30, "sequence_length": 32, "batch_size": 5, "precision": "float32", "compile": False},
    **{"log_every": 1, "validate_every": 10, "checkpoint_every": 5},
}


def small_recipe(place: Path, **pretrain: object) -> Path:
    """A recipe of a small pretraining without dropout, and its text, in `place`; its output is `place/one`."""
    text = "\n\n".join(f"Sentence {n} says that {n * n} is the square of {n}." for n in range(2000))
    (place / "text.txt").write_text(text)
    corpus = {"source": "files", "path": str(place / "text.txt"), "split_characters": 2000}
    recipe = RECIPE | {"output": str(place / "one"), "corpus": corpus, "pretrain": PRETRAIN | pretrain}
    (place / "recipe.yaml").write_text(json.dumps(recipe))
    return place / "recipe.yaml"
