"""Read mutated files in one process: `python worker.py TARGET BASE SCRATCH FIRST LAST`.

Each seed from FIRST to LAST changes one file of a copy of BASE and calls the readers of TARGET. The process prints
`start SEED FILE` before each case, and `fail SEED FILE REASON` for a case that ends in something else than a result or
a NeoLMError. A case that exceeds its CPU time, or a crash, ends the process; the caller continues with the next seed.
"""

from __future__ import annotations

import io
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from mutations import Mutate, mutated_bytes, mutated_json, mutated_template, mutated_text

from neolm.core.errors import NeoLMError
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filter_config import CodeConfig
from neolm.corpus.records import read_records
from neolm.corpus.sources import find_files
from neolm.data.shards import TokenShards
from neolm.models.hf import load_model
from neolm.recipe import load_recipe
from neolm.report.compare import compare_runs
from neolm.report.run_report import build_report
from neolm.show import show
from neolm.tokenizer.chat import Message
from neolm.tokenizer.chat_files import load_chat_template
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.training.checkpoint import last_checkpoint

CPU_SECONDS = 20  # of one case; most need a few milliseconds
MEMORY = 2**30  # that a case may add to the address space of the process
GROWTH = 2**28  # of the resident memory over all cases


def read_model(directory: Path, base: Path) -> None:
    """Load the model and run it."""
    model = load_model(directory, device="cpu")
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64))


def read_tokenizer(directory: Path, base: Path) -> None:
    """Load the tokenizer and use it."""
    tokenizer = load_tokenizer(directory)
    for special in (False, True):
        tokenizer.decode(tokenizer.encode("Thé <|endoftext|> tokens\n", special))
    tokenizer.encode_bytes(b"a\xff")


def read_template(directory: Path, base: Path) -> None:
    """Render a conversation."""
    template = load_chat_template(directory, load_tokenizer(directory))
    template.encode([Message("user", "hi"), Message("assistant", "ho"), Message("user", "<|endoftext|>")])


def read_output(directory: Path, base: Path) -> None:
    """Show, report and reopen a run."""
    failure = None
    for read in (
        lambda: show(directory, True),
        lambda: build_report(directory),
        lambda: compare_runs([directory, base], directory / "compare.html"),
        lambda: load_recipe(str(directory / "recipe.yaml")),
        lambda: last_checkpoint(directory / "pretrain" / "checkpoints", "step"),
        lambda: _read_shards(directory / "shards"),
    ):
        try:
            read()
        except NeoLMError as error:
            failure = error
    if failure is not None:
        raise failure


def _read_shards(directory: Path) -> None:
    shards = TokenShards(directory, "train", 300)
    shards.read(0, shards.tokens)
    shards.documents(0, shards.tokens)


def read_corpus(directory: Path, base: Path) -> None:
    """Read every record."""
    config = CorpusConfig(source="files", path=str(directory), code=CodeConfig(), licences=("MIT", "unknown"))
    for file in find_files(config, directory / "output").files:
        for record in read_records(file, config):
            assert isinstance(record.text, str)


@dataclass(frozen=True)
class Target:
    """Files of a directory that are mutated, and what reads the directory."""

    files: dict[str, Mutate]  # by pattern
    read: Callable[[Path, Path], None]


TARGETS = {
    "config": Target({"config.json": mutated_json, "generation_config.json": mutated_json}, read_model),
    "weights": Target({"*.index.json": mutated_json, "*.safetensors": mutated_bytes}, read_model),
    "pickle": Target({"pytorch_model.bin": mutated_bytes}, read_model),
    "tokenizer": Target(
        {
            "tokenizer*.json": mutated_json,
            "special_tokens_map.json": mutated_json,
            "added_tokens.json": mutated_json,
            "vocab.json": mutated_json,
            "merges.txt": mutated_text,
        },
        read_tokenizer,
    ),
    "template": Target({"chat_template.jinja": mutated_template, "tokenizer_config.json": mutated_json}, read_template),
    "run": Target(
        {
            "**/manifest.json": mutated_json,
            "**/checkpoint.json": mutated_json,
            "pretrain/config.json": mutated_json,
            "evaluation/*.json": mutated_json,
            "pretrain/metrics.jsonl": mutated_text,
            "recipe.yaml": mutated_text,
            "shards/*": mutated_bytes,
        },
        read_output,
    ),
    "corpus": Target({"*": mutated_bytes, "*.jsonl": mutated_text, "*.txt": mutated_text}, read_corpus),
    "formats": Target(
        {
            "*.*": mutated_bytes,
            "[a-d].*": mutated_text,
            "e/*": mutated_text,
            "pyproject.toml": mutated_text,
            "e/package.json": mutated_json,
        },
        read_corpus,
    ),
}


def main(target: Target, base: Path, scratch: Path, first: int, last: int) -> None:
    """Run the cases. Memory is limited after a first, unchanged case, which must succeed."""
    torch.set_num_threads(1)
    shutil.copytree(base, scratch, dirs_exist_ok=True)
    target.read(scratch, base)
    size, resident = _pages(0), _pages(1)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    for seed in range(first, last):
        random = Random(seed)
        pattern = random.choice(list(target.files))
        files = sorted(path for path in scratch.glob(pattern) if path.is_file())
        path = random.choice(files)
        original = path.read_bytes()
        print("start", seed, path.relative_to(scratch), flush=True)
        try:
            path.write_bytes(target.files[pattern](original, random))
            reason = _outcome(target, scratch, base)
        finally:
            path.write_bytes(original)
        if reason:
            print("fail", seed, path.relative_to(scratch), reason, flush=True)
    grown = _pages(1) - resident
    if grown > GROWTH:
        print("fail", last, "all", f"the process has grown by {grown / 2**20:.0f} MiB")


def _outcome(target: Target, directory: Path, base: Path) -> str | None:
    """None if the readers return or raise one line for the user; else where they failed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    try:
        with redirect_stderr(io.StringIO()):
            target.read(directory, base)
    except NeoLMError as error:
        return None if "\n" not in str(error) else f"several lines: {error}"
    except BaseException as error:
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:150]!r} at {' '.join(places[-4:])}"
    return None


def _pages(column: int) -> int:
    """Bytes of the address space (column 0) or of the resident memory (1) of this process."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


if __name__ == "__main__":
    main(TARGETS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
