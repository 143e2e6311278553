"""Where the rows of `metrics.jsonl` also go, for who asks: TensorBoard and Weights & Biases, in the extra `[track]`.

A tracker is a second place, never the first: what one of them cannot do costs a line on the terminal, not the training.
Weights & Biases runs without a network unless the user is logged in or `WANDB_MODE` says otherwise, and asks nothing.
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

from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.progress import say

FINISH_SECONDS = 120.0  # how long the end of a training waits for what is still to be sent


class Tracker(Protocol):
    """Something that keeps or shows metrics; any error of its methods is its end, and nobody else's."""

    name: str

    def log(self, row: Mapping[str, Any]) -> None:
        """Take a row of `metrics.jsonl`: `step`, numbers, and perhaps text such as why a step was skipped."""
        ...

    def close(self) -> None:
        """Write or send what is still to be written or sent."""
        ...


class TensorBoard:
    """Event files in `tensorboard/`, for `tensorboard --logdir`."""

    name = "TensorBoard"

    def __init__(self, directory: Path, settings: Mapping[str, Any], resume_at: int) -> None:
        """Go on after step `resume_at`: what an earlier session wrote of later steps is no longer shown."""
        module: Any = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(directory / "tensorboard"), purge_step=resume_at + 1)
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()), resume_at + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row and flush it, so that a kill loses none before the checkpoint."""
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, row["step"])
        for key, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(key, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of project `neolm` under `wandb/`; `wandb sync` sends it later if it was made offline."""

    name = "Weights & Biases"

    def __init__(self, directory: Path, settings: Mapping[str, Any], _resume_at: int) -> None:
        """Start the run, or go on with it: its id is in `wandb-run`, beside the checkpoints.

        Raises:
            InputError: WANDB_MODE asks for the network, but nobody is logged in.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own crash reports, which leave the machine
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
            resume=None if mode == "offline" else "allow",  # offline there is nothing to ask
            settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
        )
        # Our own axis: a resumed run makes a few steps again, and W&B's own counter cannot go back.
        self._run.define_metric("*", step_metric="step")
        if mode == "offline":
            say(f"Weights & Biases: offline; `wandb sync` sends what is in {directory / 'wandb'}")
        elif getattr(self._run, "url", None):
            say(f"Weights & Biases: {self._run.url}")

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row over; it is sent in the background."""
        words = {key: value for key, value in row.items() if isinstance(value, str)}
        self._run.log({"step": row["step"], **_numbers(row), **words})

    def close(self) -> None:
        """Wait for what is still to be sent, two minutes at the most."""
        self._run.finish()


def open_trackers(
    names: Sequence[str], directory: Path, settings: Mapping[str, Any], resume_at: int = 0
) -> list[Tracker]:
    """The trackers of these names for the training in `directory`, which goes on after step `resume_at`.

    One that cannot start for another reason than the user's (the network, the disk) is said and left out.

    Raises:
        InputError: a package is missing; the message says what to install. Or see `WeightsAndBiases`.
    """
    found: list[Tracker] = []
    require_packages(names)
    for name in names:
        kind = TensorBoard if name == "tensorboard" else WeightsAndBiases
        try:
            found.append(kind(directory, settings, resume_at))
        except InputError:
            raise
        except Exception as error:  # whatever it is, the training matters more
            say(f"{kind.name} cannot be used ({_first_line(error)}); metrics.jsonl has everything")
    return found


def require_packages(names: Sequence[str]) -> None:
    """Make sure that the packages of these trackers are there, before anything is begun.

    Raises:
        InputError: one is not; the message says what to install.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(f'pretrain.track: {name} is not installed: pip install "neolm[track]"')


def say_lost(tracker: Tracker, error: Exception) -> None:
    """Say that a tracker failed and is asked no more."""
    say(f"{tracker.name} has stopped ({_first_line(error)}); metrics.jsonl goes on")


def _mode(wandb: Any) -> str:
    """`WANDB_MODE` if it is set; else online for who is logged in, offline for who is not."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("offline", "dryrun"):
        return "offline"
    if asked == "disabled":
        return asked
    logged_in = bool(wandb.login(prompt=False, verify=False))
    if not asked:
        return "online" if logged_in else "offline"
    if not logged_in:
        raise InputError(f"WANDB_MODE is '{asked}', but nobody is logged in: `wandb login`, or WANDB_MODE=offline")
    return asked


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and isinstance(value, (int, float))}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
