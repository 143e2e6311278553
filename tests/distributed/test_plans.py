"""Every plan of several processes trains as one process does, and goes on from the checkpoint of any other plan."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from plan_ranks import CASES, Recorded, orthogonalise_exactly, small
from small_encoder import write_corpus
from small_training import numbers

from neolm.training import muon
from neolm.training.loop import train

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def _float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "choose_precision", muon.choose_precision)
        orthogonalise_exactly()
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    write_corpus(place)
    return place


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The trainings of one process."""
    place = tmp_path_factory.mktemp("one")
    for case in CASES:
        run = small(case, place, shards)
        train(replace(run, data=Recorded(run.data, run.directory / "examples-1-0.txt")))
    return place


def examples(directory: Path, ranks: int) -> list[list[str]]:
    """Step and examples of each batch, of all ranks together."""
    files = [path for rank in range(ranks) if (path := directory / f"examples-{ranks}-{rank}.txt").exists()]
    read = [sorted((line.split() for line in file.read_text().splitlines()), key=lambda r: int(r[0])) for file in files]
    return [[rows[0][0], *(example for row in rows for example in row[1:])] for rows in zip(*read, strict=True)]


def launch(ranks: int, plan: str, place: Path, shards: Path, cases: Sequence[str], stop: int = 0) -> list[str]:
    """Run the ranks, and return what each has written to stderr."""
    place.mkdir(exist_ok=True)
    script = [sys.executable, "-W", "error", str(TESTS / "plan_ranks.py")]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*script, *map(str, (rank, ranks, place, shards, plan, stop)), *cases],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    said = [process.communicate()[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    return said


def same(place: Path, one: Path, case: str) -> None:
    rows, expected = numbers(place / case), numbers(one / case)
    assert len(rows) == len(expected) == 24
    for row, other in zip(rows, expected, strict=True):
        for key, value in other.items():
            assert row[key] == pytest.approx(value, abs=1e-5 if "loss" in key else 1e-4), (case, row["step"], key)


MEASURED = ("communication_share", "slowest_rank")
FEW = ["gpt2", "albert-groups"]
DECODERS = ["gpt2", "gpt-neo", "gpt-neox"]
PLANS = [
    *((2, "", FEW), (2, "shard=2", ["gpt-neo", "bert", "albert-attention"]), (2, "context=2", ["gpt-neo"])),
    *((2, "tensor=2", ["gpt2", "gpt-neox", "albert"]), (4, "tensor=2,shard=2", ["gpt-neo"])),
    *((2, "pipeline=2", FEW), (2, "pipeline=2,chunks=2", ["gpt2-deep"])),
    (4, "pipeline=2,tensor=2", ["gpt2"]),
]
SLOW_PLANS = [
    *((2, "", [*CASES]), (2, "shard=2", [*CASES]), (4, "shard=2", [*CASES]), (4, "shard=4", [*CASES])),
    *((2, "tensor=2", [*CASES]), (2, "context=2", DECODERS)),
    *((2, "pipeline=2", [*CASES]), (4, "pipeline=2", [*CASES]), (4, "pipeline=2,shard=2", [*CASES])),
    (4, "pipeline=2,tensor=2", [*CASES]),
    *((4, "pipeline=4", ["gpt2-deep", "albert-groups"]), (2, "pipeline=2,chunks=2", ["albert-groups"])),
    *((4, "pipeline=2,context=2", ["gpt2"]), (4, "pipeline=2,chunks=2,shard=2", ["gpt2-deep", "albert-groups"])),
    *((4, "context=2", DECODERS), (4, "context=2,shard=2", DECODERS), (4, "context=4", DECODERS)),
    *((4, "tensor=2", [*CASES]), (4, "tensor=2,shard=2", [*CASES]), (4, "tensor=2,context=2", DECODERS)),
]


@pytest.mark.parametrize(
    ("ranks", "plan", "cases"),
    [*PLANS, *(pytest.param(*plan, marks=pytest.mark.slow) for plan in SLOW_PLANS)],
)
def test_plans_train_as_one_process(
    tmp_path: Path, shards: Path, one: Path, ranks: int, plan: str, cases: list[str]
) -> None:
    launch(ranks, plan, tmp_path / "run", shards, cases)
    for case in cases:
        same(tmp_path / "run", one, case)
        if "context" not in plan:
            assert examples(tmp_path / "run" / case, ranks) == examples(one / case, 1)
        assert len(list((tmp_path / "run" / case / "checkpoints").glob("step-*"))) == 2


@pytest.mark.parametrize(
    ("plans", "case"),
    [
        pytest.param(["shard=4", "", "shard=2"], "gpt-neo", marks=pytest.mark.slow),
        (["tensor=2,shard=2", "", "tensor=2"], "gpt-neo"),
        pytest.param(["pipeline=2,shard=2", "", "pipeline=2"], "albert-groups", marks=pytest.mark.slow),
        pytest.param(["tensor=4", "shard=3", "tensor=2"], "albert-groups", marks=pytest.mark.slow),
        pytest.param(["pipeline=2,tensor=2", "shard=3", "pipeline=2,chunks=2"], "gpt2-deep", marks=pytest.mark.slow),
        pytest.param(["pipeline=4", "", "pipeline=2"], "gpt2-deep", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_under_another_plan(tmp_path: Path, shards: Path, one: Path, plans: list[str], case: str) -> None:
    """From four processes to three, two and one, with the losses of one process and nothing but its rows."""
    place = tmp_path / "run"
    for ranks, plan, stop in zip((4, 3, 2), plans, (4, 9, 14), strict=True):  # rank 0 alone is interrupted
        launch(ranks, plan, place, shards, [case], stop)
        assert not (place / case / "metrics.jsonl").read_text().count('"step": 20')
    train(small(case, place, shards))
    same(place, one, case)


@pytest.mark.slow
def test_a_pipeline_with_dropout_goes_on_bit_for_bit(tmp_path: Path, shards: Path) -> None:
    """The stages draw different numbers, and each goes on with its own."""
    found = []
    for stops in ([0], [9, 0]):
        place = tmp_path / f"{len(stops)} launches"
        for stop in stops:
            launch(2, "pipeline=2", place, shards, ["dropout"], stop)
        rows = numbers(place / "dropout")
        found.append([{key: value for key, value in row.items() if key not in MEASURED} for row in rows])
    assert found[0] == found[1]


@pytest.mark.parametrize("plan", ["", pytest.param("pipeline=2", marks=pytest.mark.slow)])
def test_all_ranks_have_one_loss_scale(tmp_path: Path, shards: Path, plan: str) -> None:
    """Although their micro-batches have different numbers of tokens."""
    train(small("float16", tmp_path, shards))
    launch(2, plan, tmp_path / "run", shards, ["float16"])
    for row, other in zip(numbers(tmp_path / "run" / "float16"), numbers(tmp_path / "float16"), strict=True):
        assert row.get("loss", 0.0) == pytest.approx(other.get("loss", 0.0), abs=2e-3)
        assert row.get("grad_norm", 0.0) == pytest.approx(other.get("grad_norm", 0.0), rel=1e-2)


@pytest.mark.parametrize(
    ("plan", "step", "words"),
    [
        ("", 3, "on rank 1: first in the loss itself"),
        ("shard=2", 3, "divided over processes"),
        ("tensor=2", 3, "divided over processes"),
        ("pipeline=2", 1, "divided over processes"),  # the third micro-batch is of the first step
    ],
)
def test_a_loss_that_is_not_finite_on_one_rank_is_explained_by_all(
    tmp_path: Path, shards: Path, plan: str, step: int, words: str
) -> None:
    launch(2, plan, tmp_path / "run", shards, ["gpt-neo"], stop=-1)
    said = [(tmp_path / "run" / "gpt-neo" / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith(f"step {step}: the loss or its gradient is not finite")
    assert words in said[0]


@pytest.mark.parametrize("plan", ["", "shard=2"])
def test_the_slowest_rank_is_named(tmp_path: Path, shards: Path, plan: str) -> None:
    said = launch(2, plan, tmp_path / "run", shards, ["gpt2"], stop=-2)
    assert said[0].count("rank 1 is the slowest") == said[0].count("communication: ") == 1
    assert "rofiler" not in "".join(said)  # which prints lines of its own, unless told not to
    rows = [row for row in numbers(tmp_path / "run" / "gpt2") if "validation_loss" in row]
    assert [row["slowest_rank"] for row in rows] == [1] * 4
    assert all(0.1 < row["communication_share"] <= 1 for row in rows)


def test_a_rank_without_a_validation_batch_of_its_own(tmp_path: Path, shards: Path) -> None:
    """Two pipelines and a single validation batch: the stages of the second one compute it with weight zero."""
    train(small("one-validation", tmp_path / "one", shards))
    launch(4, "pipeline=2", tmp_path / "run", shards, ["one-validation"])
    found, expected = (
        [row["validation_loss"] for row in numbers(tmp_path / name / "one-validation") if "validation_loss" in row]
        for name in ("run", "one")
    )
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
