"""Weights on disk in a process whose memory is limited by a control group."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.hf import load_model, save_model

GROUPS = Path("/sys/fs/cgroup")
LIMIT = 900 * 2**20

SCRIPT = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from neolm.core.errors import InputError
from neolm.generation.batch import generate_ids
from neolm.generation.config import GenerationConfig
from neolm.models.hf import load_model
try:
    load_model(sys.argv[2], "cpu")
    sys.exit("it fits")
except InputError as error:
    print(error)
model = load_model(sys.argv[2], "cpu", offload="disk")
print(generate_ids(model, [[1, 2, 3, 4]], GenerationConfig(max_new_tokens=3, ignore_eos=True)))
"""


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group with less memory than the model takes."""
    first = GROUPS / "memory"
    place, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (GROUPS, "memory.max")
    group = place / f"neolm-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"needs the right to make a control group with a memory limit ({error})")
    yield group
    group.rmdir()


@pytest.mark.slow
def test_a_model_larger_than_memory_runs(tmp_path: Path, small_memory: Path) -> None:
    torch.manual_seed(1)
    config = DecoderConfig(
        family="gpt2",
        vocab_size=1000,
        max_position_embeddings=64,
        hidden_size=1536,
        num_layers=12,
        num_heads=12,
    )
    model = Decoder(config)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert size > LIMIT * 1.2
    save_model(model, tmp_path)
    del model
    command = [sys.executable, "-c", SCRIPT, str(small_memory), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--offload disk runs it slowly" in done.stdout
    assert "every token reads the rest again" in done.stderr
    from neolm.generation.batch import generate_ids
    from neolm.generation.config import GenerationConfig

    expected = generate_ids(
        load_model(tmp_path, "cpu"), [[1, 2, 3, 4]], GenerationConfig(max_new_tokens=3, ignore_eos=True)
    )
    assert done.stdout.splitlines()[-1] == str(expected)
