"""`neolm plan RECIPE` and `neolm pretrain RECIPE --dry-run` on the command line."""

import json
from pathlib import Path

import pytest
from samples import sample_text
from test_cli import SMALL, Run, assert_rejected

from neolm.scaling import plan_table
from neolm.training import memory_check
from neolm.training.memory_check import FreeMemory

GIB = 2**30


def table(printed: str) -> dict[str, str]:
    """The rest of each row by its first cell."""
    rows = (line.strip().split("  ", maxsplit=1) for line in printed.splitlines())
    return {row[0]: " ".join(row[1].split()) for row in rows}


def test_the_plan_of_a_training_is_printed_and_nothing_is_written(
    neolm_: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--accelerator", "a100", "--devices", 8, "--mfu", 0.5, "--watts", 500, "--pue", 1.2]
    code, printed, said = neolm_("plan", "gpt-neo-125m", *options, "--grid-intensity", 0.1)
    assert code == 0, said
    rows = table(printed)
    assert rows["parameters"].startswith("125,198,592 85,028,352 without embeddings")
    assert rows["steps"].startswith("572,300 256 sequences of 2,048 tokens each")
    assert rows["tokens"].startswith("300,050,022,400")
    flops = 300_050_022_400 * (6 * (12 * 12 * 768**2 + 768 * 50257) + 12 * 768 * 6 * (2048 + 256))
    seconds = flops / (8 * 312e12 * 0.5)
    assert rows["FLOPs"].startswith(f"{flops:.3g}")
    assert rows["time"].startswith(f"{seconds / 86400:.3g} days 8 x A100")
    kwh = seconds / 3600 * 8 * 0.5 * 1.2
    assert rows["energy"].startswith(f"{kwh:,.0f} kWh")
    assert rows["carbon"] == f"{kwh * 0.1:.1f} kg CO2e 0.1 kg per kWh"
    for part in ("weights", "gradients", "optimiser", "activations", "minimum", "framework"):
        assert "iB" in rows[part]
    assert rows["A100 (80 GB)"].startswith("fits")
    assert not list(tmp_path.iterdir())


def test_this_machine_is_measured_and_a_dry_run_prints_the_plan(neolm_: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_table, "matrix_ceiling", lambda device, dtype: 2e12)
    monkeypatch.setattr(plan_table, "free_memory_on", lambda device: FreeMemory(64 * GIB))
    settings = ("text", "pretrain.steps=7", "tokenizer.vocab_size=300")
    code, printed, said = neolm_("plan", *settings)
    assert code == 0, said
    rows = table(printed)
    assert rows["steps"].startswith("7 16 sequences of 256 tokens each")
    assert "vocabulary of 300" in rows["model"]
    assert "this machine" in rows["time"]
    assert "2 TFLOP/s (measured now)" in rows["time"]
    assert neolm_("pretrain", *settings, "--dry-run") == (0, printed, said)
    given = table(neolm_("plan", *settings, "--device-tflops", 3)[1])
    assert "3 TFLOP/s (given)" in given["time"]


def test_a_machine_that_is_too_small(
    neolm_: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_table, "free_memory_on", lambda device: FreeMemory(5 * GIB))
    code, printed, _ = neolm_("plan", "gpt-neo-125m", "--accelerator", "v100")
    assert code == 0
    rows = table(printed)
    assert rows["this machine"].startswith("too small this training needs")
    assert "it would fit with pretrain." in rows["this machine"]
    assert rows["V100"].startswith("fits")


def test_a_training_that_does_not_fit_is_refused_before_it_starts(
    neolm_: Run,
    tmp_path: Path,
    text_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ["pretrain", "text", f"corpus.path={text_folder}", f"output={tmp_path / 'out'}", *SMALL]
    monkeypatch.setattr(memory_check, "free_memory_on", lambda device: FreeMemory(2**20))
    assert_rejected(neolm_(*run), "pretrain: this training needs", "1 MiB are free", "micro_batch_size=")
    assert not (tmp_path / "out" / "pretrain").exists()
    monkeypatch.setattr(memory_check, "free_memory_on", lambda device: FreeMemory(2**16))
    assert_rejected(neolm_(*run), "no setting makes it fit")
    monkeypatch.undo()
    assert neolm_(*run)[0] == 0


WRONG: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "unknown accelerator": (("--accelerator", "a1000"), ("accelerator", "did you mean 'a100'")),
    "no utilisation": (("--mfu", 0), ("mfu", "greater than or equal to")),
    "more than the peak": (("--mfu", 1.5), ("mfu", "less than or equal to 1")),
    "negative intensity": (("--grid-intensity", -1), ("grid_intensity", "greater than or equal to 0")),
    "negative number of devices": (("--devices", -8), ("devices", "greater than 0")),
    "endless power": (("--watts", "inf"), ("watts",)),
    "a huge number of devices": (("--devices", 10**400), ("devices",)),
    "a tiny peak": (("--device-tflops", "1e-320"), ("device_tflops",)),
    "a huge length": ((f"pretrain.tokens={10**400}",), ("pretrain.tokens: must be at most",)),
    "a huge width": (("model.hidden_size=12000000000",), ("model.hidden_size: must be", "1048576")),
    "a huge number of layers": (("model.num_layers=100000000",), ("num_layers", "less than or equal to 1000")),
    "heads that do not divide the width": (("model.num_heads=7",), ("not a multiple of num_heads 7",)),
    "no tokenizer": (("tokenizer.path=none",), ("no such tokenizer",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_and_settings_are_one_line(neolm_: Run, name: str) -> None:
    arguments, words = WRONG[name]
    assert_rejected(neolm_("plan", "gpt2", *arguments), *words)


def test_recipes_that_cannot_be_planned(neolm_: Run, tmp_path: Path) -> None:
    assert_rejected(neolm_("plan", "gpt-neo-125"), "no such recipe", "did you mean 'gpt-neo-125m'")
    code, _, said = neolm_("pretrain", "gpt2", "--mfu", 0.5)
    assert (code, "No such option: --mfu" in said) == (2, True)
    corpus_only = tmp_path / "corpus.yaml"
    corpus_only.write_text(f"output: {tmp_path / 'out'}\ncorpus: {{source: files, path: {tmp_path}}}\n")
    assert_rejected(neolm_("plan", corpus_only), "the section 'pretrain' is missing")


def test_a_tokenizer_that_is_named_gives_the_vocabulary(
    neolm_: Run,
    tmp_path: Path,
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("\n\n".join(sample_text(number) for number in range(20)))
    made = neolm_("tokenizer", "train", "text", f"corpus.path={texts}", f"output={tmp_path / 'out'}", SMALL[0])
    assert made[0] == 0, made[2]
    path = f"tokenizer.path={tmp_path / 'out' / 'tokenizer'}"
    rows = table(neolm_("plan", "text", path, "--device-tflops", 1)[1])
    size = json.loads((tmp_path / "out" / "tokenizer" / "manifest.json").read_text())["counts"]
    assert "vocabulary of 300" in rows["model"], size


def test_the_recipes_are_listed(neolm_: Run) -> None:
    code, printed, _ = neolm_("config", "recipes")
    assert code == 0
    rows = table(printed)
    assert (
        rows["gpt-neox-20b"] == "GPT-NeoX-20B, 20.6B parameters on 472 billion tokens of the Pile (Black et al. 2022)"
    )
    assert "quickstart" in rows


def test_the_plan_of_a_study_is_that_of_one_training(neolm_: Run) -> None:
    options = ("--accelerator", "a100", "study.seeds=[1]")
    code, printed, said = neolm_("plan", "reproduce-albert", *options)
    assert code == 0, said
    assert printed.endswith("This is the recipe without its study, which has 13 trainings.\n")
