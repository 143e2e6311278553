"""Studies: several trainings of one recipe, which share corpus, tokenizer and shards."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_command
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import neolm
from neolm.core import artifact
from neolm.core.errors import InputError, NeoLMError
from neolm.core.manifest import chain, read_manifest
from neolm.core.output import claim_output
from neolm.pipeline import claimed
from neolm.recipe import load_recipe
from neolm.show import show
from neolm.study_config import StudyConfig, cell_directory

Run = Callable[..., tuple[int, str, str]]

CELLS = {"small": {}, "wide": {"model.hidden_size": 32, "pretrain": {"learning_rate": 1e-2}}}
MEASURED = ("tokens_per_second", "mfu", "memory_bytes")  # of the machine, not of the model


def recipe(output: Path, texts: Path, cells: dict[str, Any] | None = None, steps: int = 6) -> dict[str, Any]:
    return {
        "output": str(output),
        "corpus": {"source": "files", "path": str(texts), "validation_fraction": 0.2},
        "tokenizer": {"vocab_size": 300},
        "model": {"family": "gpt-neo", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "residual_dropout": 0.1},
        "pretrain": {
            "steps": steps,
            "sequence_length": 16,
            "batch_size": 4,
            "warmup_steps": 2,
            "log_every": 1,
            "checkpoint_every": 3,
            "validate_every": 3,
            "validation_sequences": 8,
        },
        "evaluate": None,
        "study": {"cells": CELLS if cells is None else cells, "seeds": [1, 5]},
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    return neolm.run(recipe(tmp_path_factory.mktemp("study") / "out", text_folder))


def test_a_cell_is_the_run_that_its_settings_describe(study: Path, tmp_path: Path, text_folder: Path) -> None:
    assert sorted(p.name for p in (study / "cells").iterdir()) == [
        "small-seed1",
        "small-seed5",
        "wide-seed1",
        "wide-seed5",
    ]
    plain = recipe(tmp_path / "plain", text_folder) | {"seed": 5}
    del plain["study"]
    plain["model"] = plain["model"] | {"hidden_size": 32}
    plain["pretrain"] = plain["pretrain"] | {"learning_rate": 1e-2}
    alone = neolm.run(plain)
    assert metrics(study / "cells" / "wide-seed5") == metrics(alone)
    assert metrics(study / "cells" / "wide-seed1") != metrics(alone)
    ours, theirs = (read_manifest(run / "model") for run in (study / "cells" / "wide-seed5", alone))
    assert ours is not None
    assert theirs is not None
    assert ours.outputs["model.safetensors"] == theirs.outputs["model.safetensors"]


def test_cells_share_stages_and_lead_back_to_the_raw_text(study: Path) -> None:
    cell = study / "cells" / "wide-seed5"
    stages = [manifest.stage for _, manifest in chain(cell / "model")]
    assert sorted(stages) == ["corpus", "model", "pretrain", "shards", "tokenizer"]
    places = {place.name: place for place, _ in chain(cell / "model")}
    assert places["shards"] == (study / "shards").resolve()
    assert str(study / "corpus") in show(cell)
    for stage in ("corpus", "tokenizer", "shards"):
        assert (cell / stage).is_symlink()
        assert not (cell / stage).readlink().is_absolute()
    manifest = read_manifest(cell / "pretrain")
    assert manifest is not None
    assert manifest.inputs["shards"].path == "shards"  # through the link, so that the study can be moved


def test_a_finished_study_is_up_to_date_also_where_it_was_moved(
    study: Path, tmp_path: Path, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-a", str(study), str(moved)], check=True)
    before = {path: path.stat().st_mtime_ns for path in moved.glob("cells/*/*/manifest.json")}
    neolm.run(recipe(moved, text_folder))
    said = capsys.readouterr().err
    assert said.count("pretrain: up to date") == said.count("model: up to date") == 4
    assert "shards: up to date" in said
    assert before == {path: path.stat().st_mtime_ns for path in moved.glob("cells/*/*/manifest.json")}
    assert str(moved / "shards") in show(moved / "cells" / "small-seed1")
    # the recipe that is kept in a cell is that of the cell alone
    cell = moved / "cells" / "small-seed1"
    neolm.run(cell / "recipe.yaml", {"output": str(cell)})
    assert "pretrain: up to date" in capsys.readouterr().err
    neolm.run(moved / "recipe.yaml", {"output": str(moved)})  # and that of the study is the whole study
    assert capsys.readouterr().err.count("model: up to date") == 4


def test_the_page_shows_every_cell(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    for name in ("small-seed1", "small-seed5", "wide-seed1", "wide-seed5"):
        assert name in page
    assert "learning_rate" in page
    assert "failed" not in page


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path: Path, text_folder: Path, neolm_: Run) -> None:
    cells = {"diverging": {"pretrain.learning_rate": 1e30}, **CELLS}
    path, output = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe(output, text_folder, cells)))
    code, _, said = neolm_("run", path, "study.seeds=[1]")
    assert code == 1, said
    assert said.splitlines()[-1].startswith(
        "neolm: 1 of 3 cells failed, 2 are finished: diverging, seed 1: step 2: the loss or its gradient is not finite"
    )
    assert "cell 2 of 3: small, seed 1; " in said
    assert " a cell so far, about " in said
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "diverging, seed 1, failed: step 2" in page
    # a mended recipe needs the directory of the failed training removed; then the failure is forgotten
    mended = ("study.seeds=[1]", "study.cells.diverging.pretrain.learning_rate=0.001")
    code, _, said = neolm_("run", path, *mended)
    assert code == 2
    assert f"{output / 'cells' / 'diverging-seed1' / 'pretrain'} holds a run with other settings" in said
    subprocess.run(["rm", "-r", str(output / "cells" / "diverging-seed1" / "pretrain")], check=True)
    code, _, said = neolm_("run", path, *mended)
    assert code == 0, said
    assert "failed" not in (output / "report.html").read_text(encoding="utf-8")
    assert not (output / "cells" / "diverging-seed1" / "failure.json").exists()


def lines_of(output: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in output.glob("cells/*/pretrain/metrics.jsonl"))


def stop(path: Path, output: Path, number: int, more: int) -> tuple[int, str]:
    """Start the study and send it the signal `number` after `more` rows of metrics; its exit code and its messages."""
    begun = lines_of(output)
    said = path.with_name("said.txt")
    process = forked_command.start(["run", path], said)
    while process.is_alive() and lines_of(output) < begun + more:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    return process.exitcode or 0, said.read_text()


def test_an_interrupted_or_killed_study_resumes_bit_for_bit(tmp_path: Path, text_folder: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    disturbed, calm = (recipe(tmp_path / name, text_folder, steps=30) for name in ("killed", "calm"))
    path, output = tmp_path / "study.yaml", tmp_path / "killed"
    path.write_text(yaml.safe_dump(disturbed))
    assert stop(path, output, signal.SIGKILL, chance.randint(1, 50))[0] == -signal.SIGKILL, f"seed {seed}"
    code, said = stop(path, output, signal.SIGINT, chance.randint(5, 30))
    assert code == 130, f"seed {seed}: {said}"
    if "stopped and saved" in said:  # the signal came during a training
        last = said.splitlines()[-1]
        assert " (cell " in last, last
        assert "the same command resumes there" in last
    assert stop(path, output, signal.SIGKILL, chance.randint(1, 15))[0] == -signal.SIGKILL, f"seed {seed}"
    neolm.run(path)
    neolm.run(calm)
    for name, number in ((name, number) for name in CELLS for number in (1, 5)):
        place = cell_directory(name, number)
        assert metrics(output / place) == metrics(tmp_path / "calm" / place), f"seed {seed}: {place}"
        assert not (output / place / "pretrain").is_symlink()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"model.hidden_siz": 8}, "model.hidden_siz: unknown key; did you mean 'hidden_size'?"),
        ({"model": {"hidden_size": "many"}}, "model.hidden_size: must be a valid integer, not 'many'"),
        ({"pretrain.steps": 0}, "pretrain.steps: must be greater than 0, not 0"),
        ({"pretrain.lr": -1}, "pretrain.learning_rate: must be greater than 0"),
        ({"modle.hidden_size": 8}, "modle: unknown key; did you mean 'model'?"),
        ({"corpus.path": "other"}, "corpus.path: corpus is the same in all cells"),
        ({"seed": 3}, "seed: seed is the same in all cells"),
        ({"model": None}, "pretrain needs a model"),
    ],
)
def test_a_wrong_setting_names_cell_key_and_line(
    cell: dict[str, Any], words: str, tmp_path: Path, text_folder: Path, neolm_: Run
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path / "out", text_folder, {"fine": {}, "odd": cell})))
    line = 1 + path.read_text().splitlines().index(next(x for x in path.read_text().splitlines() if "odd:" in x))
    code, _, said = neolm_("run", path)
    assert code == 2
    assert said.startswith(f"neolm: {path}:{line}: study.cells.odd")
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_sizes_that_do_not_fit_are_found_before_any_training(tmp_path: Path, text_folder: Path) -> None:
    with pytest.raises(InputError, match=r"study\.cells\.odd: .*num_heads"):
        neolm.run(recipe(tmp_path / "out", text_folder, {"fine": {}, "odd": {"model.num_heads": 3}}))
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": {"cells": {}}}, r"study\.cells: give at least one cell"),
        ({"study": {"cells": {"A b": {}}}}, "'A b' cannot name a cell"),
        ({"study": {"cells": {"../x": {}}}}, "cannot name a cell"),
        ({"study": {"cells": {"a": {}}, "seeds": []}}, r"study\.seeds: give at least one seed"),
        ({"study": {"cells": {"a": {}}, "seeds": [1, 1]}}, "none twice"),
        ({"study": {"cells": {"a": {}}, "sedes": [1]}}, r"study\.sedes: unknown key; did you mean 'seeds'"),
        ({"pretrain": None}, "study needs the sections model and pretrain"),
    ],
)
def test_a_study_that_cannot_be_run(changes: dict[str, Any], words: str, tmp_path: Path, text_folder: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(recipe(tmp_path, text_folder) | changes)


def test_other_shared_settings_are_refused_once_a_cell_was_started(study: Path, text_folder: Path) -> None:
    with pytest.raises(InputError, match=r"corpus would change .*cells/small-seed1/pretrain was started from it"):
        neolm.run(recipe(study, text_folder), ["corpus.min_characters=20", "study.cells.wide.pretrain.steps=3"])
    assert len(metrics(study / "cells" / "small-seed1")) == 8


def test_new_cells_after_a_change_of_the_code_use_the_shared_stages(
    tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(tmp_path / "out", text_folder, {"small": {}}, steps=1)
    output = neolm.run(made, ["study.seeds=[1]"])
    before = (output / "shards" / "manifest.json").read_bytes()
    monkeypatch.setattr(artifact, "code_digest", lambda room: f"changed {room}")
    neolm.run(made)
    assert (output / "shards" / "manifest.json").read_bytes() == before
    for stage in ("corpus", "tokenizer", "shards"):
        assert (output / "cells" / "small-seed5" / stage).is_symlink()


def test_a_study_and_a_cell_are_used_by_one_process_at_a_time(study: Path, text_folder: Path) -> None:
    with claimed(study), pytest.raises(InputError, match="in use by another run"):
        neolm.run(recipe(study, text_folder))
    with (
        claim_output(study / "cells" / "wide-seed5", ["model"]),
        pytest.raises(NeoLMError, match=r"1 of 4 cells failed, 3 are finished: wide, seed 5: .*in use by another run"),
    ):
        neolm.run(recipe(study, text_folder))
    neolm.run(recipe(study, text_folder))


def test_commands_for_parts_of_a_study(tmp_path: Path, text_folder: Path, neolm_: Run) -> None:
    path, output = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe(output, text_folder, steps=1)))
    code, printed, said = neolm_("tokenizer", "train", path)
    assert (code, printed) == (0, f"{output / 'tokenizer'}\n"), said
    assert sorted(p.name for p in output.glob("[!.]*")) == ["corpus", "recipe.yaml", "tokenizer"]
    code, _, said = neolm_("pretrain", path, "study.seeds=[1]")
    assert code == 0, said
    assert (output / "cells" / "wide-seed1" / "model" / "model.safetensors").is_file()
    assert not (output / "report.html").exists()
    code, printed, _ = neolm_("config", "study")
    assert code == 0
    assert "study.cells" in printed
    assert "study.seeds" in printed
    code, printed, _ = neolm_("config", "--schema")
    assert "StudyConfig" in json.loads(printed)["$defs"]


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), st.integers(0, 99)), unique=True))
def test_every_training_of_a_study_has_a_directory_of_its_own(trainings: list[tuple[str, int]]) -> None:
    places = [cell_directory(*training) for training in trainings]
    assert len(set(places)) == len(trainings)
    names = dict.fromkeys(name for name, _ in trainings)
    if names:
        seeds = tuple(dict.fromkeys(seed for _, seed in trainings))
        study = StudyConfig(cells={name: {} for name in names}, seeds=seeds)
        assert len(study.places) == len(names) * len(seeds) == len(set(study.places))
