"""Mutated files of models, runs and corpora: every case ends in a result or in one line, in bounded memory and time."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from safetensors.torch import load_file
from samples import sample_text
from tiny_models import tiny_decoder

import neolm
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import train_tokenizer

HERE = Path(__file__).parent
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}User: {{ message['content'] | trim }}"
    "{% elif message.role == 'system' %}{{ raise_exception('no system') }}{% else %}{{ message.content }}"
    "{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}

# Mutations in the whole suite (`make test-all`): 100,000 in all. The default run does the first few of each.
CASES = {
    "config": 26_000,
    "weights": 8_000,
    "pickle": 3_000,
    "tokenizer": 36_000,
    "template": 1_000,
    "run": 4_000,
    "corpus": 22_000,
    "formats": 4_000,
}
FIRST = 60


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directories that are mutated, by target."""
    root = tmp_path_factory.mktemp("bases")
    tokenizer = train_tokenizer((sample_text(number) for number in range(40)), 330)
    for name in ("config", "weights", "pickle", "tokenizer", "template"):
        tokenizer.save(root / name)
        small = tiny_decoder("gpt-neo" if name == "config" else "gpt2", 16, hidden_size=8, num_heads=2, num_layers=2)
        save_model(small, root / name, max_shard_bytes=8000 if name == "weights" else 10**9)
    whole = root / "pickle" / "model.safetensors"
    torch.save(load_file(whole), whole.with_name("pytorch_model.bin"))
    whole.unlink()
    model = json.loads((root / "tokenizer" / "tokenizer.json").read_text())["model"]
    (root / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    (root / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    (root / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<|user|>": 330}))
    (root / "template" / "chat_template.jinja").write_text(TEMPLATE)
    _write_corpus(root / "corpus")
    _write_formats(root / "formats")
    texts = root / "texts"
    texts.mkdir()
    for number in range(12):
        (texts / f"{number}.txt").write_text(sample_text(number), encoding="utf-8")
    neolm.run(
        {
            "output": str(root / "run"),
            "corpus": {"source": "files", "path": str(texts), "validation_fraction": 0.2},
            "tokenizer": {"vocab_size": 300},
            "model": {"family": "gpt-neo", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "window_size": 8},
            "pretrain": {"steps": 4, "sequence_length": 16, "batch_size": 2, "device": "cpu", "checkpoint_every": 2},
            "evaluate": {"max_bytes": 500, "sample_tokens": 2, "bootstrap_samples": 100},
        }
    )
    return {name: root / name for name in CASES}


def _write_corpus(folder: Path) -> None:
    folder.mkdir()
    lines = [{"text": sample_text(number), "id": f"n{number}", "meta": {"n": number}} for number in range(6)]
    jsonl = "\n".join(json.dumps(line) for line in lines).encode()
    text = sample_text(1).encode()
    for name, content in (("a.txt", text), ("b.jsonl", jsonl)):
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        (folder / f"{name}.zst").write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(content))
    pq.write_table(pa.Table.from_pylist(lines), folder / "c.parquet")


def _write_formats(folder: Path) -> None:
    """A small file of each other format, of source code and of what states a licence."""
    folder.mkdir()
    text = sample_text(2)[:2000]
    message = (
        "From a@example.org Mon Jan  1 00:00:00 2024\nSubject: =?utf-8?q?one?=\nContent-Type: text/plain\n\nHi.\n\n"
    )
    article = f"<page><title>A</title><ns>0</ns><revision><text>{'A [[link|text]]. ' * 9}</text></revision></page>"
    record = "WARC/1.0\r\nWARC-Type: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{}\r\n\r\n"
    answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: identity\r\n\r\nA text of the web."
    records = (("conversion", "text/plain", text), ("response", "application/http; msgtype=response", answer))
    header = "/* SPDX-License-Identifier: (MIT OR Apache-2.0) */\n// Generated code\nint main() { return 0; }\n"
    members = {"a.txt": text, "b.jsonl": json.dumps({"text": text}), "deep/c.c": header, "d.csv": "text\n1\n"}
    files = {
        "a.csv": f'id,text\n1,"{text.replace(chr(34), "")}"\n2,two\n',
        "b.mbox": message * 3,
        "c.xml": f"<mediawiki><base>https://example.org/wiki/A</base>{article * 2}</mediawiki>",
        "d.warc": "".join(record.format(kind, mime, len(body.encode()), body) for kind, mime, body in records),
        "e/f.c": header,
        "e/LICENSE": "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007\n" * 3,
        "e/package.json": json.dumps({"name": "e", "license": {"type": "MIT"}}),
        "pyproject.toml": '[project]\nname = "e"\nlicense = {text = "MIT OR (BSD-2-Clause AND ISC)"}\n',
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")
    with zipfile.ZipFile(folder / "g.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with tarfile.open(folder / "h.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))


def run_cases(target: str, base: Path, scratch: Path, first: int, last: int) -> list[str]:
    """The failures among the cases `first` to `last - 1`, one line each."""
    failures, started = [], (first - 1, "the unchanged directory")
    while started[0] < last - 1:
        command = [sys.executable, str(HERE / "worker.py"), target, str(base), str(scratch)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(neolm.__file__).parents[1])])}
        done = subprocess.run(
            [*command, str(started[0] + 1), str(last)], capture_output=True, text=True, env=environment, check=False
        )
        lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
        failures += [f"{target} {seed} {rest}" for kind, seed, rest in lines if kind == "fail"]
        before = started
        started = max(((int(seed), rest) for kind, seed, rest in lines if kind == "start"), default=started)
        if done.returncode == 0:
            break
        failures.append(
            f"{target} {started[0]} {started[1]}: the process ended with {done.returncode}: {done.stderr[-300:]}"
        )
        assert started != before, failures  # not even one case was run
    return failures


@pytest.mark.parametrize("target", CASES)
def test_mutated_files_end_in_a_result_or_one_line(bases: dict[str, Path], tmp_path: Path, target: str) -> None:
    assert run_cases(target, bases[target], tmp_path, 0, FIRST) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", CASES)
def test_many_mutated_files_end_in_a_result_or_one_line(bases: dict[str, Path], tmp_path: Path, target: str) -> None:
    assert run_cases(target, bases[target], tmp_path, FIRST, CASES[target]) == []
