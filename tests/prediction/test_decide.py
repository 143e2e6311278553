"""Typed decisions and zero-shot labels: scores equal plain loops, the order of options does not matter."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from served import write_model
from tiny_encoders import write_classifier, write_encoder
from transformers.decision import DecisionConfig as TransformersConfig
from transformers.decision.template_utils import Question as TransformersQuestion

import neolm
import neolm.cli
from neolm.core.config import load_config
from neolm.core.errors import InputError, NonFiniteError
from neolm.generation.continuations import Continuation, log_likelihoods
from neolm.generation.model_runner import TorchRunner
from neolm.models.hf import load_decoder, load_model
from neolm.prediction.decision_file import DecisionConfig
from neolm.prediction.decision_forms import parse_questions
from neolm.prediction.decision_question import label_option
from neolm.prediction.option_scorer import OptionScorer, load_scorer
from neolm.prediction.zero_shot import ZeroShot
from neolm.tokenizer.tokenizer import load_tokenizer

NLI = {"pooling": "first", "pooler": True, "labels": ("contradiction", "neutral", "entailment")}
KINDS = ("embedding", "entailment", "decoder")
STATE = "the cold sea, and the water of the day"
LABELS = ["sea", "clock", "cold_water", "day", "the water"]
MAPPING: dict[str, Any] = {
    "topic": {
        "type": "choice",
        "instructions": "what is it",
        "criteria": {"sea": None, "clock": "the day", "day": None},
    },
    "true": {"type": "noul", "instructions": "it is cold"},
    "both": {"type": "noul", "instructions": "is it", "criteria": {"true": "the sea", "false": "the clock"}},
    "level": {"type": "score", "instructions": "cold", "criteria": ["the sea", {"a": 1}, "water"]},
}
LISTED: list[dict[str, Any]] = [
    {"type": "choice", "instructions": "what is it", "name": "topic"}
    | {"choices": [{"value": "sea"}, {"value": "clock", "description": "the day"}, {"value": "day"}]},
    {"type": "predicate", "instructions": [{"type": "input_text", "text": "it is cold"}]},
    {"type": "score", "instructions": "cold", "levels": [{"label": "the sea"}, {"label": "water"}]},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("deciders")
    return {
        "embedding": write_encoder(place / "bert", normalize=False),
        "entailment": write_classifier(place / "nli", {"pair": True}, **NLI),
        "decoder": write_model(place / "gpt", context=160),
    }


@pytest.fixture(scope="module")
def scorers(models: dict[str, Path]) -> dict[str, OptionScorer]:
    return {kind: load_scorer(path) for kind, path in models.items()}


def softmax(scores: Sequence[float]) -> list[float]:
    return torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()


def of_labels(result: dict[str, Any], labels: Sequence[str] = LABELS) -> list[float]:
    return [result["probabilities"][label] for label in labels]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["neolm", *map(str, arguments)])
    try:
        neolm.cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# ---- scores ----


def test_scores_of_an_encoder_are_cosines(models: dict[str, Path]) -> None:
    model = transformers.AutoModel.from_pretrained(models["embedding"]).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(models["embedding"])

    def vector(text: str) -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.normalize(model(**tokenizer(text, return_tensors="pt"))[0][0].mean(0), dim=0)

    cosines = [float(vector(STATE) @ vector(label.replace("_", " "))) for label in LABELS]
    [found] = neolm.predict(models["embedding"], STATE, labels=LABELS)
    assert of_labels(found) == pytest.approx(softmax([20 * cosine for cosine in cosines]), abs=1e-5)
    answers = neolm.decide(models["embedding"], STATE, MAPPING)
    cosine = float(vector(STATE) @ vector("it is cold"))
    assert answers["true"]["noul"] == pytest.approx(1 / (1 + math.exp(-20 * (cosine - 0.35))), abs=1e-5)
    read = [float(vector(STATE) @ vector(f"what is it {text}")) for text in ("sea", "clock: the day", "day")]
    assert [*answers["topic"]["probabilities"].values()] == pytest.approx(softmax([20 * one for one in read]), abs=1e-5)


def test_scores_of_a_classifier_are_those_of_transformers_pipeline(models: dict[str, Path]) -> None:
    path = models["entailment"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path)
    pipeline = transformers.pipeline(
        "zero-shot-classification", model=model, tokenizer=transformers.BertTokenizer.from_pretrained(path)
    )
    labels = [label.replace("_", " ") for label in LABELS]
    expected = pipeline(STATE, labels, hypothesis_template="This text is about {}.")
    [found] = neolm.predict(path, STATE, labels=LABELS)
    by_label = dict(zip(expected["labels"], expected["scores"], strict=True))
    assert of_labels(found) == pytest.approx([by_label[label] for label in labels], abs=1e-5)
    one = pipeline(STATE, ["it is cold"], hypothesis_template="{}", multi_label=True)
    assert neolm.decide(path, STATE, MAPPING)["true"]["noul"] == pytest.approx(one["scores"][0], abs=1e-5)


def test_the_temperature_of_a_classifier_counts(models: dict[str, Path], tmp_path: Path) -> None:
    flat = write_classifier(tmp_path / "flat", {"pair": True, "temperature": 2.0}, **NLI)
    chances = [neolm.decide(path, STATE, MAPPING)["true"]["noul"] for path in (models["entailment"], flat)]
    sharp, half = (math.log(chance / (1 - chance)) for chance in chances)
    assert half == pytest.approx(sharp / 2, abs=1e-5)
    assert abs(sharp) > 0.1


@pytest.mark.parametrize("options", [{}, {"prior": False}, {"per_token": False}])
def test_scores_of_a_decoder_are_likelihoods(models: dict[str, Path], options: dict[str, bool]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(models["decoder"]).eval()
    tokenizer = load_tokenizer(models["decoder"])

    def likelihood(text: str, label: str) -> float:
        prompt, option = tokenizer.encode(f"{text}\n\nThis text is about"), tokenizer.encode(f" {label}")
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + option])).logits[0, :, : tokenizer.size].double().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(option) - 1)
        total = sum(float(logprobs[place, token]) for place, token in zip(places, option, strict=True))
        return total / (len(option) if options.get("per_token", True) else 1)

    read = [label.replace("_", " ") for label in LABELS]
    prior = [likelihood("N/A", label) if options.get("prior", True) else 0.0 for label in read]
    scores = [likelihood(STATE, label) - before for label, before in zip(read, prior, strict=True)]
    [found] = neolm.predict(models["decoder"], STATE, labels=LABELS, settings=options)
    assert of_labels(found) == pytest.approx(softmax(scores), abs=1e-5)


def test_a_shared_beginning_is_computed_once(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_decoder(models["decoder"], "cpu")
    generator = random.Random(3)
    prefix = [generator.randrange(300) for _ in range(70)]
    rests = [[generator.randrange(300) for _ in range(generator.randrange(1, 6))] for _ in range(9)]
    rows = [Continuation((*prefix, *rest), len(prefix) - 1, len(rest)) for rest in rests]
    alone = torch.cat([log_likelihoods(model, [row], 310) for row in rows])
    computed = []
    original = TorchRunner.run
    monkeypatch.setattr(
        TorchRunner, "run", lambda *given: computed.append(sum(len(s.ids) for s in given[2])) or original(*given)
    )
    torch.testing.assert_close(log_likelihoods(model, rows, 310), alone, rtol=0, atol=1e-5)
    assert computed == [64, sum(5 + len(rest) for rest in rests)]
    monkeypatch.setattr("neolm.generation.continuations.MAX_LOGITS", 330 * 5 * 2)  # two rows at a time
    torch.testing.assert_close(log_likelihoods(model, rows, 310), alone, rtol=0, atol=1e-5)
    assert len(computed) == 2 + 1 + 5
    ids = torch.tensor([rows[0].ids])
    expected = model(ids)[0, :, :310].double().log_softmax(-1)[range(69, ids.shape[1] - 1), ids[0, 70:]].sum().detach()
    assert float(alone[0]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_options_and_questions_does_not_matter(scorers: dict[str, OptionScorer], kind: str) -> None:
    scorer = scorers[kind]

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(st.permutations(LABELS), st.permutations([*MAPPING]))
    def check(labels: list[str], names: list[str]) -> None:
        questions = {name: MAPPING[name] for name in names}
        questions["topic"] = {"type": "choice", "criteria": dict.fromkeys(labels), "instructions": "what"}
        parsed = parse_questions(questions)
        found = scorer.probabilities(scorer.encoder.encode(STATE, parsed), parsed)
        answers = {one.name: one.named(chances) for one, chances in zip(parsed, found, strict=True)}
        topic = answers.pop("topic")
        first.append((topic["choice"], [topic["probabilities"][label] for label in LABELS], answers))
        assert first[-1][0] == first[0][0]
        assert first[-1][1] == pytest.approx(first[0][1], abs=1e-5)
        assert answers["true"]["noul"] == pytest.approx(first[0][2]["true"]["noul"], abs=1e-5)
        assert answers["both"]["noul"] == pytest.approx(first[0][2]["both"]["noul"], abs=1e-5)
        assert answers["level"]["score"] == pytest.approx(first[0][2]["level"]["score"], abs=1e-5)

    first: list[Any] = []
    check()
    assert len({round(chance, 4) for chance in first[0][1]}) > 3  # it is not one answer to everything


@pytest.mark.parametrize("kind", KINDS)
def test_questions_together_have_the_answers_that_they_have_alone(models: dict[str, Path], kind: str) -> None:
    path = models[kind]
    model, tokenizer = load_model(path, "cpu"), load_tokenizer(path)
    if kind == "embedding":
        answers = neolm.decide(path, STATE, MAPPING)
        alone = {name: neolm.decide(path, STATE, {name: one})[name] for name, one in MAPPING.items()}
    else:
        answers = neolm.decide(model, STATE, MAPPING, tokenizer)
        alone = {name: neolm.decide(model, STATE, {name: one}, tokenizer)[name] for name, one in MAPPING.items()}
    assert [*answers] == [*MAPPING]
    for name, answer in answers.items():
        for key, value in answer.items():
            expected = alone[name][key]
            numbers = isinstance(value, float) or key == "probabilities"
            assert value == (pytest.approx(expected, abs=1e-5) if numbers else expected)
    other = neolm.decide(path, "clock in is was", MAPPING)
    assert other["topic"]["probabilities"] != pytest.approx(answers["topic"]["probabilities"], abs=1e-4)


# ---- forms ----


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6), st.sampled_from(["choice", "score", "noul"]))
def test_answers_have_the_form_and_confidence_of_transformers(weights: list[float], kind: str) -> None:
    chances = [weight / sum(weights) for weight in weights][: 2 if kind == "noul" else None]
    criteria: Any = {"true": "a", "false": "b"}
    if kind != "noul":
        criteria = (
            [f"o{n}" for n in range(len(chances))] if kind == "score" else {f"o{n}": None for n in range(len(chances))}
        )
    given_question = {"type": kind, "instructions": "what", "criteria": criteria}
    expected = TransformersQuestion.from_request("q", given_question, TransformersConfig()).answer(chances)
    [question] = parse_questions({"q": given_question})
    found = question.named(chances)
    assert list(found) == list(expected)
    for key, value in expected.items():
        numbers = isinstance(value, float) or key == "probabilities"
        assert found[key] == (pytest.approx(value, abs=1e-12) if numbers else value)


def test_both_forms_ask_the_same(models: dict[str, Path]) -> None:
    path = models["embedding"]
    choice, predicate, score = neolm.decide(path, {"sea": ["cold"]}, LISTED)
    named = neolm.decide(
        path, '{"sea": ["cold"]}', {**MAPPING, "level": {**MAPPING["level"], "criteria": ["the sea", "water"]}}
    )
    assert choice["name"] == "topic"
    assert choice["choice"] == named["topic"]["choice"]
    assert {one["value"]: one["probability"] for one in choice["probabilities"]} == pytest.approx(
        named["topic"]["probabilities"]
    )
    assert predicate == {"name": None, "type": "predicate", "probability": pytest.approx(named["true"]["noul"])}
    assert score["score"] == pytest.approx(named["level"]["score"])
    assert [(one["label"], one["value"]) for one in score["probabilities"]] == [("the sea", 0), ("water", 1)]
    typed = {"type": "choice", "instructions": "", "choices": [{"value": True}, {"value": "true"}]}
    [answer] = neolm.decide(path, "the sea", [typed])
    assert [one["value"] for one in answer["probabilities"]] == [True, "true"]


@pytest.mark.parametrize(
    ("questions", "problem"),
    [
        ({}, "there are 0, and 1 to 400"),
        ([], "there are 0, and 1 to 400"),
        ("what", "a list, or an object"),
        ({"a": {"type": "choice", "criteria": {}}}, "questions.a: it needs at least two options, and there is none"),
        (
            {"a": {"type": "choice", "criteria": {"b": None}}},
            "questions.a: it needs at least two options, and there is one",
        ),
        ({"a": {"type": "choice", "criteria": {"b": None, " ": None}}}, "questions.a: an option is empty"),
        ({"a": {"type": "choice", "criteria": ["b", "c"]}}, "an object from options to descriptions is needed"),
        ({"a": {"type": "score", "criteria": {"b": None}}}, "a list of levels is needed"),
        ({"a": {"type": "score", "criteria": ["b", "b"]}}, "questions.a: the option 'b' occurs twice"),
        ({"a": {"type": "noul", "criteria": {"true": "b"}}}, "questions.a: it has neither instructions nor"),
        ({"a": {"type": "noul", "instructions": "b", "criteria": {"maybe": "c"}}}, "only true and false, not 'maybe'"),
        ({"a": {"type": "rank"}}, r"^questions\.a\.type: must be 'noul', 'choice' or 'score', not 'rank'"),
        ({"a": {"type": "noul", "criterion": {}}}, "unknown key"),
        ([{"type": "choice", "instructions": "a"}], "questions.0: it needs at least two options, and there is none"),
        ([{"type": "predicate", "instructions": " "}], "questions.0: it has neither instructions nor"),
        ([{"type": "predicate"}], "this key must be given"),
        (
            [{"type": "predicate", "instructions": "a", "levels": []}],
            "levels are of a score, and the type is predicate",
        ),
        ([{"type": "predicate", "instructions": [{"type": "input_image"}]}], "no pictures, no sound"),
    ],
)
def test_questions_that_cannot_be_asked(questions: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_questions(questions)


# ---- states ----


@pytest.mark.parametrize("kind", ["embedding", "entailment"])
def test_a_long_state_is_read_in_windows(
    models: dict[str, Path], scorers: dict[str, OptionScorer], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "the sea is cold " * 15 + "clock " * 40
    questions = {"true": MAPPING["true"]}
    found = neolm.decide(models[kind], long, questions)["true"]["noul"]
    encoded = scorers[kind].encoder.encode(long, parse_questions(questions))
    assert f"the state is read in {encoded.windows} windows" in capsys.readouterr().err
    rows = [row if kind == "embedding" else row[0] for row in encoded.rows]
    tokenizer = load_tokenizer(models[kind])
    first = [row[1:].index(tokenizer.sep_token_id) for row in rows]
    windows = [tokenizer.decode(list(row[1 : 1 + length])) for row, length in zip(rows, first, strict=True)]
    assert max(map(len, rows)) == 40
    assert {*" ".join(windows).split()} == {*long.split()}
    assert sum(len(window.split()) for window in windows) > len(long.split())
    if kind == "embedding":
        model = transformers.AutoModel.from_pretrained(models[kind]).eval()
        texts = [*rows, encoded.fixed[0]]
        with torch.no_grad():
            vectors = [model(torch.tensor([row]))[0][0].mean(0) for row in texts]
        *parts, statement = (torch.nn.functional.normalize(vector, dim=0) for vector in vectors)
        cosine = torch.nn.functional.cosine_similarity(torch.stack(parts).mean(0), statement, dim=0)
        logit = 20 * (float(cosine) - 0.35)
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(models[kind]).eval()
        with torch.no_grad():
            pairs = [(torch.tensor([ids]), torch.tensor([types])) for ids, types in encoded.rows]
            logits = torch.cat([model(ids, token_type_ids=types).logits for ids, types in pairs]).mean(0)
        logit = float(logits[2] - logits[0])
    assert found == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_what_is_too_long_or_empty_is_refused(models: dict[str, Path]) -> None:
    long = "the sea " * 30
    for path in (models["embedding"], models["entailment"]):
        with pytest.raises(InputError, match="an option"):
            neolm.decide(path, "the sea", {"a": {"type": "noul", "instructions": long}})
    with pytest.raises(InputError, match=r"text, question and option are \d+ tokens, the context of the model is 160"):
        neolm.decide(models["decoder"], long * 3, MAPPING)
    for empty in ("", " \n", {}, []):
        with pytest.raises(InputError, match="the state is empty"):
            neolm.decide(models["embedding"], empty, MAPPING)


def test_models_that_cannot_decide_are_named(tmp_path: Path) -> None:
    topics = write_classifier(tmp_path / "topics", labels=("sea", "day", "clock"))
    pairs = write_classifier(tmp_path / "pairs", {"pair": True}, labels=("sea", "day", "clock"))
    for path in (topics, pairs):
        with pytest.raises(InputError, match=r"answers by its own labels \(sea, day, clock, ...: neolm predict\)"):
            neolm.decide(path, "the sea", MAPPING)
    with pytest.raises(InputError, match="a loaded model needs its tokenizer"):
        neolm.decide(load_model(topics), "the sea", MAPPING)


def test_damaged_weights_are_an_error(models: dict[str, Path]) -> None:
    model = load_model(models["decoder"], "cpu")
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(NonFiniteError):
        neolm.decide(model, "the sea", MAPPING, load_tokenizer(models["decoder"]))


# ---- zero-shot ----


def test_a_shortlist_keeps_the_passes_few(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    letters = "abcdefghijklmno"
    labels = [f"{a} {b}" for a in letters for b in letters[:10]]
    assert len(labels) == 150
    rows: list[int] = []
    first, second = load_scorer(models["embedding"]), load_scorer(models["entailment"])
    for scorer in (first, second):
        compute = scorer._compute
        monkeypatch.setattr(
            scorer, "_compute", lambda given, compute=compute: rows.append(len(given)) or compute(given)
        )
    predictor = ZeroShot(second, [label_option(label) for label in labels], shortlist=first)
    [one] = predictor.predict([predictor.encode(STATE)])
    assert rows == [150 + 1, 10]
    rows.clear()
    [_, again] = predictor.predict([predictor.encode("the clock"), predictor.encode(STATE)])
    assert rows == [2, 20]  # the labels are embedded once, and each text is read 11 times
    assert again == {
        **one,
        "probability": pytest.approx(one["probability"], abs=1e-5),
        "probabilities": pytest.approx(one["probabilities"], abs=1e-5),
    }
    [embedded] = neolm.predict(models["embedding"], STATE, labels=labels)
    few = [*embedded["probabilities"]][:10]
    mass = sum(embedded["probabilities"][label] for label in few)
    assert sum(one["probabilities"][label] for label in few) == pytest.approx(mass, abs=1e-5)
    [compared] = neolm.predict(models["entailment"], STATE, labels=few)
    expected = {label: mass * chance for label, chance in compared["probabilities"].items()}
    assert {label: one["probabilities"][label] for label in few} == pytest.approx(expected, abs=1e-5)
    rest = {label: chance for label, chance in one["probabilities"].items() if label not in few}
    assert rest == pytest.approx({label: embedded["probabilities"][label] for label in rest}, abs=1e-5)
    assert sum(one["probabilities"].values()) == pytest.approx(1)


def test_labels_of_tables_and_files(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.csv").write_text('text\nthe cold sea\n""\nthe clock of the day\n', encoding="utf-8")
    (tmp_path / "labels.csv").write_text("label,description\nsea,cold water\nclock,\n", encoding="utf-8")
    source, target = tmp_path / "texts.csv", tmp_path / "out.csv"
    path, table = models["embedding"], ("--input", source, "--output", target)
    assert run(monkeypatch, "predict", path, "--labels", tmp_path / "labels.csv", *table) == 2
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "text,label,probability,error"
    assert "2 of 3 rows done; line 3: the text is empty" in capsys.readouterr().err
    assert lines[2].endswith(",,,the text is empty")
    [found] = neolm.predict(path, "the cold sea", labels=["sea: cold water", "clock"])
    assert float(lines[1].split(",")[2]) == pytest.approx(found["probability"], abs=1e-5)
    (tmp_path / "plain.txt").write_text("sea\nclock\n", encoding="utf-8")
    for labels in ("sea, clock", tmp_path / "plain.txt"):
        assert run(monkeypatch, "predict", path, "the sea", "--labels", labels, "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert set(printed["probabilities"]) == {"sea", "clock"}
    template = ("--template", "the day of {label}", "--shortlist", models["embedding"], "--set", "abstain_below=0.99")
    assert run(monkeypatch, "predict", models["entailment"], "the sea", "--labels", "sea,clock", *template) == 0
    assert capsys.readouterr().out.startswith("(no answer)\n  ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--labels", "sea"), "labels: it needs at least two options, and there is one"),
        (("--labels", "sea,sea"), "labels: the option 'sea' occurs twice"),
        (("--labels", "sea,,day"), "labels: an option is empty"),
        (("--labels", "none.csv"), "none.csv: there is no such file"),
        (("--labels", "sea,day", "--template", "none"), "template: 'none' does not have {label} in it"),
        (("--labels", "sea,day", "--set", "temperature.choice=0"), "temperature.choice"),
        (("--template", "{label}"), "--template and --shortlist are for --labels"),
        (("--labels", "sea,day", "--task", "qa"), "task: unknown key"),
    ],
)
def test_mistakes_with_labels_are_one_line(
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    problem: str,
) -> None:
    assert run(monkeypatch, "predict", models["embedding"], "the sea", *arguments) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


# ---- the command, and calibration ----


def test_the_command_reads_states_and_prints_answers(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = models["embedding"]
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(MAPPING), encoding="utf-8")
    assert run(monkeypatch, "decide", path, "--state", STATE, "--questions", file) == 0
    assert json.loads(capsys.readouterr().out) == neolm.decide(path, STATE, MAPPING)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(STATE.encode())))
    assert run(monkeypatch, "decide", path, "--state", "-", "--questions", file, "--set", "predicate_cosine=1") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["true"]["noul"] < neolm.decide(path, STATE, MAPPING)["true"]["noul"]
    file.write_text('{"a": {"type": "choice", "criteria": {"b": null}}}', encoding="utf-8")
    for arguments, problem in (
        (("--state", STATE, "--questions", file), "questions.json: questions.a: it needs at least two"),
        (("--state", STATE), "give --state TEXT and --questions FILE.json, or --calibrate FILE.jsonl"),
        (("--state", STATE, "--calibrate", file), "--calibrate has states and questions in its file"),
    ):
        assert run(monkeypatch, "decide", path, *arguments) == 2
        assert problem in capsys.readouterr().err


def decisions(path: Path, count: int, true_scale: Callable[[str], float]) -> list[dict[str, Any]]:
    """Labelled decisions whose answers are drawn from the model's own scores times a scale."""
    generator, rows = random.Random(5), []
    words = ["sea", "water", "day", "clock", "cold", "of", "is", "was", "in", "and"]
    for _ in range(count):
        state = " ".join(generator.choices(words, k=6))
        questions = {name: MAPPING[name] for name in ("topic", "both", "level")}
        found = neolm.decide(
            path,
            state,
            questions,
            settings={f"temperature.{k}": 1 / true_scale(k) for k in ("choice", "noul", "score")},
        )
        level = generator.choices([0, 1, 2], [*found["level"]["probabilities"].values()])[0]
        topic = generator.choices([*found["topic"]["probabilities"]], [*found["topic"]["probabilities"].values()])[0]
        rows.append(
            {"state": state, "questions": questions}
            | {"answers": {"topic": topic, "both": generator.random() < found["both"]["noul"], "level": level}}
        )
    return rows


def test_calibration_finds_the_temperatures_and_keeps_them(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bert"
    write_encoder(path)
    scale = {"choice": 0.5, "noul": 2.0, "score": 1.5}
    scorer = load_scorer(path)
    monkeypatch.setattr("neolm.prediction.option_scorer.load_scorer", lambda *_, **given: _with(scorer, given))
    rows = decisions(path, 400, scale.__getitem__)
    monkeypatch.undo()
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run(monkeypatch, "decide", path, "--calibrate", file) == 0
    printed = capsys.readouterr().out
    assert printed.count("400 answers") == 3
    stored = json.loads((path / "decision.json").read_text(encoding="utf-8"))
    for kind, expected in scale.items():
        assert stored["temperature"][kind] == pytest.approx(1 / expected, rel=0.25)
    assert TransformersConfig.from_pretrained(path).temperature == stored["temperature"]
    sharper = neolm.decide(path, STATE, MAPPING)["topic"]["confidence"]
    assert sharper < neolm.decide(models["embedding"], STATE, MAPPING)["topic"]["confidence"]
    assert run(monkeypatch, "export", path, tmp_path / "copy") == 0
    assert json.loads((tmp_path / "copy" / "decision.json").read_text(encoding="utf-8")) == stored
    (path / "decision.json").write_text('{"temperatures": {}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"decision.json: temperatures: unknown key; did you mean 'temperature'"):
        neolm.decide(path, STATE, MAPPING)


def _with(scorer: OptionScorer, given: dict[str, Any]) -> OptionScorer:
    scorer.settings = load_config(DecisionConfig, None, given["settings"])
    return scorer


def test_calibration_moves_the_border_of_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_encoder(tmp_path / "bert")
    words, rows = ["sea", "water", "day", "clock", "cold", "is"], []
    states = [f"{a} {b} {c}" for a in words for b in words for c in words[:3]]
    found = [neolm.decide(path, state, {"a": MAPPING["true"]})["a"]["noul"] for state in states[:40]]
    middle = sorted(found)[20]
    for state, chance in zip(states, found, strict=False):
        right = (chance > middle) != (len(rows) % 8 == 0)  # some are wrong, so that there is a best temperature
        rows.append({"state": state, "questions": {"a": MAPPING["true"]}, "answers": {"a": right}})
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run(monkeypatch, "decide", path, "--calibrate", file) == 0
    border = 0.35 + math.log(middle / (1 - middle)) / 20
    stored = json.loads((path / "decision.json").read_text(encoding="utf-8"))
    assert stored["predicate_cosine"] == pytest.approx(border, abs=0.01)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"state": "a", "questions": MAPPING, "answers": {"topic": "lake"}}, "line 1: answers.topic: 'lake' is not an"),
        ({"state": "a", "questions": MAPPING, "answers": {"true": "true"}}, "line 1: answers.true: 'true' is not an"),
        ({"state": "a", "questions": MAPPING, "answers": {"level": 3}}, "line 1: answers.level: 3 is not an option"),
        ({"state": "a", "questions": MAPPING, "answers": {"lake": 3}}, "line 1: answers: there is no question 'lake'"),
        ({"state": "a", "questions": MAPPING}, "line 1: answers: an object from names"),
        ({"state": "a", "questions": MAPPING, "answers": {}}, "there is no question with an answer"),
        ({"state": "", "questions": MAPPING, "answers": {"true": True}}, "line 1: the state is empty"),
    ],
)
def test_decisions_that_cannot_be_learnt_from(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    problem: str,
) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    assert run(monkeypatch, "decide", models["embedding"], "--calibrate", file) == 2
    assert problem in capsys.readouterr().err
    assert not (models["embedding"] / "decision.json").exists()
