"""TensorBoard and Weights & Biases receive the rows of metrics.jsonl; their failures do not end a training."""

import importlib
import json
import sys
import time
import types
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.core.metrics import read_metrics
from neolm.training.metrics import MetricsLog
from neolm.training.trackers import Tracker, open_trackers, require_packages

SETTINGS = {"model": {"hidden_size": 8}, "pretrain": {"steps": 6, "track": ["tensorboard", "wandb"]}, "seed": 1}


def session(directory: Path, names: list[str], steps: range, loss: float) -> list[Tracker]:
    """Log these steps as a training does that resumes before the first of them."""
    trackers = open_trackers(names, directory, SETTINGS, resume_at=steps.start - 1)
    log = MetricsLog(directory / "metrics.jsonl", steps.start - 1, trackers)
    for step in steps:
        skipped = {"skipped": f"a spike at {step}"} if step == 2 else {}
        log.write(step=step, loss=loss, mfu=None, tokens=step * 10, **skipped)
    log.write(step=steps[-1], validation_loss=loss + 1)
    log.close()
    return trackers


# ---- any tracker ----


class Fake:
    """A tracker that fails when asked to."""

    name = "Fake"

    def __init__(self, fails_at: int = 0, fails_to_close: bool = False) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.fails_at, self.fails_to_close, self.closed = fails_at, fails_to_close, 0

    def log(self, row: Mapping[str, Any]) -> None:
        if self.fails_at and row["step"] >= self.fails_at:
            raise ConnectionError("the network is gone\nand much more about it")
        self.rows.append(row)

    def close(self) -> None:
        self.closed += 1
        if self.fails_to_close:
            raise OSError("disk full")


def test_a_tracker_that_fails_is_reported_once_and_the_training_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, late = Fake(), Fake(fails_at=3), Fake(fails_to_close=True)
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, [bad, good, late])
    for step in range(1, 6):
        log.write(step=step, loss=1.0)
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in good.rows] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in bad.rows] == [1, 2]
    assert (good.closed, bad.closed, late.closed) == (1, 0, 1)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "Fake has failed and was closed (the network is gone); metrics.jsonl is complete",
        "Fake has failed and was closed (disk full); metrics.jsonl is complete",
    ]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_an_error_with_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it could not be found
    said = rf'^track: {name} is not installed. Install it with pip install "neolm\[track\]"'
    with pytest.raises(InputError, match=said):
        require_packages([name])
    with pytest.raises(InputError, match=said):
        open_trackers([name], tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []
    assert open_trackers([], tmp_path, SETTINGS) == []


# ---- TensorBoard ----


def scalars(directory: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[tuple[int, str]]]]:
    """What TensorBoard shows of a directory: numbers and texts, by step."""
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    numbers = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): [
            (e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)
        ]
        for tag in tags["tensors"]
    }
    return numbers, texts


@pytest.fixture
def tensorboard() -> None:
    if find_spec("tensorboard") is None:
        pytest.skip("needs the package tensorboard, of the extra [track]")


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_shows_numbers_texts_and_settings(tmp_path: Path) -> None:
    session(tmp_path, ["tensorboard"], range(1, 5), loss=2.0)
    numbers, texts = scalars(tmp_path)
    assert numbers == {
        "loss": [(step, 2.0) for step in range(1, 5)],
        "tokens": [(step, step * 10.0) for step in range(1, 5)],
        "validation_loss": [(4, 3.0)],
    }
    assert texts["skipped"] == [(2, "a spike at 2")]
    ((_, settings),) = texts["settings"]
    assert json.loads(settings) == SETTINGS


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_after_a_resume_shows_each_step_once(tmp_path: Path) -> None:
    session(tmp_path, ["tensorboard"], range(1, 7), loss=2.0)  # killed at 6, with a checkpoint at 3
    session(tmp_path, ["tensorboard"], range(4, 8), loss=1.0)
    numbers, _ = scalars(tmp_path)
    assert numbers["loss"] == [(step, 2.0 if step < 4 else 1.0) for step in range(1, 8)]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row] == [*range(1, 8)]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_loses_no_row_to_a_kill(tmp_path: Path) -> None:
    (tracker,) = open_trackers(["tensorboard"], tmp_path, SETTINGS)
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": 2.0})
        assert scalars(tmp_path)[0]["loss"][-1] == (step, 2.0)  # and nothing was closed
    tracker.close()


def test_a_tracker_that_cannot_start_is_reported_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = StubWandb(tmp_path)
    wandb.install(monkeypatch)
    monkeypatch.setattr(wandb, "unreachable", True)
    assert open_trackers(["wandb"], tmp_path, SETTINGS) == []
    said = "Weights & Biases cannot be used (no answer); metrics.jsonl is complete"
    assert capsys.readouterr().err.strip() == said


# ---- Weights & Biases ----


class StubWandb:
    """What of the package wandb is used, keeping what it is asked."""

    def __init__(self, home: Path) -> None:
        self.home, self.key, self.unreachable = home, False, False
        self.started: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.finished = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("wandb")
        module.__spec__ = ModuleSpec("wandb", None)
        for name in ("login", "init", "Settings"):
            setattr(module, name, getattr(self, name))
        monkeypatch.setitem(sys.modules, "wandb", module)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("WANDB_MODE", "WANDB_PROJECT"):
            monkeypatch.delenv(name, raising=False)

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert (prompt, verify) == (False, False)  # never a question on a terminal, nor one to the network
        return self.key

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802 - as wandb calls it
        return settings

    def init(self, **arguments: Any) -> "StubWandb":
        if self.unreachable:
            raise ConnectionError("no answer.")
        self.started.append(arguments)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubWandb:
    stub = StubWandb(tmp_path)
    stub.install(monkeypatch)
    return stub


def test_wandb_is_offline_without_a_login(tmp_path: Path, wandb: StubWandb) -> None:
    directory = tmp_path / "my run" / "pretrain"
    directory.mkdir(parents=True)
    session(directory, ["wandb"], range(1, 4), loss=2.0)
    (started,) = wandb.started
    assert (started["mode"], started["resume"], started["name"]) == ("offline", None, "my run")
    assert started["config"] == SETTINGS
    assert started["dir"] == str(directory)
    assert wandb.rows[1] == {"step": 2, "loss": 2.0, "tokens": 20, "skipped": "a spike at 2"}
    assert wandb.rows[-1] == {"step": 3, "validation_loss": 3.0}
    assert wandb.finished == 1


def test_wandb_continues_the_same_run(tmp_path: Path, wandb: StubWandb) -> None:
    wandb.key = True
    session(tmp_path, ["wandb"], range(1, 4), loss=2.0)
    session(tmp_path, ["wandb"], range(3, 6), loss=2.0)
    first, second = wandb.started
    assert first["id"] == second["id"] == (tmp_path / "wandb-run").read_text().strip()
    assert [(s["mode"], s["resume"]) for s in wandb.started] == [("online", "allow")] * 2
    (tmp_path / "wandb-run").unlink()
    session(tmp_path, ["wandb"], range(1, 2), loss=2.0)
    assert wandb.started[2]["id"] != first["id"]


@pytest.mark.parametrize(
    ("key", "asked", "mode"),
    [
        (True, "offline", "offline"),
        (True, "dryrun", "offline"),
        (False, "disabled", "disabled"),
        (True, "online", "online"),
        (True, "", "online"),
    ],
)
def test_wandb_follows_its_environment_variable(
    tmp_path: Path, wandb: StubWandb, monkeypatch: pytest.MonkeyPatch, key: bool, asked: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", asked)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb.key = key
    open_trackers(["wandb"], tmp_path, SETTINGS)
    assert wandb.started[0]["mode"] == mode
    assert wandb.started[0]["project"] == "mine"


def test_online_without_a_login_is_an_input_error(
    tmp_path: Path, wandb: StubWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match=r"nobody is logged in\. Run `wandb login`, or set WANDB_MODE=offline"):
        open_trackers(["wandb"], tmp_path, SETTINGS)
    assert not wandb.started


def test_the_real_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("wandb") is None:
        pytest.skip("needs the package wandb, of the extra [track], which is too large for the extra [dev]")
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    directory = tmp_path / "my run" / "pretrain"
    directory.mkdir(parents=True)
    for steps in (range(1, 4), range(3, 6)):
        assert len(session(directory, ["wandb"], steps, loss=2.0)) == 1
    identity = (directory / "wandb-run").read_text().strip()
    kept = list((directory / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert kept
    while not all(path.stat().st_size > 500 for path in kept):  # its own process writes on for a moment
        time.sleep(0.05)
