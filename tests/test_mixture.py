"""A training on a mixture from the command line: shares in its manifest, lineage, and settings that are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from neolm.training.seen_documents import first_step_with

Command = Callable[..., tuple[int, str, str]]
SETTINGS = (
    *("tokenizer.vocab_size=280", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2"),
    *("pretrain.tokens=19200", "pretrain.sequence_length=32", "pretrain.batch_size=4", "pretrain.device=cpu"),
    *("pretrain.precision=float32", "pretrain.optimiser=adamw", "evaluate=null"),
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    rows = [
        {
            "id": f"{name}{n}",
            "text": f"{name} {n}: the sea was {'very ' * (n % 5)}cold.",
            "meta": {"pile_set_name": name},
        }
        for name, size in (("ArXiv", 60), ("Enron Emails", 20), ("Pile-CC", 90), ("diary", 30))
        for n in range(size)
    ]
    rows += [{**rows[0], "id": f"copy{n}"} for n in range(2)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def output(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "run"


def test_the_recipe_pile_trains_on_the_weights_and_names_what_is_missing(
    raw: Path, output: Path, neolm_: Command
) -> None:
    code, _, err = neolm_("run", "pile", f"corpus.path={raw}", f"output={output}", *SETTINGS)
    assert code == 0, err
    assert "mixture, in tokens: Pile-CC " in err
    assert "not read: diary (" in err
    assert "the others have their shares: PubMed Central 14.40%, Books3 12.07%" in err
    read = json.loads((output / "pretrain/manifest.json").read_text())["counts"]["mixture"]
    assert {*read} == {"ArXiv", "Enron Emails", "Pile-CC"}
    for name, weight in (("ArXiv", 8.96), ("Enron Emails", 0.14), ("Pile-CC", 18.11)):
        assert abs(read[name]["share"] - weight / 27.21) < 0.01
    assert sum(row["tokens"] for row in read.values()) == 19200
    training = {
        row["id"]: row["source"] for row in pq.read_table(output / "shards/train-00000.index.parquet").to_pylist()
    }
    diary = {name for name, source in training.items() if source == "diary"}
    assert first_step_with(output / "pretrain", diary) == (None, 150)
    step, _ = first_step_with(output / "pretrain", {name for name in training if name.startswith("ArXiv")})
    assert step == 1
    sheet, page = ((output / "corpus" / f"datasheet.{kind}").read_text("utf-8") for kind in ("md", "html"))
    shards = json.loads((output / "shards/manifest.json").read_text())["counts"]
    kept = sum(shards[split]["tokens"] for split in ("train", "validation"))
    assert f" {kept:,} tokens |" in sheet
    assert f"{kept:,} tokens" in page
    assert "| dropped: a copy of another document | 2 | " in sheet
    assert "about " in sheet.split("a copy of another document", 1)[1].split("\n")[0]
    indexes = pq.read_table(sorted((output / "shards").glob("*.index.parquet"))).to_pylist()
    diaries = sum(row["tokens"] for row in indexes if row["source"] == "diary")
    assert f" | {diaries:,} |" in next(line for line in sheet.splitlines() if line.startswith("| diary |"))
    code, out, err = neolm_("corpus", "drop", output, "--source", "diary", "--output", output.parent / "without")
    assert "saw none in its 150 steps" in out, err


def test_other_weights_keep_the_shards_but_not_the_training(raw: Path, output: Path, neolm_: Command) -> None:
    more = ("pretrain.mixture.preset=null", "pretrain.mixture.weights={diary: 1, Pile-CC: 3}")
    code, _, err = neolm_("run", "pile", f"corpus.path={raw}", f"output={output}", *SETTINGS, *more)
    assert code == 2
    assert "shards: up to date" in err
    assert "pretrain.mixture" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["weights={ArXiv: -2}"], "pretrain.mixture.weights.ArXiv: must be greater than or equal to 0, not -2"),
        (["weights={ArXiv: 0}"], "pretrain.mixture: weights: at least one source must have more than 0"),
        (["temperature=0"], "pretrain.mixture.temperature: must be greater than 0, not 0"),
        (["weights={Arxiv: 1}"], "pretrain.mixture.weights: no training document is from the source 'Arxiv'; did you "),
        (["tokens={ArXiv: 31}"], "mixture.tokens: 31 tokens of 'ArXiv' are fewer than one sequence of 32"),
        (["preset=pile", "temperature=2"], "not preset and temperature"),
    ],
)
def test_bad_mixtures(raw: Path, output: Path, neolm_: Command, more: list[str], message: str) -> None:
    settings = ["pretrain.mixture.preset=null", *(f"pretrain.mixture.{one}" for one in more)]
    code, _, err = neolm_("run", "pile", f"corpus.path={raw}", f"output={output}", *SETTINGS, *settings)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_an_encoder_is_refused(raw: Path, tmp_path: Path, neolm_: Command) -> None:
    code, _, err = neolm_(
        "run", "bert-desk", f"corpus.path={raw}", f"output={tmp_path}", "pretrain.mixture.temperature=2"
    )
    assert code == 2
    assert "pretrain.mixture: bert is an encoder" in err.splitlines()[-1]
    assert not (tmp_path / "corpus").exists()
