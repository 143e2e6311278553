"""Policies: what is read, what is refused and how, canaries, digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import write_classifier, write_encoder
from word_classifier import CATEGORY, write_policy, write_word_classifier

from neolm.core.errors import InputError, NonFiniteError
from neolm.moderation.moderator import Moderator, Score, highest, strictest

COLD = {"text": "the cold sea", "category": "coldness", "expected": True}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        Moderator(path)
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "blok"}, ":2: mode: must be 'observe', 'flag' or 'block', not 'blok'; did you mean 'block'?"),
        ({"mod": "block"}, "unknown key; did you mean 'mode'?"),
        ({"version": None}, ": version: this key must be given"),
        ({"categories": {}}, "categories: must have at least 1 item"),
        ({"categories": {"x": {**CATEGORY, "treshold": 0.5}}}, "categories.x.treshold: unknown key; did you mean 'thr"),
        ({"categories": {"x": {**CATEGORY, "threshold": 1.5}}}, ".x.threshold: must be less than or equal to 1"),
        ({"categories": {"x": {**CATEGORY, "threshold": 0}}}, ".x.threshold: must be greater than 0, not 0"),
        ({"categories": {"x": {**CATEGORY, "answer": "hide"}}}, ".x.answer: must be 'allow', 'flag' or 'block', not"),
        ({"categories": {"x": {**CATEGORY, "openai": "rude"}}}, ".x.openai: must be 'harassment'"),
        ({"categories": {"x": {**CATEGORY, "perspective": "RUDE"}}}, ".x.perspective: must be 'TOXICITY'"),
        ({"categories": {"x": {**CATEGORY, "labels": []}}}, "categories.x.labels: "),
        ({"categories": {"x": {**CATEGORY, "model": "wrds"}}}, "categories.x.model: no model 'wrds'; there are words"),
        ({"canaries": [COLD, {**COLD, "expect": 1}]}, "canaries.1.expect: unknown key; did you mean 'expected'?"),
        (
            {"canaries": [COLD, {**COLD, "category": "heat"}]},
            "canaries.1.category: no category 'heat'; there are coldn",
        ),
        ({"canaries": [COLD, {**COLD, "text": " "}]}, "canaries: the text is empty"),
    ],
)
def test_wrong_keys_are_named_with_their_place(policy: Callable[..., Path], keys: Any, message: str) -> None:
    canaries = {} if "canaries" in keys else {"canaries": None}
    assert message in refused(policy(**(canaries | keys)))


def test_a_wrong_key_in_a_category_has_its_line(policy: Callable[..., Path]) -> None:
    path = policy(canaries=None, categories={"x": {**CATEGORY, "threshold": "high"}})
    line = 1 + path.read_text().split("\n").index("    threshold: high")
    assert refused(path).startswith(f":{line}: categories.x.threshold: ")


def test_a_category_that_is_given_twice_is_refused(policy: Callable[..., Path]) -> None:
    path = policy(canaries=None)
    text = path.read_text()
    start = text.index("  coldness:")
    path.write_text(text + text[start:])
    assert "the key 'coldness' is given twice" in refused(path)


def test_models_that_cannot_judge_are_refused(policy: Callable[..., Path], tmp_path: Path) -> None:
    assert ": models.words: " in refused(policy(models={"words": "nowhere"}))
    assert "no such model directory" in refused(policy(models={"words": "nowhere"}))
    encoder = write_encoder(tmp_path / "encoder")
    assert "gives no labels of texts" in refused(policy(models={"words": str(encoder)}))
    number = write_classifier(tmp_path / "number", num_labels=1)
    assert "gives a number instead of labels" in refused(policy(models={"words": str(number)}))
    pair = write_classifier(tmp_path / "pair", {"pair": True})
    assert "reads pairs of texts" in refused(policy(models={"words": str(pair)}))
    two = {"words": str(number), "unused": str(number)}
    assert ": models.unused: no category uses this model" in refused(policy(models=two))


def test_unknown_labels_are_refused_with_those_there_are(policy: Callable[..., Path]) -> None:
    path = policy(categories={"coldness": {**CATEGORY, "labels": ["bda"]}})
    assert refused(path) == ": categories.coldness.labels: the model 'words' has no label 'bda', only fine, bad"


def test_a_relative_model_is_found_beside_the_policy(
    classifiers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_policy(classifiers / "beside.yaml", Path("one"))
    assert Moderator(path).thresholds == {"coldness": 0.5}
    path.unlink()


def test_the_threshold_is_that_of_the_policy_else_that_of_the_model(tmp_path: Path) -> None:
    words = {"sea": ["sea"], "day": ["day"], "clock": ["clock"]}
    several = {"problem": "multi_label_classification"}
    stored = {"thresholds": {"sea": 0.25, "day": 0.25, "clock": 1.5}}
    model = write_word_classifier(tmp_path / "model", words, stored, **several)

    def category(**fields: Any) -> Path:
        return write_policy(tmp_path / "p.yaml", model, canaries=None, categories={"x": {**CATEGORY, **fields}})

    assert Moderator(category(labels=["sea"])).thresholds == {"x": 0.25}
    assert Moderator(category(labels=["sea", "day"])).thresholds == {"x": 0.25}
    assert Moderator(category(labels=["sea"], threshold=0.75)).thresholds == {"x": 0.75}
    assert "the labels have different ones" in refused(category(labels=["sea", "clock"]))
    assert "it never predicts this label" in refused(category(labels=["clock"]))


def test_scores_sum_labels_of_which_a_text_has_one_and_take_the_highest_of_several(tmp_path: Path) -> None:
    words = {"sea": ["sea"], "day": ["day"], "clock": []}
    fields = {"canaries": None, "categories": {"x": {**CATEGORY, "labels": ["sea", "day"]}}}
    text = "sea day the the the the the the"
    one = Moderator(write_policy(tmp_path / "p.yaml", write_word_classifier(tmp_path / "one", words), **fields))
    chances = one.classifiers["words"].predict([one.classifiers["words"].encode(text)])[0]["probabilities"]
    (found,) = one.scores([one.encode(text)])
    assert found["x"].value == pytest.approx(chances["sea"] + chances["day"])
    problem = {"problem": "multi_label_classification", "sharpness": 40.0}
    several = write_word_classifier(tmp_path / "several", words, **problem)
    moderator = Moderator(write_policy(tmp_path / "p.yaml", several, **fields))
    text = "sea sea day the the the the the the"
    classifier = moderator.classifiers["words"]
    chances = classifier.predict([classifier.encode(text)])[0]["probability"]
    assert chances["sea"] > chances["day"] + 0.1
    assert moderator.scores([moderator.encode(text)])[0]["x"].value == pytest.approx(chances["sea"])


def test_the_worst_window_decides_also_where_the_model_would_cut_the_text(tmp_path: Path) -> None:
    words = {"fine": [], "bad": ["cold"]}
    prediction = {"long_text": "truncate", "window_tokens": 12}
    path = write_policy(tmp_path / "p.yaml", write_word_classifier(tmp_path / "model", words, prediction))
    moderator = Moderator(path)
    harmless, harmful = moderator.scores(
        [moderator.encode("the sea " * 20), moderator.encode("the sea " * 20 + "cold")]
    )
    assert harmless["coldness"].value < 0.01
    assert harmful["coldness"].value > 0.99
    number = len(harmful["coldness"].values)
    assert len(harmless["coldness"].values) == number > 4
    assert harmful["coldness"].place == f"{number} of {number}"


def test_a_policy_can_read_in_shorter_windows_than_the_model(policy: Callable[..., Path]) -> None:
    text = "the sea " * 12
    windows = []
    for tokens in (None, 12, 500):
        moderator = Moderator(policy(window_tokens=tokens))
        encoded = moderator.encode(text)
        windows.append(len(encoded["words"].windows))
        (score,) = moderator.scores([encoded])
        assert len(score["coldness"].values) == windows[-1]
        assert max(map(len, encoded["words"].windows)) <= (tokens or 40)
    assert windows == [1, 3, 1]
    assert "window_tokens: must be greater than or equal to 8" in refused(policy(window_tokens=4))


def test_failing_canaries_are_listed_with_their_scores(policy: Callable[..., Path]) -> None:
    canaries = [COLD, {**COLD, "text": "the sea"}, {**COLD, "text": "the day", "expected": False}]
    message = refused(policy(canaries=[*canaries, {**COLD, "expected": False}]))
    assert message.splitlines() == [
        ": 2 of 4 canaries fail, so the policy is not used:",
        "  'the sea': coldness is 0.000, expected at least 0.5",
        "  'the cold sea': coldness is 1.000, expected below 0.5",
    ]


def test_the_digest_is_that_of_the_policy_and_the_weights_wherever_they_are(tmp_path: Path) -> None:
    words = {"fine": [], "bad": ["cold"]}
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_word_classifier(tmp_path / name / "model", words)
        write_policy(tmp_path / name / "p.yaml", Path("model"))
    here, there = (Moderator(tmp_path / name / "p.yaml").digest for name in ("here", "there"))
    assert here == there
    write_word_classifier(tmp_path / "here" / "model", words, sharpness=201.0)
    assert Moderator(tmp_path / "here" / "p.yaml").digest != there
    write_policy(tmp_path / "there" / "p.yaml", Path("model"), mode="flag")
    assert Moderator(tmp_path / "there" / "p.yaml").digest != there


def test_damaged_weights_do_not_pass_for_a_score(policy: Callable[..., Path]) -> None:
    moderator = Moderator(policy())
    moderator.classifiers["words"].model.head.bias.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        moderator.predict([moderator.encode("the sea")])


def test_of_several_texts_the_highest_scores_count_and_of_several_actions_the_strictest() -> None:
    low, high = Score([0.1]), Score([0.0, 0.9])
    assert highest([{"a": low, "b": high}, {"a": high, "b": low}]) == {"a": high, "b": high}
    assert (low.place, high.place) == ("", "2 of 2")
    assert strictest({"a": "flag", "b": "block", "c": "allow"}) == "block"
    assert strictest({}) == "allow"
