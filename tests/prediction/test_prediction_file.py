"""`prediction.json`: what it says holds, the command line comes before it, and mistakes are one line with the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import tiny_encoder

from neolm.core.errors import InputError
from neolm.core.model_files import PREDICTION_FILE, SMALL_FILES
from neolm.models.hf import save_model
from neolm.prediction.prediction_file import PredictionConfig, read_prediction_file, write_prediction_file

Call = Callable[..., tuple[int, str, str]]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    settings = PredictionConfig(task="span", null_threshold=-1.25, stride=64)
    write_prediction_file(tmp_path, settings)
    assert read_prediction_file(tmp_path, "span") == settings
    content = json.loads((tmp_path / PREDICTION_FILE).read_text())
    assert content["null_threshold"] == -1.25
    assert "word_labels" not in content  # belongs to another task
    assert PREDICTION_FILE in SMALL_FILES  # so that it is downloaded with a model


def test_overrides_come_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    write_prediction_file(tmp_path, PredictionConfig(task="span", null_threshold=2.0, stride=64))
    found = read_prediction_file(tmp_path, "span", ["null_threshold=null", "max_answer_tokens=8"])
    assert (found.null_threshold, found.max_answer_tokens, found.stride) == (None, 8, 64)
    assert read_prediction_file(tmp_path, "span", {"stride": 3}).stride == 3


@pytest.mark.parametrize(
    ("head", "task"), [("masked", "fill-mask"), ("pretraining", "fill-mask"), ("span", "span"), ("token", "tokens")]
)
def test_without_a_file_the_head_says_the_task(tmp_path: Path, head: str, task: str) -> None:
    assert read_prediction_file(tmp_path, head) == PredictionConfig.model_validate({"task": task})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "spam"}, "task: must be .*, not 'spam'; did you mean 'span'"),
        ({"stride": 3}, "task: this key must be given"),
        ({"task": "span", "null_treshold": 1}, "null_treshold: unknown key; did you mean 'null_threshold'"),
        ({"task": "span", "stride": 0}, "stride: must be greater than 0, not 0"),
        ({"task": "span", "null_threshold": "low"}, "null_threshold: must be a valid number, not 'low'"),
        ({"task": "span", "null_threshold": float("inf")}, "null_threshold: "),
        ({"task": "span", "word_labels": "all"}, "word_labels: has no meaning for the task 'span'"),
        ({"task": "tokens"}, "task: 'tokens' is not done by a model with the head 'span'"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / PREDICTION_FILE
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_prediction_file(tmp_path, "span")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_wrong_override_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^predict: strid: unknown key; did you mean 'stride'\?"):
        read_prediction_file(tmp_path, "span", ["strid=3"])
    with pytest.raises(InputError, match="predict: word_labels: has no meaning"):
        read_prediction_file(tmp_path, "span", ["word_labels=all"])


def test_import_and_export_keep_the_file(neolm_: Call, tmp_path: Path) -> None:
    save_model(tiny_encoder("bert", head="span", pooler=False), tmp_path / "model")
    write_prediction_file(tmp_path / "model", PredictionConfig(task="span", null_threshold=-1.25))
    for command, source, target in (("import", "model", "copy"), ("export", "copy", "out")):
        assert neolm_(command, tmp_path / source, tmp_path / target)[0] == 0
        assert read_prediction_file(tmp_path / target, "span").null_threshold == -1.25
