"""`prediction.json` in a model directory: how the model predicts, as its fine-tuning has found.

A directory without the file predicts by the defaults of the task of its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neolm.core.config import Config, Overrides, Unit, load_config
from neolm.core.errors import InputError
from neolm.core.files import read_json, write_json
from neolm.core.model_files import PREDICTION_FILE
from neolm.tables.words import WordRule

Positive = Annotated[int, Field(gt=0)]
Task = Literal["fill-mask", "classification", "span", "tokens", "instruct", "choice"]
WordLabels = Literal["first", "all"]
LongText = Literal["windows", "truncate"]

HEADS: Mapping[Task, tuple[str, ...]] = {
    "fill-mask": ("pretraining", "masked"),
    "classification": ("sequence",),
    "span": ("span",),
    "tokens": ("token",),
    "instruct": ("language-model",),
    "choice": ("choice",),
}
"""The heads that do each task. A head whose file names no task does the first task that lists it."""

FIELDS: Mapping[Task, tuple[str, ...]] = {
    "fill-mask": (),
    "classification": (
        "pair",
        "temperature",
        "thresholds",
        "abstain_below",
        "abstain_label",
        "long_text",
        "window_tokens",
    ),
    "span": ("null_threshold", "max_question_tokens", "max_answer_tokens", "window_tokens", "stride"),
    "tokens": ("words", "word_labels", "window_tokens", "stride"),
    "instruct": ("prompt", "max_new_tokens"),
    "choice": ("text_column", "second_column", "option_columns", "temperature", "abstain_below", "window_tokens"),
}
"""The fields that each task reads besides `task`; others are refused."""


class PredictionConfig(Config):
    """How a model predicts."""

    task: Task
    """What the head was trained for."""
    pair: bool = False
    """Whether the model reads two texts together."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before they become probabilities (Guo et al. 2017)."""
    thresholds: Mapping[str, float] = {}
    """Of several labels: the probability from which each is predicted; 0.5 for those that are not named, and above 1
    for those that are never predicted."""
    abstain_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of one label: no label is given if the best one has a lower probability."""
    abstain_label: str | None = None
    """The label that is given then, such as "none of these"; null: none."""
    long_text: LongText = "windows"
    """A text that is too long is read in overlapping windows, whose logits are averaged; or only its beginning is."""
    null_threshold: float | None = None
    """A question is answered by "" if the score of no answer minus that of the best answer is above this; null: every
    question has an answer, as in SQuAD 1.1."""
    max_question_tokens: Annotated[Positive, Unit("tokens")] = 64
    """Longest question; a longer one is refused."""
    max_answer_tokens: Annotated[Positive, Unit("tokens")] = 30
    """Longest answer."""
    window_tokens: Annotated[Positive | None, Unit("tokens")] = None
    """Length of the windows into which a long text is cut, with [CLS], [SEP] and a question; null: the longest
    sequence that the model reads."""
    stride: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens of the text from the start of a window to that of the next; null: half of those that a window holds."""
    words: WordRule = "whole"
    """Words of a raw text: whole, where a mark between letters or digits joins them, as in U.S or Paris-based; or
    split, where each mark is a word."""
    word_labels: WordLabels = "first"
    """Tokens of a word from which its tag is read: the first one, or the mean over all."""

    prompt: str = ""
    """Text that is put before each text that is answered."""
    max_new_tokens: Annotated[Positive, Unit("tokens")] = 128
    """Longest answer that is written."""
    text_column: str = "text"
    """Column of the context in a table of questions with options."""
    second_column: str | None = None
    """Column of the text in front of each option."""
    option_columns: tuple[str, ...] = ()
    """Columns of the options, or one with lists of them; none: those that are called as usual."""

    @model_validator(mode="after")
    def _belongs_to_the_task(self) -> PredictionConfig:
        for name in sorted(self.model_fields_set - {"task", *FIELDS[self.task]}):
            raise ValueError(f"{name}: has no meaning for the task '{self.task}'")
        return self


def read_prediction_file(directory: Path, head: str, overrides: Overrides = ()) -> PredictionConfig:
    """The settings in `prediction.json`, or the defaults for the head if there is no such file.

    Args:
        directory: A model directory.
        head: The head of the model, one of those in `HEADS`.
        overrides: `key=value` texts from the command line, or a mapping, which replace what the file says.

    Raises:
        InputError: the file is broken, has unknown or meaningless keys, or is for another head.
    """
    path = directory / PREDICTION_FILE
    content: Mapping[str, Any] = {}
    if path.is_file():
        content = read_json(path)
        _validated(content, (), head, f"{path}: ")
    return default_settings(head, overrides, content)


def default_settings(head: str, overrides: Overrides = (), given: Mapping[str, Any] | None = None) -> PredictionConfig:
    """The settings for a head, replaced by those `given`, and these by the `overrides`. See `read_prediction_file`."""
    task = next(task for task, heads in HEADS.items() if head in heads)
    return _validated({"task": task, **(given or {})}, overrides, head, "predict: ")


def write_prediction_file(directory: Path, settings: PredictionConfig) -> None:
    """Write `prediction.json` with the fields that the task reads."""
    write_json(directory / PREDICTION_FILE, settings.model_dump(include={"task", *FIELDS[settings.task]}))


def _validated(content: Mapping[str, Any], overrides: Overrides, head: str, where: str) -> PredictionConfig:
    try:
        settings = load_config(PredictionConfig, content, overrides, where="")
        if head not in HEADS[settings.task]:
            raise InputError(f"task: '{settings.task}' is not done by a model with the head '{head}'")
        return settings
    except InputError as error:
        raise InputError(f"{where}{error}") from None
