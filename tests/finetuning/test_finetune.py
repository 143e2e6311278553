"""`neolm finetune` from a table to a model that predicts, through the real commands."""

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from served import running
from tiny_encoders import VOCABULARY, tiny_encoder
from tiny_models import tiny_decoder
from topic_tables import QUICK, TOPICS, sentence, write_csv

import neolm
from neolm.core.errors import SettingError
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.heads import reinitialise
from neolm.finetuning.trainable import freeze
from neolm.models.adapter_files import load_adapter
from neolm.models.hf import save_model
from neolm.models.stored_model import build
from neolm.tokenizer.tokenizer import train_tokenizer

Topics = Callable[[str, int, int], Path]
Command = Callable[..., tuple[int, str, str]]
TAGS = {"sea": "B-COAST", "water": "B-COAST", "day": "B-TIME", "clock": "B-TIME"}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(neolm_: Command, *arguments: object) -> str:
    code, out, err = neolm_(*arguments)
    assert code == 0, err
    return out + err


def results(output: Path) -> Any:
    return json.loads((output / "finetune" / "results.json").read_text())


def test_from_a_table_to_predictions(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train, validation, test = topics("train.csv", 80, 1), topics("validation.csv", 30, 2), topics("test.csv", 40, 3)
    output = tmp_path / "a run"
    said = run(
        neolm_, "finetune", base, "--task", "classification", "--train", train, "--validation", validation,
        "--text-column", "text", "--label-column", "label", "--output", output, *QUICK,
    )  # fmt: skip
    assert f"{train}: 80 examples, 2 labels: 'coast' (40), 'time' (40)" in said
    assert "recommended is" in said
    found = results(output)
    assert [*found["scores"]] == ["tfidf", "probe", "fine-tuned"]
    assert all(found["scores"][name]["accuracy"] > 0.8 for name in ("tfidf", "fine-tuned")), found["scores"]
    target = tmp_path / "predictions.csv"
    run(neolm_, "predict", output / "model", "--input", test, "--output", target)
    rows = read(target)
    assert [row["text"] for row in rows] == [row["text"] for row in read(test)]
    assert np.mean([row["label"] == row["given_label"] for row in rows]) > 0.8
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    (one,) = neolm.predict(output, rows[0]["text"])
    assert one["label"] == rows[0]["label"]
    with running([str(output)]) as server:  # the server has the same labels, and the same calibrated probabilities
        (name,) = server.service.pool.models
        body = {"model": name, "input": [row["text"] for row in rows]}
        answer = server.client.post("/v1/classify", json=body)
        assert answer.status_code == 200, answer.text
        served = answer.json()["data"]
    assert [each["label"] for each in served] == [row["label"] for row in rows]
    assert [each["probability"] for each in served] == pytest.approx(
        [float(row["probability"]) for row in rows], abs=1e-4
    )
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert "up to date" in run(
        neolm_, "finetune", base, "--train", train, "--validation", validation, "--output", output, *QUICK
    )


def test_the_model_is_the_probe_or_the_best_checkpoint(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    train = topics("train.csv", 80, 1)
    for method in ("probe", "full"):
        output = tmp_path / method
        run(neolm_, "finetune", base, "--train", train, "--output", output, *QUICK, f"finetune.method={method}")
        found = results(output)
        model = neolm.load_model(output)
        chosen = load_file(output / "finetune" / "probe.safetensors")
        if found["model"] == "probe":
            torch.testing.assert_close(model.head.weight, chosen["final_weight"], rtol=0, atol=0)
            trunk = neolm.load_model(base)
            torch.testing.assert_close(model.blocks[0].mlp.expand.weight, trunk.blocks[0].mlp.expand.weight)
        assert (output / "finetune" / "checkpoints").exists() == (method == "full")
    assert [*results(tmp_path / "probe")["scores"]] == ["tfidf", "probe"]


def test_with_the_first_token_transformers_loads_the_model(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    output = tmp_path / "run"
    train = topics("train.csv", 80, 1)
    run(neolm_, "finetune", base, "--train", train, "--output", output, *QUICK, "finetune.pooling=first")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(output / "model")
    assert loaded.config.id2label == {0: "coast", 1: "time"}
    ids = torch.tensor([[2, 6, 7, 5, 3]])
    with torch.no_grad():
        ours, theirs = neolm.load_model(output)(ids), loaded(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_probe_of_a_base_without_a_pooler_is_the_model_that_is_written(
    topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    bare = tmp_path / "bare"
    save_model(tiny_encoder("bert", head="token", pooler=False, vocab_size=len(VOCABULARY), spread=0.3), bare)
    (bare / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    train, validation, output = topics("train.csv", 60, 1), topics("validation.csv", 30, 2), tmp_path / "run"
    options = ("--train", train, "--validation", validation, "--output", output, "--seed", 7)
    settings = ("finetune.method=probe", "finetune.pooling=first", "finetune.precision=float32", "finetune.tfidf=false")
    said = run(neolm_, "finetune", bare, *options, *settings)
    assert "the base has no pooler, so that it is drawn at random" in said
    measured = load_file(output / "finetune" / "probe.safetensors")["logits"].softmax(dim=1)[:, 0]
    predicted = neolm.predict(output, [row["text"] for row in read(validation)], settings={"temperature": 1.0})
    found = torch.tensor([one["probabilities"]["coast"] for one in predicted])
    torch.testing.assert_close(found, measured, rtol=0, atol=1e-4)


def test_pairs(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(1)
    rows = []
    for number in range(160):
        first, second = draw.choice([*TOPICS]), draw.choice([*TOPICS])
        rows.append((sentence(first, draw), sentence(second, draw), "yes" if second == "coast" else "no", number))
    train = write_csv(tmp_path / "pairs.csv", ("one", "other", "answer", "n"), rows)
    output = tmp_path / "run"
    options = ("--text-column", "one", "--second-column", "other")
    run(
        neolm_, "finetune", base, "--task", "pair", "--train", train, *options, "--label-column", "answer", "--output",
        output, *QUICK,
    )  # fmt: skip
    target = tmp_path / "out.jsonl"
    run(neolm_, "predict", output, "--input", train, *options, "--output", target)
    predicted = [json.loads(line) for line in target.read_text().splitlines()]
    assert np.mean([row["label"] == row["answer"] for row in predicted]) > 0.8
    code, _, err = neolm_("predict", output, "one text")
    assert code == 2
    assert "the model reads text and second together; give 2 texts, or a table" in err
    assert re.search("yes|no", run(neolm_, "predict", output, "the sea", "the day"))


def test_several_labels(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(2)
    rows = []
    for _ in range(120):
        flags = [draw.randrange(2), draw.randrange(2)]
        words = [sentence(topic, draw) for topic, flag in zip(TOPICS, flags, strict=True) if flag] or ["the cold is of"]
        rows.append((" ".join(words), *flags))
    train = write_csv(tmp_path / "labels.csv", ("text", *TOPICS), rows)
    output = tmp_path / "run"
    columns = ("--label-column", "coast", "--label-column", "time")
    said = run(neolm_, "finetune", base, "--train", train, *columns, "--output", output, *QUICK)
    assert "'(none)'" in said
    assert "'coast + time'" in said
    found = results(output)
    assert found["problem"] == "multi_label_classification"
    assert found["scores"]["probe"]["macro_f1"] > 0.7
    assert {*found["prediction"]["thresholds"]} == {"coast", "time"}
    one, other, none = neolm.predict(output, ["the sea and the day", "the clock", "the cold is of"])
    assert one["label"] == ["coast", "time"]
    assert other["label"] == ["time"]
    assert none["label"] == []


def test_a_label_without_a_validation_example_is_never_predicted(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(2)
    rows = [(sentence(topic, draw), int(topic == "coast"), int(topic == "time")) for topic in [*TOPICS] * 30]
    train = write_csv(tmp_path / "train.csv", ("text", *TOPICS), rows)
    validation = write_csv(tmp_path / "v.csv", ("text", *TOPICS), [row for row in rows[:20] if row[1]])
    columns = ("--label-column", "coast", "--label-column", "time", "--validation", validation)
    output = tmp_path / "run"
    said = run(neolm_, "finetune", base, "--train", train, *columns, "--output", output, *QUICK)
    assert "the label 'time' is never predicted: no validation example has it" in said
    assert all("time" not in one["label"] for one in neolm.predict(output, [row[0] for row in rows]))
    code, _, err = neolm_("evaluate", output, "--input", train, *columns[:4], "--output", tmp_path / "scores.json")
    assert code == 0, err
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["scores"]["exact_match"] <= 0.5


def test_numbers(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(3)
    rows = [(sentence(topic, draw), 1000.0 if topic == "coast" else 3000.0) for topic in [*TOPICS] * 50]
    train = write_csv(tmp_path / "numbers.csv", ("text", "price"), rows)
    output = tmp_path / "run"
    run(
        neolm_, "finetune", base, "--task", "regression", "--train", train, "--label-column", "price", "--output",
        output, *QUICK,
    )  # fmt: skip
    found = results(output)
    assert found["scale"][0] == pytest.approx(2000, rel=0.2)
    assert all(scores["spearman"] > 0.6 for scores in found["scores"].values())
    low, high = neolm.predict(output, ["the sea is cold", "the clock is cold"])
    assert low["score"] < 2000 < high["score"]
    assert neolm.load_model(output).config.problem == "regression"


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "gpt-neox"])
def test_decoders(family: str, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train = topics("train.csv", 80, 1)
    base, output = tmp_path / "base", tmp_path / "run"
    tokenizer = train_tokenizer(iter([row["text"] for row in read(train)]), 290)
    save_model(tiny_decoder(family, 40, vocab_size=tokenizer.size), base)
    tokenizer.save(base)
    run(neolm_, "finetune", base, "--train", train, "--validation", train, "--output", output, *QUICK)
    found = results(output)
    assert found["scores"]["fine-tuned"]["accuracy"] > 0.8
    predicted = neolm.predict(output, [row["text"] for row in read(train)])
    assert np.mean([a["label"] == b["label"] for a, b in zip(predicted, read(train), strict=True)]) > 0.8
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(output / "model")
    ids = torch.tensor([tokenizer.encode("the sea is cold")])
    with torch.no_grad():
        torch.testing.assert_close(neolm.load_model(output)(ids), loaded(ids).logits, rtol=0, atol=1e-5)
    code, _, err = neolm_("generate", output, "the sea")
    assert code == 2
    assert "classif" in err


def test_a_probe_is_fitted_again_if_its_validation_part_was_drawn(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    train, validation = topics("train.csv", 80, 1), topics("validation.csv", 30, 2)
    quick = (*QUICK, "finetune.method=probe", "finetune.tfidf=false")
    for name, options in (("given", ("--validation", validation)), ("drawn", ())):
        output = tmp_path / name
        run(neolm_, "finetune", base, "--train", train, *options, "--output", output, *quick)
        found = load_file(output / "finetune" / "probe.safetensors")
        assert torch.equal(found["weight"], found["final_weight"]) == (name == "given")
        torch.testing.assert_close(neolm.load_model(output).head.weight, found["final_weight"], rtol=0, atol=0)


@pytest.mark.parametrize("task", ["classification", "tokens"])
def test_lora(base: Path, topics: Topics, tmp_path: Path, neolm_: Command, task: str) -> None:
    train, output = topics("train.csv", 80, 1), tmp_path / "run"
    if task == "tokens":
        rows = [
            {"tokens": row["text"].split(), "tags": [TAGS.get(w, "O") for w in row["text"].split()]}
            for row in read(train)
        ]
        train = tmp_path / "train.jsonl"
        train.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    lora = (
        "finetune.method=lora",
        "finetune.lora.rank=4",
        "finetune.lora.targets=[qkv, expand]",
        "finetune.learning_rate=5e-3",
    )
    options = ("--task", task, "--train", train, "--validation", train, "--output", output)
    run(neolm_, "finetune", base, *options, *QUICK, *lora, "finetune.epochs=20")
    found = results(output)
    assert found["scores"]["fine-tuned"]["accuracy" if task == "classification" else "f1"] > 0.8
    model, before = neolm.load_model(output), neolm.load_model(base)
    assert not torch.equal(model.blocks[0].attention.qkv.weight, before.blocks[0].attention.qkv.weight)
    assert torch.equal(model.blocks[0].attention.output.weight, before.blocks[0].attention.output.weight)
    assert torch.equal(model.embedding.weight, before.embedding.weight)
    again = build(model.config)
    own = dict(again.named_parameters())
    with torch.no_grad():
        for name, parameter in before.named_parameters():
            if name in own and not name.startswith("head."):
                own[name].copy_(parameter)
    load_adapter(again, output / "model" / "adapter")
    ids = torch.tensor([[2, 6, 7, 5, 3]])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids), model(ids), rtol=0, atol=1e-5)


def test_several_seeds(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train, validation, output = topics("train.csv", 60, 1), topics("validation.csv", 40, 2), tmp_path / "run"
    options = ("--train", train, "--validation", validation)
    few = (*QUICK, "finetune.epochs=2", "finetune.tfidf=false")
    said = run(neolm_, "finetune", base, *options, "--output", output, *few, "finetune.seeds=3")
    found = results(output)
    assert {path.name for path in (output / "finetune").glob("seed-*")} == {"seed-1", "seed-2", "seed-3"}
    assert found["seeds"]["runs"] == 3
    assert re.search(r"accuracy over 3 seeds: median 0\.\d+, 0\.\d+ to [01]\.\d+; none failed", said)
    assert found["scores"]["fine-tuned"]["accuracy"] == found["seeds"]["highest"]
    alone = tmp_path / "alone"
    seed = found["run"] + 1
    run(neolm_, "finetune", base, *options, "--output", alone, *few, "--seed", seed)
    assert results(alone)["scores"] == found["scores"]  # a seed gives the same training, alone or among others
    if found["model"] == results(alone)["model"] == "fine-tuned":
        ids = torch.tensor([[2, 6, 7, 5, 3]])
        with torch.no_grad():
            torch.testing.assert_close(neolm.load_model(output)(ids), neolm.load_model(alone)(ids), rtol=0, atol=0)


def test_a_search_keeps_the_best_combination(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    train, validation, output = topics("train.csv", 60, 1), topics("validation.csv", 40, 2), tmp_path / "run"
    options = ("--train", train, "--validation", validation)
    few = ("finetune.tfidf=false", "finetune.precision=float32", "finetune.epochs=3")
    rates = "finetune.search.learning_rate=[1e-6,5e-3,5e-3]"  # an equal value counts once
    searched = ("finetune", base, *options, "--output", output, *few, rates, "finetune.search.batch_size=[8,20]")
    said = run(neolm_, *searched, "finetune.seeds=2")
    assert "search 4 of 4: learning_rate=0.005, batch_size=20" in said
    assert "learning_rate  batch_size  accuracy\n" in said
    found = results(output)
    rows = found["search"]["tried"]
    assert found["search"]["chosen"] == {name: rows[0][name] for name in ("learning_rate", "batch_size")}
    assert sorted((row["learning_rate"], row["batch_size"]) for row in rows) == [
        *((1e-6, 8), (1e-6, 20), (5e-3, 8), (5e-3, 20))
    ]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert rows[0]["score"] > rows[-1]["score"]  # a rate of 1e-6 learns nothing in three epochs
    best = f"learning_rate={rows[0]['learning_rate']:g},batch_size={rows[0]['batch_size']}"
    places = output / "finetune" / "search"
    assert len([*places.iterdir()]) == 4
    assert [path.parent.name for path in places.glob("*/checkpoints")] == [best]
    assert (output / "finetune" / "seed-2").is_dir()  # the second seed has the settings of the best
    assert not (output / "finetune" / "seed-1").exists()
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "the best of 4 combinations on the same validation examples" in page
    alone = tmp_path / "alone"
    settings = [f"finetune.{setting}" for setting in best.split(",")]
    run(neolm_, "finetune", base, *options, "--output", alone, *few, *settings)
    again = load_file(alone / "finetune" / "fine-tuned.safetensors")["logits"]
    assert torch.equal(load_file(places / best / "fine-tuned.safetensors")["logits"], again)
    # A run that was killed at its end trains nothing again.
    (output / "finetune" / "manifest.json").unlink()
    before = {path: path.read_bytes() for path in places.glob("*/metrics.jsonl")}
    run(neolm_, *searched, "finetune.seeds=2")
    assert {path: path.read_bytes() for path in places.glob("*/metrics.jsonl")} == before
    assert {**results(output), "seconds": 0} == {**found, "seconds": 0}


def test_a_search_that_cannot_work_is_refused_before_the_training(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    options = ("finetune", base, "--train", topics("train.csv", 60, 1), "--output", tmp_path / "run")
    code, _, err = neolm_(*options, "finetune.steps=5", "finetune.search.epochs=[1,2]")
    assert code == 2
    assert "search.epochs: give no steps with it" in err
    code, _, err = neolm_(*options, "finetune.search.batch_size=[8,2000]")
    assert code == 2
    assert "batch_size: 2000 is more than the 54 training examples" in err
    code, _, err = neolm_(*options, "finetune.search.learning_rate=[0]")
    assert code == 2
    assert not (tmp_path / "run" / "finetune").exists()


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_layers_keep_their_weights(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command, frozen: int
) -> None:
    train, output = topics("train.csv", 80, 1), tmp_path / "run"
    options = ("--train", train, "--validation", train, "--output", output)
    run(neolm_, "finetune", base, *options, *QUICK, f"finetune.frozen_layers={frozen}", "finetune.epochs=12")
    assert results(output)["model"] == "fine-tuned"
    model, before = neolm.load_model(output), dict(neolm.load_model(base).named_parameters())
    for name, parameter in model.named_parameters():
        kept = not name.startswith(("blocks", "head")) or (frozen and name.startswith("blocks.0."))
        if name in before and not name.startswith("head"):
            assert torch.equal(parameter, before[name]) == bool(kept), name
    code, _, err = neolm_("finetune", base, "--train", train, "--output", tmp_path / "all", "finetune.frozen_layers=2")
    assert code == 2
    assert "finetune.frozen_layers: 2 of 2 layers" in err


def test_the_highest_layers_can_be_drawn_anew(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    model = build(tiny_encoder("bert", head="sequence", num_labels=2, pooling="first").config).initialise(1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    reinitialise(model, 1, seed=2)
    for name, parameter in model.named_parameters():
        drawn = name.startswith(("blocks.1.", "pooler", "head")) and name.endswith("weight") and "norm" not in name
        assert torch.equal(parameter, before[name]) == (not drawn), name
    again = build(model.config).initialise(1)
    reinitialise(again, 1, seed=2)
    assert torch.equal(again.head.weight, model.head.weight)
    for layers, other in ((2, model), (1, tiny_encoder("albert", head="sequence", num_labels=2))):
        with pytest.raises(SettingError, match=f"reinitialised_layers: {layers} of {layers} stored layers"):
            reinitialise(other, layers, seed=2)
    both = ("finetune.frozen_layers=1", "finetune.reinitialised_layers=2")  # a frozen layer of random numbers
    code, _, err = neolm_("finetune", base, "--train", topics("both.csv", 80, 1), "--output", tmp_path / "both", *both)
    assert code == 2
    assert "finetune.reinitialised_layers: 2 of 2 layers, of which 1 are frozen" in err
    # In a run, the training begins from them: with a rate of almost 0, it knows nothing.
    train = topics("train.csv", 80, 1)
    output = tmp_path / "run"
    options = ("--train", train, "--validation", train, "--output", output)
    quick = ("finetune.epochs=1", "finetune.learning_rate=1e-9", "finetune.tfidf=false")
    run(neolm_, "finetune", base, *options, *quick, "finetune.reinitialised_layers=1")
    scores = results(output)["scores"]
    assert scores["probe"]["accuracy"] > scores["fine-tuned"]["accuracy"] + 0.2


def test_labels_are_names_in_a_stated_order(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(4)
    rows = [(sentence(topic, draw), label) for topic, label in zip([*TOPICS] * 30, ["10", "9.0"] * 30, strict=True)]
    train = write_csv(tmp_path / "train.csv", ("text", "label"), rows)
    output = tmp_path / "run"
    run(neolm_, "finetune", base, "--train", train, "--output", output, *QUICK, "finetune.method=probe")
    assert json.loads((output / "model" / "config.json").read_text())["id2label"] == {"0": "9", "1": "10"}


def test_predictions_do_not_depend_on_batch_or_order(
    base: Path, topics: Topics, tmp_path: Path, neolm_: Command
) -> None:
    output = tmp_path / "run"
    run(neolm_, "finetune", base, "--train", topics("train.csv", 80, 1), "--output", output, *QUICK)
    texts = [row["text"] for row in read(topics("test.csv", 40, 7))]
    whole = neolm.predict(output, texts)
    for other in (neolm.predict(output, texts, batch_size=1), neolm.predict(output, texts[::-1], batch_size=7)[::-1]):
        assert [row["label"] for row in other] == [row["label"] for row in whole]
        for a, b in zip(whole, other, strict=True):
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


def test_long_texts_are_read_in_windows_and_counted(base: Path, tmp_path: Path, neolm_: Command) -> None:
    draw = random.Random(5)
    rows = [(" ".join([sentence(topic, draw)] + ["of"] * 70), topic) for topic in [*TOPICS] * 30]
    rows = [(text if draw.random() < 0.5 else " ".join(reversed(text.split())), label) for text, label in rows]
    train = write_csv(tmp_path / "train.csv", ("text", "label"), rows)
    said = run(neolm_, "finetune", base, "--train", train, "--output", tmp_path / "windows", *QUICK)
    assert re.search(r"5\d of 5\d texts have more than 40 tokens; they are read in 1\d\d windows in all", said)
    (found,) = neolm.predict(tmp_path / "windows", "the sea is " + "of " * 100)
    assert found["windows"] == 4
    assert 1 <= found["window"] <= 4
    said = run(
        neolm_, "finetune", base, "--train", train, "--output", tmp_path / "cut", *QUICK, "finetune.long_text=truncate"
    )
    assert re.search(r"texts are cut to 40 tokens", said)
    (found,) = neolm.predict(tmp_path / "cut", "the sea is " + "of " * 100)
    assert "windows" not in found
    assert found["left_out_tokens"] == 103 - 38


def test_no_answer_below_the_stored_probability(base: Path, topics: Topics, tmp_path: Path, neolm_: Command) -> None:
    output = tmp_path / "run"
    train = topics("train.csv", 80, 1)
    run(neolm_, "finetune", base, "--train", train, "--output", output, *QUICK, "finetune.method=probe")
    path = output / "model" / "prediction.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "abstain_below": 0.9999}))
    assert "(no answer)" in run(neolm_, "predict", output, "the cold of was")
    (one,) = neolm.predict(output, "the cold of was")
    assert one["label"] is None
    assert one["probability"] < 0.9999
    (one,) = neolm.predict(output, "the cold of was", settings={"abstain_below": 0.0})
    assert one["label"] in TOPICS


def test_the_numbers_of_steps_follow_from_the_examples() -> None:
    def resolved(examples: int, **settings: Any) -> tuple[int, int, int]:
        config = FinetuneConfig(task="classification", train="t.csv", **settings).resolved(examples)
        return config.total_steps, config.warmup_steps, config.validate_every

    assert resolved(64_000) == (6000, 600, 600)  # 3 epochs
    assert resolved(6400) == (1000, 100, 100)  # 5 epochs: 1,000 steps
    assert resolved(640) == (400, 40, 20)  # 20 epochs
    assert resolved(640, epochs=2.0) == (40, 4, 4)
    assert resolved(640, steps=7, warmup_steps=2) == (7, 2, 1)


def test_few_examples_are_one_batch(capsys: pytest.CaptureFixture[str]) -> None:
    config = FinetuneConfig(task="classification", train="t.csv").resolved(10)
    assert (config.batch_size, config.total_steps) == (10, 20)
    assert "finetune.batch_size is 10, because there are 10 training examples" in capsys.readouterr().err


def test_layers_that_share_parameters_are_not_frozen() -> None:
    config = FinetuneConfig(task="classification", train="t.csv", frozen_layers=1)
    with pytest.raises(SettingError, match="share their parameters"):
        freeze(tiny_encoder("albert", groups=2, blocks_per_group=1), config, 0)
    freeze(tiny_encoder("albert", groups=2, blocks_per_group=1), config.model_copy(update={"frozen_layers": 0}), 0)
