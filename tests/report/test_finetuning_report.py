"""The page and the model card of a fine-tuning."""

import json
import random
import re
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page
from huggingface_hub import ModelCard
from tiny_encoders import write_encoder
from tiny_models import tiny_decoder
from topic_tables import QUICK, TOPICS, sentence, write_csv

import neolm
from neolm.finetuning.tfidf import tfidf_logits
from neolm.models.hf import save_model
from neolm.report.finetune_results import FinetuneResults
from neolm.report.finetune_usage import FinetuneUsage
from neolm.report.model_card import model_card
from neolm.report.run_report import build_report
from neolm.tokenizer.tokenizer import train_tokenizer

HOSTILE = "<script>alert(1)</script>"
PROBE = "finetune.method=probe"
Results = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("a base"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of sentences: topics, hostile labels, several labels, pairs with numbers."""
    folder, draw = tmp_path_factory.mktemp("tables"), random.Random(5)
    rows = [(sentence(topic, draw), topic) for topic in [*TOPICS] * 40]
    write_csv(folder / "train.csv", ("text", "label"), [*rows, ("", "coast"), (rows[0][0], "time")])
    write_csv(
        folder / "validation.csv", ("text", "label"), [*rows[:3], *((sentence(t, draw), t) for t in [*TOPICS] * 12)]
    )
    several = [
        (f"{sentence(topic, draw)} {k}", int(topic == "coast"), k % 2) for k, (topic) in enumerate([*TOPICS] * 40)
    ]
    write_csv(folder / "several.csv", ("text", "coast", HOSTILE), several)
    numbers = [(sentence("coast", draw), sentence("time", draw), k % 5 + 0.5) for k in range(60)]
    write_csv(folder / "numbers.csv", ("first", "second", "score"), numbers)
    return folder


def finetuned(base: Path, output: Path, overrides: tuple[str, ...] = (), **section: Any) -> Path:
    settings = {"task": "classification", "label_column": ["label"], **section}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return neolm.run({"output": str(output), "base": str(base), "finetune": settings}, [*QUICK, *overrides])


@pytest.fixture(scope="module")
def whole(base: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "it's a run"
    return finetuned(base, output, train=tables / "train.csv", validation=tables / "validation.csv")


@pytest.fixture(scope="module")
def several(base: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("several") / "run"
    return finetuned(base, output, (PROBE,), train=tables / "several.csv", label_column=["coast", HOSTILE])


@pytest.fixture(scope="module")
def numbers(base: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output, columns = tmp_path_factory.mktemp("numbers") / "run", {"text_column": "first", "second_column": "second"}
    train = tables / "numbers.csv"
    return finetuned(base, output, (PROBE,), task="regression", train=train, label_column=["score"], **columns)


def results_of(output: Path) -> Results:
    found: Results = json.loads((output / "finetune" / "results.json").read_text())
    return found


def page_of(output: Path) -> Page:
    page = Page(build_report(output).read_text(encoding="utf-8"))
    page.assert_self_contained()
    assert len(set(page.ids)) == len(page.ids)
    page.text = " ".join(page.text.split())
    return page


@pytest.fixture
def changed(whole: Path, tmp_path: Path) -> Callable[[Callable[[Results], object]], Page]:
    """The page of the whole run with other results."""

    def build(change: Callable[[Results], object]) -> Page:
        output = shutil.copytree(whole, tmp_path / "changed", dirs_exist_ok=True)
        found = results_of(whole)
        change(found)
        (output / "finetune" / "results.json").write_text(json.dumps(found))
        return page_of(output)

    return build


def test_the_command_prints_the_path_of_the_page(
    base: Path, tables: Path, tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]
) -> None:
    output = tmp_path / "run"
    code, out, err = neolm_("finetune", base, "--train", tables / "train.csv", "--output", output, *QUICK, PROBE)
    assert code == 0, err
    assert out.split("\n")[-2] == str(output / "report.html")
    assert "Only a probe was trained" in page_of(output).text


def test_the_page_of_a_classifier(whole: Path) -> None:
    page, found = page_of(whole), results_of(whole)
    accuracy = found["scores"][found["comparison"]["recommended"]]["accuracy"]
    for words in (
        f"the cheapest that no other beats, gives the right label to {accuracy:.1%} (",
        "of the 27 validation examples",
        "With so few validation examples",
        "Always giving the most frequent label is right for",
        "3 of 27 validation texts are also in the training table: the scores are too good",
        "1 row is left out: the text is empty (first: line 82)",
        "1 example repeats an earlier text with another label",
        "Examples of each label in the training table",
        "Rows: the label in the table",
        "Calibration error with it",
        "The weights with the fewest errors",
        "train.csv: 81 examples",
        "neolm predict '",
        "'\"'\"'s a run",  # quoted
        "--input my-table.csv",
    ):
        assert words in page.text, words
    assert "accuracy by step" in page.html
    assert "further label" not in page.text


def test_what_is_wrong_comes_first(whole: Path) -> None:
    page = page_of(whole)
    places = [
        page.text.index(words)
        for words in ("are also in the training table", "another label (first", "Words of a text")
    ]
    assert places == sorted(places)


def difference(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("recommended", "model", "words"),
    [
        ("tfidf", "probe", "You do not need a neural network here"),
        ("probe", "probe", "The probe is enough"),
        ("fine-tuned", "fine-tuned", "Train the whole model"),
    ],
)
def test_the_first_line_names_the_recommended_candidate(
    changed: Callable[..., Page], recommended: str, model: str, words: str
) -> None:
    def change(found: Results) -> None:
        names = [*found["scores"]]
        found["comparison"] |= {
            "recommended": recommended,
            "differences": {name: difference(-0.1, -0.2, 0.05) for name in names if name != recommended},
        }
        found["intervals"] = {name: difference(0.9, 0.8, 0.95) for name in names}
        found["model"] = model

    page = changed(change)
    assert words in page.text.split("·")[2]
    assert page.html.index("<h1>") < page.html.index("<section")
    assert f"The model in model/ is the {model} one" in page.text
    assert ("the best of those that NeoLM can use" in page.text) == (recommended == "tfidf")
    assert ("TfidfVectorizer" in page.text) == (recommended == "tfidf")
    assert "is not measurably better: \u221210.0 points (\u221220.0 to +5.0) in right labels" in page.text


def test_the_spread_over_seeds(changed: Callable[..., Page]) -> None:
    def change(found: Results) -> None:
        found["seeds"] = {"median": 0.8, "lowest": 0.5, "highest": 0.9, "failed": 1, "runs": 5}

    assert (
        "Over 5 seeds, the fine-tuned one has a median of 80.0% (50.0% to 90.0%); 1 of them failed."
        in changed(change).text
    )


def test_candidates_that_are_no_better_than_one_answer(changed: Callable[..., Page]) -> None:
    def change(found: Results) -> None:
        found["intervals"] = {name: difference(0.6, 0.4, 0.8) for name in found["scores"]}

    page = changed(change)
    assert "No candidate is clearly better than always giving the most frequent label" in page.text
    assert "The model is not good enough to doubt a label" in page.text


def test_hostile_texts_are_text(changed: Callable[..., Page]) -> None:
    override = "\u202egnitirw\u202c"
    text = f"{HOSTILE} {override} \x00\x1b {'W' * 5000}"

    def change(found: Results) -> None:
        example = {"line": 3, "texts": [text, text], "gold": HOSTILE, "predicted": HOSTILE, "probability": 0.9}
        found["details"]["mistakes"] = [example] * 9
        found["details"]["doubtful_labels"] = [{**example, "suggested": HOSTILE}]
        found["names"] = [HOSTILE, "time"]
        found["details"]["labels"][0]["name"] = HOSTILE
        found["inventory"]["train"]["labels"] = {HOSTILE: 40, "ti|me": 41}

    page = changed(change)
    assert HOSTILE not in page.html
    assert page.text.count(HOSTILE) >= 30
    assert "W" * 301 not in page.text
    assert not set("\u202e\u202c\x00\x1b") & set(page.html)
    assert 'dir="auto"' in page.html
    assert "3 further examples" in page.text


def test_many_labels_are_folded(changed: Callable[..., Page]) -> None:
    def change(found: Results) -> None:
        names = [f"label {number}" for number in range(40)]
        found["names"], found["details"]["matrix"] = names, None
        found["details"]["labels"] = [
            {"name": name, "examples": number, "precision": 0.5, "recall": 0.5, "f1": number / 40}
            for number, name in enumerate(names)
        ]
        found["details"]["confusions"] = [{"gold": "label 1", "predicted": "label 2", "count": 7}]
        found["inventory"]["train"] |= {
            "labels": {name: 90 - 2 * n for n, name in enumerate(names)},
            "imbalance": 90 / 12,
        }

    page = changed(change)
    assert "25 further labels" in page.text
    assert "There are 40 labels. The most frequent are label 0 (90)" in page.text
    assert "1 label without a validation example, so not measured: label 0." in page.text
    assert "The most frequent confusions" in page.text
    assert "Rows: the label in the table" not in page.text
    rows = re.findall(r'<th scope="row">(label \d+)</th>\n<td class="number">\d+</td>', page.html)
    assert rows == [*(f"label {n}" for n in range(1, 40)), "label 0"]  # the worst first, those not measured last


def test_older_results_have_a_page(changed: Callable[..., Page]) -> None:
    def change(found: Results) -> None:
        for key in ("details", "intervals", "lengths", "inventory"):
            del found[key]

    page = changed(change)
    assert "written by an older version of NeoLM" in page.text
    assert "This run has no inventory of its tables" in page.text
    assert "worst mistakes" not in page.text


def test_without_scikit_learn_there_are_two_candidates(changed: Callable[..., Page]) -> None:
    def change(found: Results) -> None:
        for part in ("scores", "seconds", "intervals"):
            found[part].pop("tfidf")
        found["comparison"]["values"].pop("tfidf")
        found["comparison"] |= {"recommended": "probe", "differences": {"fine-tuned": difference(0.0, -0.1, 0.1)}}
        found["intervals"] = {name: difference(0.9, 0.8, 0.95) for name in found["scores"]}

    page = changed(change)
    assert "TF-IDF" not in page.text
    assert "The probe is enough" in page.text
    assert (
        "The probe was the only candidate"
        in changed(lambda found: [change(found), found["scores"].pop("fine-tuned")]).text
    )


@pytest.mark.parametrize("broken", ["", "[1, 2]", "{}", '{"scores": 3, "details": [], "names": {}}'])
def test_a_run_that_is_not_finished_has_a_page(whole: Path, tmp_path: Path, broken: str) -> None:
    output = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(output / "model")
    (output / "finetune" / "manifest.json").unlink()
    (output / "finetune" / "results.json").write_text(broken)
    page = page_of(output)
    assert "A fine-tuning that is not finished" in page.text
    assert "The same command resumes it" in page.text
    assert "neolm predict" not in page.text
    assert "training ends at" in page.html  # the loss so far


@pytest.mark.parametrize(("problem", "baseline"), [("span", "no-answer"), ("tokens", "lookup")])
@pytest.mark.parametrize("low", [0.4, 0.6])
def test_the_page_of_other_tasks(whole: Path, tmp_path: Path, problem: str, baseline: str, low: float) -> None:
    output = shutil.copytree(whole, tmp_path / "run")
    found = {
        "problem": problem,
        "main": "f1",
        "model": "fine-tuned",
        "scores": {baseline: {"f1": 0.5, "labels": {"PER": 0.5}}, "fine-tuned": {"f1": 0.75, "labels": {"PER": 0.8}}},
        "interval": difference(0.75, low, 0.9),
    }
    (output / "finetune" / "results.json").write_text(json.dumps(found))
    page = page_of(output)
    better = "The fine-tuned model is better than a simple baseline"
    assert (better if low > 0.5 else "No candidate is clearly better than a baseline") in page.text
    assert f"has an F1 of 0.750 ({low:.3f} to 0.900)" in page.text
    for words in ("older version", "no inventory", "neolm evaluate"):
        assert words not in page.text
    assert ("--context my-text.txt" in page.text) == (problem == "span")


def test_the_page_of_several_labels(several: Path) -> None:
    page, found = page_of(several), results_of(several)
    assert HOSTILE not in page.html
    value, low, high = found["intervals"][found["comparison"]["recommended"]].values()
    assert f"macro F1 of {value:.3f} ({low:.3f} to {high:.3f})" in page.text
    for words in (
        "Labels that are right",
        "Threshold",
        "Examples of each combination of labels",
        "share that has the label",
    ):
        assert words in page.html
    assert "Labels that may be wrong" not in page.text


def test_the_page_of_numbers(numbers: Path) -> None:
    page = page_of(numbers)
    for words in (
        "Spearman correlation",
        "Predicted numbers",
        "The largest errors",
        "0.5 to 4.5, 5 different",
        "less is better",
    ):
        assert words in page.text, words
    assert "predicted by number in the table" in page.html
    for words in ("Label by label", "Can its probabilities", "Examples of each label", "Labels that may be wrong"):
        assert words not in page.text
    assert "--text-column first --second-column second --label-column score" in page.text
    assert '[("first text", "second text")]' in page.text


def test_texts_that_are_cut_are_named(base: Path, tables: Path, tmp_path: Path) -> None:
    columns = {"text_column": "first", "second_column": "second", "label_column": ["score"]}
    settings = {"task": "regression", "train": tables / "numbers.csv", **columns}
    output = finetuned(base, tmp_path / "run", (PROBE, "finetune.max_length=8"), **settings)
    lengths = results_of(output)["lengths"]["train"]
    assert lengths["cut"] > 0
    assert lengths["divided"] == 0
    words = f"{lengths['cut']} of {lengths['texts']} training texts are longer than 8 tokens and were cut."
    assert words in page_of(output).text


@pytest.mark.parametrize("kind", ["one", "several", "number"])
def test_the_code_of_the_linear_model_is_what_was_measured(kind: str, tables: Path) -> None:
    problems = {"one": "single_label_classification", "several": "multi_label_classification", "number": "regression"}
    draw = random.Random(3)
    texts = np.array([sentence(topic, draw) for topic in [*TOPICS] * 20], object)
    targets = {
        "one": np.arange(40) % 2,
        "several": np.stack([np.arange(40) % 2, np.arange(40) % 3 > 0], 1).astype(int),
        "number": np.arange(40) % 2 + np.arange(40) / 40,
    }[kind]
    labels = {"several": ["a", "b"]}.get(kind, ["label"])
    settings = {"train": "it's.tsv", "text_column": "first", "second_column": "second", "label_column": labels}
    code = FinetuneUsage(Path("run"), settings, FinetuneResults({"problem": problems[kind]})).tfidf_code

    class Table(dict[str, Any]):
        def __getitem__(self, key: Any) -> Any:
            return targets if key == labels or key == labels[0] else super().__getitem__(key)

    def read_csv(path: str, sep: str) -> Table:
        assert (path, sep) == ("it's.tsv", "\t")
        return Table(first=texts, second=texts[::-1])

    values: dict[str, Any] = {"pandas": types.SimpleNamespace(read_csv=read_csv)}  # it is not installed here
    assert code.startswith("import pandas\n")
    exec(code.removeprefix("import pandas\n"), values)
    pairs = list(zip(texts, texts[::-1], strict=True))
    expected = tfidf_logits(pairs, targets, np.ones(40), problems[kind], pairs)  # type: ignore[arg-type]
    inputs, model = [" \n ".join(pair) for pair in pairs], values["model"]
    found = model.predict(inputs) if kind == "number" else model.decision_function(inputs)
    wanted = {
        "one": lambda: expected[:, 1] - expected[:, 0],
        "several": lambda: expected,
        "number": lambda: expected[:, 0],
    }
    np.testing.assert_allclose(found, wanted[kind](), atol=1e-3)


def test_the_card_of_a_classifier(whole: Path, tables: Path) -> None:
    import hashlib

    card = ModelCard.load(whole / "model" / "README.md")
    found = results_of(whole)
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "neolm"  # transformers loads no head on the mean
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == (
        "accuracy",
        round(found["scores"][found["model"]]["accuracy"], 4),
    )
    assert "that gives a text one of 2 labels, fine-tuned from `a base" in card.text
    for name, use in (("train.csv", "training"), ("validation.csv", "validation")):
        digest = hashlib.sha256((tables / name).read_bytes()).hexdigest()
        assert f"| {use} | `{name}` | `{digest}` |" in card.text
    for words in (
        "| Labels | `coast`, `time` |",
        "also in the training table",
        "(this model)",
        f"| Temperature of the logits | {found['prediction']['temperature']:.3f} |",
        "Expected calibration error with it",
        'neolm predict DIRECTORY "Your text"',
        "with `finetune.pooling=first`",
    ):
        assert words in card.text, words
    assert str(tables) not in card.text  # paths can be private
    assert re.search(r"\| Accuracy \|( \d+\.\d% \(\d+\.\d% to \d+\.\d%\) \|){3}", card.text)
    (block,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    exec(block.replace("DIRECTORY", str(whole / "model")), {})


@pytest.mark.parametrize("kind", ["first", "decoder"])
def test_transformers_loads_what_the_card_says(base: Path, tables: Path, tmp_path: Path, kind: str) -> None:
    source, overrides = base, (PROBE, "finetune.tfidf=false", "finetune.pooling=first")
    if kind == "decoder":
        source = tmp_path / "decoder"
        texts = (tables / "train.csv").read_text().splitlines()
        tokenizer = train_tokenizer(iter(texts), 290)
        save_model(tiny_decoder("gpt2", 40, vocab_size=tokenizer.size), source)
        tokenizer.save(source)
        overrides = overrides[:2]
    output = finetuned(source, tmp_path / "run", overrides, train=tables / "train.csv")
    card = ModelCard.load(output / "model" / "README.md")
    assert card.data.library_name == "transformers"
    _, block = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    values: dict[str, Any] = {}
    exec(block.replace("DIRECTORY", str(output / "model")), values)
    assert set(values["model"].config.id2label.values()) == {"coast", "time"}


def test_cards_of_other_tasks(several: Path, numbers: Path) -> None:
    text = model_card(several / "model")
    assert "any number of 2 labels" in text
    assert "Probability from which a label is given | `coast` 0." in text
    text = model_card(numbers / "model")
    assert "gives two texts a number" in text
    assert "| Labels |" not in text
    assert "## Calibration" not in text
    assert "| Spearman correlation |" in text


def test_the_card_without_the_results(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "model", tmp_path / "model")
    assert "This card was written by NeoLM" in model_card(tmp_path / "model")
