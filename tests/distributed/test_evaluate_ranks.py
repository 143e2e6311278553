"""`neolm evaluate` over several processes gives the scores of one process, item by item."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluate_ranks import ON_TABLES, ON_TEXT, scores, write_models
from safetensors.torch import load_file, save_file
from samples import sample_text
from torchrun_command import TESTS, mistake, torchrun

from neolm.core.files import read_json
from neolm.core.manifest import MANIFEST
from neolm.core.ranks import OneRank
from neolm.pipeline import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    write_models(place)
    return place


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes of torchrun: products may round in another way in two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_scores_are_those_of_one_process(place: Path, tmp_path: Path) -> None:
    process = torchrun(place, tmp_path, script=TESTS / "evaluate_ranks.py")
    expected = json.loads(json.dumps(scores(place, OneRank())))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found, other = (read_json(tmp_path / f"scores-{rank}.json") for rank in (0, 1))
    assert {*found} == {*ON_TEXT, *ON_TABLES}
    assert len(found["decoder"]["per_document"]) == 7
    assert found["decoder"]["bits_per_byte"]["baselines"]
    first, second = (json.loads((tmp_path / f"computed-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == 7  # of an encoder masked tokens, sentence task and pseudo-perplexity; of a table one each
    assert all(0 <= one - two <= 1 for one, two in zip(first, second, strict=True))
    assert sum(second[:4]) > 4  # the tables are one batch
    assert found == expected
    assert not other["decoder"]["bits_per_byte"]["baselines"]  # rank 0 compresses
    assert other["decoder"]["loss"] == found["decoder"]["loss"]


def test_the_stage_of_a_run_is_built_by_all(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(sample_text(number, 300) for number in range(8)))
    recipe = {
        "output": str(tmp_path / "one"),
        "corpus": {"source": "files", "path": str(tmp_path / "text.txt"), "split_characters": 500},
        "tokenizer": {"vocab_size": 300},
        "model": {"family": "gpt2", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_position_embeddings": 32},
        "pretrain": {"steps": 2, "sequence_length": 32, "batch_size": 2, "precision": "float32", "compile": False},
        "evaluate": {"bootstrap_samples": 100, "precision": "float32"},
    }
    run(recipe, until="model")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    process = torchrun("run", tmp_path / "recipe.yaml", f"output={tmp_path / 'two'}")
    run(recipe)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed == f"{tmp_path / 'two' / 'report.html'}\n"
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "evaluation").iterdir() if path.name != MANIFEST}
        for name in ("one", "two")
    )
    assert two == one
    assert not [*(tmp_path / "two").glob(".*partial*")]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--text", "nothing"], "text: .*nothing does not exist"),
        (["--text", "texts"], "evaluation: the likelihood of document .* is not finite"),
    ],
)
def test_a_mistake_is_said_once(place: Path, tmp_path: Path, given: list[str], line: str) -> None:
    shutil.copytree(place / "decoder", tmp_path / "damaged")
    weights = load_file(place / "decoder" / "model.safetensors")
    weights["transformer.ln_f.bias"] = torch.full_like(weights["transformer.ln_f.bias"], torch.nan)
    save_file(weights, tmp_path / "damaged" / "model.safetensors")
    found = mistake("evaluate", tmp_path / "damaged", given[0], place / given[1], "--output", tmp_path / "s.json")
    assert re.match(line, found)
    assert not (tmp_path / "s.json").exists()
