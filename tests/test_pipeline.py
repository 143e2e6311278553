"""Runs of recipes with few or many sections, rejected recipes, and the files that remain."""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import sample_text

import neolm
from neolm.core.errors import InputError
from neolm.core.manifest import read_manifest
from neolm.core.metrics import read_metrics
from neolm.recipe import load_recipe
from neolm.show import show

Run = Callable[..., tuple[int, str, str]]

TINY = {
    "tokenizer": {"vocab_size": 300},
    "model": {"family": "gpt-neo", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "window_size": 8},
    "pretrain": {"steps": 2, "sequence_length": 16, "batch_size": 2, "device": "cpu", "validation_sequences": 4},
    "evaluate": {"max_bytes": 500, "sample_tokens": 2, "bootstrap_samples": 100},
}


TEXTS = "notes #2: [old]"


def corpus_of(folder: Path) -> dict[str, object]:
    return {"source": "files", "path": str(folder), "validation_fraction": 0.2}


@dataclass(frozen=True)
class Place:
    """A directory and a copy of it. Runs record absolute paths, so that a finished run is used where it was made."""

    directory: Path
    copy: Path

    def restored(self) -> Path:
        shutil.rmtree(self.directory)
        return Path(shutil.copytree(self.copy, self.directory, symlinks=True))


def keep(directory: Path) -> Place:
    return Place(directory, Path(shutil.copytree(directory, directory.with_name("copy"))))


@pytest.fixture(scope="module")
def finished_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder of texts, and a run that was made of it."""
    place = tmp_path_factory.mktemp("finished") / "place"
    folder = place / TEXTS
    folder.mkdir(parents=True)
    for number in range(12):
        (folder / f"{number}.txt").write_text(sample_text(number), encoding="utf-8")
    neolm.run({"output": str(place / "run"), "corpus": corpus_of(folder), **TINY})
    return keep(place)


@pytest.fixture
def texts(finished_place: Place) -> Path:
    return finished_place.restored() / TEXTS


@pytest.fixture
def trained(texts: Path) -> Path:
    return texts.parent / "run"


def test_a_recipe_of_output_and_corpus_builds_the_corpus(texts: Path, tmp_path: Path, neolm_: Run) -> None:
    recipe = tmp_path / "corpus only.yaml"
    recipe.write_text(yaml.safe_dump({"output": str(tmp_path / "-run"), "corpus": corpus_of(texts)}))
    code, printed, stderr = neolm_("corpus", "build", recipe)
    assert (code, printed) == (0, f"{tmp_path / '-run' / 'corpus'}\n"), stderr
    for command, section in (("tokenizer train", "tokenizer"), ("pretrain", "pretrain")):
        code, printed, stderr = neolm_(*command.split(), recipe)
        assert (code, printed) == (2, ""), stderr
        assert f"recipe: the section '{section}' is missing" in stderr
    code, printed, stderr = neolm_("run", recipe)
    assert (code, printed) == (0, f"{tmp_path / '-run'}\n"), stderr
    assert sorted(path.name for path in (tmp_path / "-run").glob("[!.]*")) == ["corpus", "recipe.yaml"]


def test_sections_read_artefacts_of_earlier_runs(texts: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    neolm.run({"output": output, "corpus": corpus_of(texts)})
    neolm.run({"output": output, "tokenizer": TINY["tokenizer"]})
    neolm.run({"output": output, "model": TINY["model"], "pretrain": TINY["pretrain"], "evaluate": None})
    assert (tmp_path / "run" / "model" / "manifest.json").is_file()
    assert not (tmp_path / "run" / "evaluation").exists()
    neolm.run({"output": output, "evaluate": TINY["evaluate"]})
    assert (tmp_path / "run" / "evaluation" / "scores.json").is_file()


def test_a_stage_with_missing_inputs_is_rejected(tmp_path: Path) -> None:
    output = tmp_path / "run"
    for recipe, message in (
        ({"pretrain": TINY["pretrain"], "model": TINY["model"]}, "Add the section 'corpus'"),
        ({"evaluate": TINY["evaluate"]}, "evaluate: needs corpus"),
        ({"pretrain": TINY["pretrain"]}, "pretrain needs a model"),
        ({}, "recipe: a section is missing"),
    ):
        with pytest.raises(InputError, match=message):
            neolm.run({"output": str(output), **recipe})
    assert not output.exists()


def test_training_continues_from_a_base_model(trained: Path, texts: Path, tmp_path: Path) -> None:
    recipe = {"output": str(tmp_path / "more"), "base": str(trained / "model"), "corpus": corpus_of(texts)}
    more = neolm.run({**recipe, "pretrain": TINY["pretrain"], "evaluate": TINY["evaluate"]})
    first, later = (read_metrics(run / "pretrain" / "metrics.jsonl")[0]["loss"] for run in (trained, more))
    assert later < first
    manifest = read_manifest(more / "pretrain")
    assert manifest is not None
    assert manifest.inputs["base"].path == str(trained / "model")
    own, base = ((run / "tokenizer" / "tokenizer.json").read_bytes() for run in (more, trained))
    assert own == base
    assert "base" in load_recipe(more / "recipe.yaml").model_fields_set
    assert neolm.run(more / "recipe.yaml") == more
    measured = neolm.run({**recipe, "output": str(tmp_path / "measured"), "evaluate": TINY["evaluate"]})
    assert (measured / "evaluation" / "scores.json").is_file()
    assert not (measured / "model").exists()
    with pytest.raises(InputError, match="base brings its own architecture"):
        neolm.run({**recipe, "model": TINY["model"], "pretrain": TINY["pretrain"]})


def test_the_raw_text_is_not_needed_once_the_corpus_is_built(
    trained: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(trained / "evaluation")
    texts.rename(tmp_path / "elsewhere")
    assert neolm.run(trained / "recipe.yaml") == trained
    stderr = capsys.readouterr().err
    assert f"corpus: {texts} is no longer there" in stderr
    assert "pretrain: up to date" in stderr
    assert (trained / "evaluation" / "scores.json").is_file()


def test_an_interrupted_training_resumes_without_the_raw_text(texts: Path, tmp_path: Path) -> None:
    recipe = {"output": str(tmp_path / "run"), "corpus": corpus_of(texts), **TINY}
    recipe["pretrain"] = TINY["pretrain"] | {"steps": 4, "checkpoint_every": 2}
    run = neolm.run(recipe)
    weights = (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "model")
    (run / "pretrain" / "manifest.json").unlink()
    shutil.rmtree(max((run / "pretrain" / "checkpoints").glob("*4")))
    shutil.rmtree(texts)
    neolm.run(run / "recipe.yaml")
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    # its name has brackets, and what does not exist is read as a glob
    with pytest.raises(InputError, match=r"corpus\.path: .* has no text to read \(no files\)"):
        neolm.run(recipe | {"output": str(tmp_path / "another")})


def test_a_base_is_not_needed_once_the_training_has_a_checkpoint(
    trained: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TINY["pretrain"] | {"steps": 4, "checkpoint_every": 2}
    recipe = {"output": str(tmp_path / "more"), "base": str(trained), "corpus": corpus_of(texts), "pretrain": settings}
    more = neolm.run(recipe)
    weights, manifest = (more / "model" / "model.safetensors").read_bytes(), read_manifest(more / "pretrain")
    trained.rename(tmp_path / "elsewhere")
    shutil.rmtree(more / "model")
    (more / "pretrain" / "manifest.json").unlink()
    shutil.rmtree(more / "pretrain" / "checkpoints" / "step-00000004")
    assert neolm.run(recipe) == more
    assert (more / "model" / "model.safetensors").read_bytes() == weights
    later = read_manifest(more / "pretrain")
    assert manifest is not None
    assert later is not None
    assert later.inputs == manifest.inputs
    capsys.readouterr()
    neolm.run(recipe)
    stderr = capsys.readouterr().err
    assert stderr.count(f"pretrain: {trained / 'model'} is no longer there") == 1
    assert "pretrain: up to date" in stderr
    with pytest.raises(InputError, match="another: no such model directory"):
        neolm.run(recipe, {"base": str(tmp_path / "another")})
    shutil.rmtree(more / "pretrain" / "checkpoints")
    (more / "pretrain" / "manifest.json").unlink()
    with pytest.raises(InputError, match=f"{trained / 'model'}: no such model directory"):
        neolm.run(recipe)


def test_a_tokenizer_path_is_not_needed_once_it_is_copied(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    neolm.run({"output": str(tmp_path / "other"), "corpus": corpus_of(texts), "tokenizer": TINY["tokenizer"]})
    recipe = {"output": str(tmp_path / "run"), "corpus": corpus_of(texts), **TINY}
    recipe["tokenizer"] = {"path": "~/other/tokenizer"}
    neolm.run(recipe)
    shutil.rmtree(tmp_path / "other")
    neolm.run(recipe)
    assert "pretrain: up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="there is no such tokenizer"):
        neolm.run(recipe | {"output": str(tmp_path / "another")})


def spelled_recipes(change: Callable[[str], str], out: Callable[[str], str]) -> list[dict[str, object]]:
    corpus = corpus_of(Path("texts")) | {"path": change("texts")}
    first = {"output": out("one"), "corpus": corpus, **TINY, "tokenizer": {"path": change("words")}}
    base = {"output": out("two"), "corpus": corpus, "pretrain": TINY["pretrain"], "base": change("base")}
    return [first, base]


@pytest.fixture(scope="module")
def two_runs(finished_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Texts, a tokenizer and a base model, and two runs that name them with relative paths."""
    here = tmp_path_factory.mktemp("two runs") / "here"
    here.mkdir()
    for name, source in {"texts": TEXTS, "words": "run/tokenizer", "base": "run"}.items():
        shutil.copytree(finished_place.copy / source, here / name)
    with contextlib.chdir(here):
        for recipe in spelled_recipes(str, str):
            neolm.run(recipe)
    return keep(here)


@pytest.mark.parametrize("spelling", ["./{}", "{}/", "../here/{}", "{}/../{}", "absolute", "link", "moved"])
def test_other_spellings_of_the_same_paths_resume_a_run(
    spelling: str, two_runs: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = two_runs.restored()
    monkeypatch.chdir(here)

    def spelled(name: str) -> str:
        if spelling == "absolute":
            return str(here / name)
        if spelling == "link":
            Path(f"{name}-link").symlink_to(name)
            return f"{name}-link"
        if spelling == "moved":
            return str(shutil.copytree(name, f"{name}-moved", dirs_exist_ok=True))
        return spelling.format(name, name)

    for recipe in spelled_recipes(spelled, str if spelling == "moved" else spelled):
        neolm.run(recipe)
    said = capsys.readouterr().err
    for stage in ("corpus", "tokenizer", "shards", "pretrain", "model", "evaluation"):
        assert said.count(f"{stage}: up to date\n") == 2, said
    (Path("texts") / "0.txt").write_text(sample_text(99))
    with pytest.raises(InputError, match=r"would change \(path: 'texts', now '\./texts-2'\)"):
        shutil.copytree("texts", "texts-2")
        neolm.run(spelled_recipes(str, str)[0] | {"corpus": corpus_of(Path("texts")) | {"path": "./texts-2"}})


def test_a_missing_path_is_an_error_even_if_another_corpus_is_finished(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"output": str(tmp_path / "run"), "corpus": corpus_of(texts)}
    neolm.run(recipe)
    with pytest.raises(InputError, match=r"corpus\.path: nowhere does not exist"):
        neolm.run(recipe | {"corpus": corpus_of(Path("nowhere"))})
    assert "no longer there" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["notes #2", "-notes", "CC BY: 4.0", "[old] {x} *", "100%20?a=b&c", "yes", "1e3", "s3:#"]
)
def test_any_folder_name_is_a_path(
    texts: Path, tmp_path: Path, neolm_: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    texts.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    code, _, stderr = neolm_("corpus", "build", "text", f"corpus.path={name}", f"output=runs/{name}")
    assert code == 0, stderr
    manifest = read_manifest(tmp_path / "runs" / name / "corpus")
    assert manifest is not None
    assert manifest.counts["kept"]["documents"] == 12
    assert manifest.inputs["raw"].path == str(tmp_path / name)


@pytest.mark.parametrize(
    "override",
    ["pretrain.lr=1e-5", "corpus.min_characters=77", "seed=9", "model.num_heads=3", "tokenizer.vocab_size=301"],
)
def test_a_rejected_command_changes_nothing(trained: Path, override: str) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    with pytest.raises(InputError):
        neolm.run(trained / "recipe.yaml", [override])
    assert files() == before
    neolm.run(trained / "recipe.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.preset=gpt2-smal", "unknown preset 'gpt2-smal'"),
        ("model.num_heads=3", "not a multiple of num_heads 3"),
        ("model.hidden_size=null", "model.hidden_size"),
        ("model.vocab_size=10", "model.vocab_size"),
        ("tokenizer.path=nowhere", "nowhere"),
        ("pretrain.track=[wandb]", "track"),
        ("pretrain.compile=true", r"pretrain\.compile: "),
        ("corpus.path=nowhere", "corpus.path: nowhere does not exist"),
    ],
)
def test_mistakes_in_the_recipe_are_found_before_anything_is_built(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, message: str
) -> None:
    monkeypatch.setattr("neolm.core.device.compiler", lambda: None)
    recipe = {"output": str(tmp_path / "deep" / "run"), "corpus": corpus_of(texts), **TINY}
    with pytest.raises(InputError, match=message):
        neolm.run(recipe, [override])
    assert not (tmp_path / "deep").exists()


def test_american_spelling_of_optimiser() -> None:
    recipe = {"output": "x", **TINY}
    assert load_recipe(recipe, ["pretrain.optimizer=muon"]) == load_recipe(recipe, ["pretrain.optimiser=muon"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer.path": "TOKENIZER", "tokenizer.vocab_size": 999}, "tokenizer.vocab_size has no effect here"),
        ({"pretrain.momentum": 0.5}, "pretrain.momentum has no effect here, because optimiser is not muon"),
        ({"pretrain.precision": "float32", "pretrain.loss_scale": 2.0}, "pretrain.loss_scale has no effect here"),
        ({"pretrain.schedule": "constant", "pretrain.decay_steps": 1}, "pretrain.decay_steps has no effect here"),
        ({"pretrain.warmup_steps": 1, "pretrain.warmup_tokens": 64}, "pretrain.warmup_steps has no effect here"),
        ({"model.rotary_fraction": 0.5}, "model.rotary_fraction has no effect here, because gpt-neo has no rotary"),
        ({"model.attention_layers": ["global"]}, "model.window_size has no effect here"),
        ({}, ""),
    ],
)
def test_settings_without_effect_are_reported(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    if "tokenizer.path" in settings:
        settings = {**settings, "tokenizer.path": str(trained / "tokenizer")}
    capsys.readouterr()
    neolm.run(trained / "recipe.yaml", {"output": str(tmp_path / "other"), "evaluate": None, **settings})
    stderr = capsys.readouterr().err
    assert message in stderr
    assert ("has no effect" in stderr) == bool(message)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_training_without_a_readable_record_is_not_overwritten(
    trained: Path, text: str | None, finished: bool
) -> None:
    record = trained / "pretrain" / "config.json"
    record.unlink() if text is None else record.write_text(text)
    if not finished:
        (trained / "pretrain" / "manifest.json").unlink()
    before = {path: path.read_bytes() for path in (trained / "pretrain").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"pretrain holds .*config\.json is missing or damaged"):
        neolm.run(trained / "recipe.yaml", {"pretrain.learning_rate": 0.5, "evaluate": None})
    assert {path: path.read_bytes() for path in (trained / "pretrain").rglob("*") if path.is_file()} == before


def forget(file: Path, *keys: tuple[str, ...]) -> None:
    """Remove settings from a record, as if a version had written it that did not have them."""
    record = json.loads(file.read_text())
    for *place, key in keys:
        functools.reduce(lambda mapping, name: mapping[name], place, record).pop(key)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_of_an_older_version_goes_on(
    trained: Path, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    new = [("pretrain", "z_loss"), ("pretrain", "no_decay"), ("model", "attention_dropout")]
    forget(trained / "pretrain" / "config.json", *new)
    forget(trained / "corpus" / "manifest.json", ("config", "max_document_bytes"))
    manifest = trained / "pretrain" / "manifest.json"
    forget(manifest, *(("config", *key) for key in new)) if finished else manifest.unlink()
    capsys.readouterr()
    neolm.run(trained / "recipe.yaml", {"evaluate": None})
    said = capsys.readouterr().err
    assert "corpus: up to date" in said
    assert ("pretrain: up to date" in said) == finished
    for setting in ({"pretrain.z_loss": 0.1}, {"corpus.max_document_bytes": 1000}):
        with pytest.raises(InputError, match=next(iter(setting)).partition(".")[2] + ": .*, now "):
            neolm.run(trained / "recipe.yaml", {"evaluate": None, **setting})


def test_show_names_a_training_that_is_not_finished(trained: Path) -> None:
    assert "not finished" not in show(trained)
    (trained / "pretrain" / "manifest.json").unlink()
    assert f"pretrain  {trained / 'pretrain'}\n  started, not finished" in show(trained)


def test_the_recipe_is_that_of_the_run_as_soon_as_a_stage_is_built(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neolm.corpus.build._build", killed)
    new = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        neolm.run(trained / "recipe.yaml", {"output": str(new), "seed": 5})
    assert load_recipe(new / "recipe.yaml").seed == 5

    monkeypatch.setattr("neolm.training.pretrain.train", killed)
    for stage in ("pretrain", "model", "evaluation"):
        shutil.rmtree(trained / stage)
    with pytest.raises(KeyboardInterrupt):
        neolm.run(trained / "recipe.yaml", {"seed": 6})  # the stages before the training are up to date
    assert load_recipe(trained / "recipe.yaml").seed == 6


def test_a_setting_that_may_change_is_recorded_although_nothing_is_built(trained: Path) -> None:
    neolm.run(trained / "recipe.yaml", {"pretrain.log_every": 3})
    recipe = load_recipe(trained / "recipe.yaml")
    assert recipe.pretrain is not None
    assert recipe.pretrain.log_every == 3
