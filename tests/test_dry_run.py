"""`neolm pretrain RECIPE --dry-run` as a person meets it."""

import json
from pathlib import Path

import pytest
from samples import sample_text
from test_cli import SMALL, Run, refused

from neolm.training import fit
from neolm.training.fit import Room

GIB = 2**30


def table(printed: str) -> dict[str, str]:
    """The rest of each row by its first cell."""
    rows = (line.strip().split("  ", maxsplit=1) for line in printed.splitlines())
    return {row[0]: " ".join(row[1].split()) for row in rows}


def test_it_says_what_a_training_takes_and_leaves_nothing(
    neolm_: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--accelerator", "a100", "--devices", 8, "--mfu", 0.5, "--watts", 500, "--pue", 1.2]
    code, printed, said = neolm_("pretrain", "gpt-neo-125m", "--dry-run", *options, "--grid-intensity", 0.1)
    assert code == 0, said
    rows = table(printed)
    assert rows["parameters"].startswith("125,198,592 85,028,352 without embeddings")
    assert rows["steps"].startswith("572,300 of 256 sequences of 2,048 tokens")
    assert rows["tokens"].startswith("300,050,022,400")
    flops = 300_050_022_400 * (6 * (12 * 12 * 768**2 + 768 * 50257) + 12 * 768 * 6 * (2048 + 256))
    seconds = flops / (8 * 312e12 * 0.5)
    assert rows["FLOPs"].startswith(f"{flops:.3g}")
    assert rows["time"].startswith(f"{seconds / 86400:.3g} days 8 x A100")
    kwh = seconds / 3600 * 8 * 0.5 * 1.2
    assert rows["energy"].startswith(f"{kwh:,.0f} kWh")
    assert rows["carbon"] == f"{kwh * 0.1:.1f} kg CO2e 0.1 kg a kWh"
    for part in ("weights", "gradients", "optimiser", "activations", "logits", "at least", "framework"):
        assert "iB" in rows[part]
    assert rows["A100 (80 GB)"].startswith("fits")
    assert not list(tmp_path.iterdir())


def test_overrides_count_and_this_machine_is_measured(
    neolm_: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neolm.dry_run.matrix_ceiling", lambda device, dtype: 2e12)
    code, printed, said = neolm_("pretrain", "text", "pretrain.steps=7", "tokenizer.vocab_size=300", "--dry-run")
    assert code == 0, said
    rows = table(printed)
    assert rows["steps"].startswith("7 of 16 sequences of 256 tokens")
    assert "vocabulary of 300" in rows["model"]
    assert "2 TFLOP/s (measured now)" in rows["time"]
    assert "this machine" in rows["time"]
    again = table(neolm_("pretrain", "text", "--dry-run", "--device-tflops", 3)[1])
    assert "3 TFLOP/s (as given)" in again["time"]


def test_a_machine_that_is_too_small_is_told_so(
    neolm_: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neolm.dry_run.room_on", lambda device: Room(5 * GIB))
    code, printed, _ = neolm_("pretrain", "gpt-neo-125m", "--dry-run", "--accelerator", "v100")
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
    monkeypatch.setattr(fit, "room_on", lambda device: Room(2**20))
    refused(neolm_(*run), "pretrain: this training needs", "1 MiB are free", "micro_batch_size=")
    assert not (tmp_path / "out" / "pretrain").exists()
    monkeypatch.setattr(fit, "room_on", lambda device: Room(2**16))
    refused(neolm_(*run), "no setting mends that")
    monkeypatch.undo()
    assert neolm_(*run)[0] == 0


def test_options_and_recipes_that_cannot_be(neolm_: Run, tmp_path: Path) -> None:
    dry = ["pretrain", "gpt2", "--dry-run"]
    refused(neolm_(*dry, "--accelerator", "a1000"), "accelerator", "did you mean 'a100'")
    refused(neolm_(*dry, "--mfu", 0), "mfu", "greater than 0")
    refused(neolm_(*dry, "--mfu", 1.5), "mfu", "less than or equal to 1")
    refused(neolm_(*dry, "--grid-intensity", -1), "grid_intensity")
    refused(neolm_("pretrain", "gpt2", "--mfu", 0.5), "--mfu", "--dry-run")
    refused(neolm_("pretrain", "gpt-neo-125", "--dry-run"), "no such recipe", "did you mean 'gpt-neo-125m'")
    refused(neolm_(*dry, "model.num_heads=7"), "not a multiple of num_heads 7")
    refused(neolm_(*dry, f"tokenizer.path={tmp_path / 'none'}"), "no such tokenizer")
    refused(neolm_("pretrain", "gpt2", f"output={tmp_path / 'out'}"), "corpus.path")


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
    rows = table(neolm_("pretrain", "text", path, "--dry-run", "--device-tflops", 1)[1])
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
