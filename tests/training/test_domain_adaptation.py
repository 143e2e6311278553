"""Continued pretraining on a domain's text with replayed text, through the real command."""

import json
from pathlib import Path

import pytest
from encoder_runs import wordpiece_vocabulary
from samples import sample_text
from tiny_encoders import tiny_encoder
from tiny_models import tiny_decoder

import neolm
from neolm.core.errors import InputError
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    for name, numbers in (("domain", range(20)), ("general", range(40, 60))):
        (place / name).mkdir()
        for number in numbers:
            (place / name / f"{number}.txt").write_text(sample_text(number), encoding="utf-8")
    return place


def recipe(base: Path, texts: Path, output: Path, path: Path | None = None) -> dict[str, object]:
    pretrain = {
        **{"steps": 6, "sequence_length": 32, "batch_size": 8, "validate_every": 3, "validation_sequences": 4},
        **{"log_every": 1, "checkpoint_every": 3, "precision": "float32", "learning_rate": 1e-3},
        "replay": {"path": str(path or texts / "general"), "share": 0.25},
    }
    corpus = {"source": "files", "path": str(texts / "domain"), "validation_fraction": 0.3}
    return {"output": str(output), "base": str(base), "corpus": corpus, "pretrain": pretrain, "evaluate": None}


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_both_losses_are_logged(family: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    if family == "gpt2":
        tokenizer = train_tokenizer(map(sample_text, range(20)), 300)
        save_model(tiny_decoder("gpt2", 32, vocab_size=300, spread=0.05), base)
        tokenizer.save(base)
    else:
        base.mkdir()
        wordpiece_vocabulary(base, texts / "domain")
        size = load_tokenizer(base).size
        save_model(tiny_encoder("bert", vocab_size=size, head="pretraining", pooler=True, sentence_task="nsp"), base)
    output = tmp_path / "run"
    neolm.run(recipe(base, texts, output))
    said = capsys.readouterr().err
    assert "25% of the sequences are replayed" in said
    assert "before the training: replay validation loss" in said
    rows = [json.loads(line) for line in (output / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    validations = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validations] == [3, 6]
    assert all(row["replay_validation_loss"] != row["validation_loss"] for row in validations)
    manifest = json.loads((output / "pretrain" / "manifest.json").read_text())
    assert (
        manifest["inputs"]["replay"]["path"] == "../replay/shards" or "replay" in manifest["inputs"]["replay"]["path"]
    )
    neolm.run(recipe(base, texts, output))
    assert "pretrain: up to date" in capsys.readouterr().err


def test_replayed_text_that_is_missing_is_one_line(texts: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_model(tiny_decoder("gpt2", 32, vocab_size=300), base)
    train_tokenizer(map(sample_text, range(20)), 300).save(base)
    with pytest.raises(InputError, match=r"pretrain.replay.path: .*nothing"):
        neolm.run(recipe(base, texts, tmp_path / "run", tmp_path / "nothing"))
    assert not (tmp_path / "run" / "corpus").exists()
