"""Trackers: TensorBoard and Weights & Biases receive the rows of `metrics.jsonl` too (extra `[track]`).

An error of a tracker is reported in one line and never ends the training. Weights & Biases runs offline unless the user
is logged in or `WANDB_MODE` is set, and never prompts.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from neolm.core.errors import InputError, SettingError
from neolm.core.files import write_text
from neolm.core.progress import say

FINISH_SECONDS = 120.0  # limit of the wait for the last uploads at the end of a training


class Tracker(Protocol):
    """Stores or shows metrics. It is closed after its first error."""

    name: str

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row of `metrics.jsonl`: `step`, numbers, and text such as why a step was skipped."""

    def close(self) -> None:
        """Write or send what is pending."""


class TensorBoard:
    """Event files in `tensorboard/`, for `tensorboard --logdir`."""

    name = "TensorBoard"

    def __init__(self, directory: Path, settings: Mapping[str, Any], resume_at: int) -> None:
        """Continue after step `resume_at`: later steps of an earlier session are hidden."""
        module: Any = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(directory / "tensorboard"), purge_step=resume_at + 1)
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()), resume_at + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write and flush a row, so that a kill loses none before the checkpoint."""
        for key, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(key, value, row["step"])
            elif key != "step" and value is not None:
                self._writer.add_scalar(key, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of project `neolm` under `wandb/`; `wandb sync` sends it later if it was made offline."""

    name = "Weights & Biases"

    def __init__(self, directory: Path, settings: Mapping[str, Any], _resume_at: int) -> None:
        """Start the run, or continue the run whose id is in `wandb-run`.

        Raises:
            InputError: WANDB_MODE is online, but nobody is logged in.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports to its maker
        wandb: Any = importlib.import_module("wandb")
        mode = _mode(wandb)
        identity = directory / "wandb-run"
        if not identity.is_file():
            write_text(identity, secrets.token_hex(4) + "\n")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "neolm"),
            id=identity.read_text(encoding="utf-8").strip(),
            name=directory.resolve().parent.name,
            dir=str(directory),
            mode=mode,
            config=dict(settings),
            resume=None if mode == "offline" else "allow",  # offline, there is no server to ask
            settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
        )
        # An own axis: a resumed run repeats a few steps, and W&B's counter cannot go back.
        self._run.define_metric("*", step_metric="step")
        if mode == "offline":
            say(f"Weights & Biases: offline; upload with `wandb sync` from {directory / 'wandb'}")
        elif getattr(self._run, "url", None):
            say(f"Weights & Biases: {self._run.url}")

    def log(self, row: Mapping[str, Any]) -> None:
        """Queue a row, which is sent in the background."""
        self._run.log({key: value for key, value in row.items() if value is not None})

    def close(self) -> None:
        """Wait for the last uploads, at most two minutes."""
        self._run.finish()


def open_trackers(
    names: Sequence[str], directory: Path, settings: Mapping[str, Any], resume_at: int = 0
) -> list[Tracker]:
    """Open trackers for the training in `directory`, which continues after step `resume_at`.

    A tracker that cannot start (network, disk) is reported and left out.

    Raises:
        InputError: a package is missing, or see `WeightsAndBiases`.
    """
    found: list[Tracker] = []
    require_packages(names)
    for name in names:
        kind = TensorBoard if name == "tensorboard" else WeightsAndBiases
        try:
            found.append(kind(directory, settings, resume_at))
        except InputError:
            raise
        except Exception as error:  # the training must not depend on a tracker
            say(f"{kind.name} cannot be used ({first_line(error)}); metrics.jsonl is complete")
    return found


def require_packages(names: Sequence[str]) -> None:
    """Raise SettingError if the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise SettingError("track", f'{name} is not installed. Install it with pip install "neolm[track]"')


def _mode(wandb: Any) -> str:
    """`WANDB_MODE` if it is set; else online if the user is logged in, offline if not."""
    requested = os.environ.get("WANDB_MODE", "")
    if requested in ("offline", "dryrun", "disabled"):
        return requested.replace("dryrun", "offline")
    logged_in = bool(wandb.login(prompt=False, verify=False))
    if requested and not logged_in:
        raise InputError(
            f"WANDB_MODE is '{requested}', but nobody is logged in. Run `wandb login`, or set WANDB_MODE=offline"
        )
    return requested or ("online" if logged_in else "offline")


def first_line(error: Exception) -> str:
    """First line of an error message, or the name of the error without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
