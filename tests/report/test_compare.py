"""`neolm compare`: the printed table, the page, and mistakes as one clear line."""

import json
import re
import sys
from pathlib import Path

import pytest
from html_page import Page

import neolm.cli
from neolm.core.artifact import Clock, Stage
from neolm.core.manifest import Input, input_from
from neolm.models.config import decoder_config
from neolm.models.decoder import count_parameters
from neolm.report.training_run import read_training_runs

SHAPE = decoder_config("gpt-neo", vocab_size=50, hidden_size=8, num_layers=1, num_heads=2, max_position_embeddings=8)
ENERGY = {"kwh": 0.0421, "method": "measured by RAPL (package-0), without GPUs"}


def make_run(output, steps=20, rate=1e-3, batch=4, finished=True, energy=ENERGY, speed=1000.0, shift=0.0, **inputs):
    """A run's directory as far as it is compared: `pretrain/` with its settings, rows and, at the end, its manifest."""
    directory = output / "pretrain"
    directory.mkdir(parents=True)
    settings = {
        "model": json.loads(SHAPE.model_dump_json()),
        "pretrain": {"steps": 20, "learning_rate": rate, "batch_size": batch},
        "seed": 1,
    }
    digests = {"shards": "5" * 64, "tokenizer": "7" * 64} | inputs
    config = {**settings, "inputs": {name: {"path": name, "digest": digest} for name, digest in digests.items()}}
    (directory / "config.json").write_text(json.dumps({**config, "precision": "float32"}))
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 3 + shift + 2 / step, "learning_rate": rate, "grad_norm": 1.0, "mfu": 0.25}
        rows.append(row | {"tokens": step * batch * 8, "tokens_per_second": speed, "memory_bytes": 2**30})
        if step % 5 == 0:
            rows.append({"step": step, "validation_loss": 3.5 + shift + abs(step - 15) / 100})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        counts = {"parameters": 12_345, "training_seconds": 7.5}
        Stage("pretrain", "training", directory, {}, settings).seal(directory, counts, Clock(), False, energy)
    return output


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """`neolm compare` in this process and an empty directory; gives (exit code, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["neolm", "compare", *map(str, arguments)])
        code = 0
        try:
            neolm.cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def refused(result, *words):
    code, printed, said = result
    assert code == 2, said
    assert printed == ""
    (line,) = said.strip().splitlines()
    for word in ("neolm: ", *words):
        assert word in line, line


def cells(printed, name):
    """The cells of a printed row."""
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{name}  ")]
    return re.split(r"\s{2,}", line)[1:]


def charts(page):
    """The titles of the pictures, each once."""
    return list(dict.fromkeys(re.findall(r"<title id=[^>]*>([^<]*)</title>", page.html)))


def test_two_runs_in_numbers_and_settings(tmp_path, call):
    make_run(tmp_path / "first")
    make_run(tmp_path / "second", rate=2e-3, shift=1, speed=1500.0, energy={"kwh": 0.001, "method": "estimate: x"})
    code, printed, _ = call(tmp_path / "first", tmp_path / "second" / "pretrain")
    assert code == 0
    assert cells(printed, "Steps") == ["20", "20"]
    assert cells(printed, "Best validation loss") == ["3.5000 at step 15", "4.5000 at step 15"]
    assert cells(printed, "Final validation loss") == ["3.5500", "4.5500"]
    assert cells(printed, "Training loss") == ["3.1000", "4.1000"]
    assert cells(printed, "Tokens") == ["640", "640"]
    assert cells(printed, "Tokens per second") == ["1k", "1.5k"]
    assert cells(printed, "MFU") == ["25.0%", "25.0%"]
    assert cells(printed, "Time") == ["8s", "8s"]
    assert cells(printed, "Energy") == ["42\u00a0Wh measured", "1\u00a0Wh estimate"]
    assert cells(printed, "Parameters") == ["12.3k", "12.3k"]
    assert cells(printed, "pretrain.learning_rate") == ["0.001", "0.002"]
    assert "batch_size" not in printed
    assert "compare" not in printed.splitlines()[0]
    assert printed.splitlines()[-1] == "compare.html"
    assert Path("compare.html").is_file()


def test_a_run_that_is_still_training(tmp_path, call):
    make_run(tmp_path / "done")
    with (make_run(tmp_path / "running", steps=9, finished=False) / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    code, printed, _ = call(tmp_path / "done", tmp_path / "running")
    assert code == 0
    assert cells(printed, "Steps") == ["20", "9 of 20, not finished"]
    assert cells(printed, "Energy")[1] == "\u2013"
    assert cells(printed, "Time")[1] == "0s"  # 288 tokens, 1000 a second
    assert cells(printed, "Parameters")[1] == f"{count_parameters(SHAPE) / 1000:.3g}k"
    assert "settings and inputs are the same" in printed


def test_the_page_draws_every_run_and_loads_nothing(tmp_path, call):
    names = ["a <run> & more", "b", "c"]
    for number, name in enumerate(names):
        make_run(tmp_path / name, shift=number)
    assert call(*(tmp_path / name for name in names), "--output", "page.html")[0] == 0
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    page.assert_self_contained()
    assert len(set(page.ids)) == len(page.ids)
    assert "a <run> & more has the lowest validation loss: 3.500, at step 15." in page.text
    assert "None: these runs have the same settings and inputs." in page.text
    together = "a &lt;run&gt; &amp; more and b and c"
    assert charts(page) == [
        f"{together}: {label} by {axis}"
        for label, axis in (
            ("training loss, nats per token", "step"),
            ("validation loss, nats per token", "step"),
            ("training loss", "seconds of training"),
            ("validation loss", "seconds of training"),
            ("tokens per second", "step"),
            ("gradient norm", "step"),
            ("learning rate", "step"),
            ("peak memory, GiB", "step"),
        )
    ]
    assert "a <run> & more ends at 3.10, b ends at 4.10, c ends at 5.10" in page.text
    (numbers,) = re.findall(r'<section id="numbers".*?</section>', page.html, re.DOTALL)
    assert re.findall(r'<svg class="chart swatch".*?<g class="(\w+)"', numbers) == ["first", "second", "third"]


def test_losses_are_drawn_over_tokens_if_batches_differ(tmp_path, call):
    make_run(tmp_path / "small")
    make_run(tmp_path / "large", batch=16)
    assert call(tmp_path / "small", tmp_path / "large")[0] == 0
    page = Page(Path("compare.html").read_text(encoding="utf-8"))
    assert [title for title in charts(page) if title.endswith("by tokens")] == [
        "small and large: training loss by tokens",
        "small and large: validation loss by tokens",
    ]


def test_losses_by_tokens_and_by_time(tmp_path):
    make_run(tmp_path / "done", steps=6)
    make_run(tmp_path / "running", steps=6, finished=False, speed=64.0)
    done, running = read_training_runs([tmp_path / "done", tmp_path / "running"])
    assert [x for x, _ in running.by("loss", "tokens")] == [32, 64, 96, 128, 160, 192]
    assert running.by("validation_loss", "tokens") == [(160, 3.6)]
    assert [x for x, _ in running.by("loss", "seconds")] == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3])
    assert running.by("validation_loss", "seconds") == [(pytest.approx(2.5), 3.6)]
    assert running.seconds == pytest.approx(3)
    assert done.by("loss", "seconds")[-1][0] == pytest.approx(7.5)  # what was recorded, not what the rows add up to


ONE_TEXT = "neolm evaluate RUN --text TEXT"


@pytest.mark.parametrize(
    ("inputs", "notes"),
    [
        ({}, []),
        ({"shards": "8" * 64}, ["trained on different text", ONE_TEXT]),
        ({"shards": "8" * 64, "tokenizer": "9" * 64}, ["different tokenizers", ONE_TEXT]),
    ],
)
def test_losses_that_are_not_comparable(tmp_path, call, inputs, notes):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **inputs)
    code, printed, _ = call(tmp_path / "a", tmp_path / "b")
    page = Page(Path("compare.html").read_text(encoding="utf-8"))
    assert code == 0
    assert "Bits per byte" not in printed
    for text in (printed, page.text):
        assert [
            note for note in ("trained on different text", "different tokenizers", ONE_TEXT) if note in text
        ] == notes
        assert ("inputs.shards" in text) == bool(notes)
    assert ("has the lowest validation loss" in page.text) == ("different tokenizers" not in notes)
    if notes:
        assert cells(printed, "inputs.shards") == ["5" * 12, "8" * 12]


def add_scores(run, value, digest="d", trained_since=False):
    """Bits per byte of a run, measured on the text with this digest."""
    Stage("model", "training", run / "model", {"pretrain": input_from(run / "pretrain", run)}, {}).build(lambda _: {})
    inputs = {"model": Input("model", "0" * 64) if trained_since else input_from(run / "model", run)}
    protocols = {"likelihood-1": {"data": {"digest": digest}, "confidence": 0.95}}
    entry = {"value": value, "low": value - 0.1, "high": value + 0.1, "protocol": "likelihood-1"}

    def write(directory):
        (directory / "scores.json").write_text(json.dumps({"bits_per_byte": entry, "protocols": protocols}))
        return {}

    Stage("evaluation", "evaluation", run / "evaluation", inputs, {}).build(write)


def test_bits_per_byte_of_the_same_text_are_compared(tmp_path, call):
    for name, value in (("a", 1.9), ("b", 1.8), ("c", 1.7)):
        add_scores(make_run(tmp_path / name, tokenizer=name), value, trained_since=name == "c")
    code, printed, _ = call(*(tmp_path / name for name in "abc"))
    assert code == 0
    assert cells(printed, "Bits per byte") == ["1.900 (1.800 to 2.000)", "1.800 (1.700 to 1.900)", "\u2013"]
    page = Page(Path("compare.html").read_text(encoding="utf-8"))
    assert "b needs the fewest bits per byte of held-out text: 1.800." in page.text
    assert "Bits per byte of the same held-out text; fewer are better" in page.text
    assert ONE_TEXT not in printed


def test_bits_per_byte_of_different_texts_are_not_compared(tmp_path, call):
    for name in "ab":
        add_scores(make_run(tmp_path / name), 1.9, digest=name)
    code, printed, _ = call(tmp_path / "a", tmp_path / "b")
    page = Page(Path("compare.html").read_text(encoding="utf-8"))
    assert code == 0
    assert "1.9" not in printed
    assert "fewest bits" not in page.text
    for text in (printed, page.text):
        assert "evaluated on different held-out text" in text
        assert ONE_TEXT in text


def test_runs_of_the_same_name_are_distinguished_by_their_folders(tmp_path, call):
    for place in ("x/run", "y/run", "z/y/run", "other"):
        make_run(tmp_path / place)
    runs = read_training_runs([tmp_path / place for place in ("x/run", "y/run", "z/y/run", "other")])
    assert [run.name for run in runs] == ["x/run", f"{tmp_path.name}/y/run", "z/y/run", "other"]


def test_a_directory_that_was_moved_is_named_after_itself(tmp_path):
    make_run(tmp_path / "a")
    (make_run(tmp_path / "b") / "pretrain").rename(tmp_path / "kept")
    assert [run.name for run in read_training_runs([tmp_path / "a", tmp_path / "kept"])] == ["a", "kept"]


def test_many_runs_are_printed_below_one_another(tmp_path, call, monkeypatch):
    for number in range(9):
        make_run(tmp_path / f"number-{number}", rate=number + 1)
    monkeypatch.setenv("COLUMNS", "90")
    code, printed, _ = call(*sorted(tmp_path.glob("number-*")))
    assert code == 0
    assert max(map(len, printed.splitlines())) <= 90
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("pretrain.learning_rate")][-1] == "9"
    assert printed.count("Best validation loss") == 3
    looks = re.findall(r'class="chart swatch".*?(<g [^>]*>)', Path("compare.html").read_text(encoding="utf-8"))
    assert len(set(looks)) == 9


def test_a_setting_that_one_run_does_not_have(tmp_path, call):
    for name in ("a", "b"):
        path = make_run(tmp_path / name) / "pretrain" / "config.json"
        config = json.loads(path.read_text())
        config["pretrain"] |= {"z_loss": 1e-4, "no_decay": ["norm"], "track": None} if name == "a" else {}
        path.write_text(json.dumps(config))
    _, printed, _ = call(tmp_path / "a", tmp_path / "b")
    assert cells(printed, "pretrain.z_loss") == ["0.0001", "none"]
    assert cells(printed, "pretrain.no_decay") == ['["norm"]', "none"]
    assert "track" not in printed  # null and not there are the same


# ---- mistakes ----


def test_fewer_than_two_or_the_same_twice(tmp_path, call):
    run = make_run(tmp_path / "run")
    refused(call(run), "at least two runs")
    refused(call(run, run / "pretrain"), str(run / "pretrain"), "given twice")
    (tmp_path / "link").symlink_to(run)
    refused(call(run, tmp_path / "link"), "link", "given twice")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: None, ("no such directory",)),
        (lambda run: run.write_text("a file"), ("no such directory",)),
        (lambda run: run.mkdir(), ("no training was started here",)),
        (lambda run: (make_run(run) / "pretrain" / "metrics.jsonl").unlink(), ("no step has been logged yet",)),
        (lambda run: (make_run(run) / "pretrain" / "metrics.jsonl").write_text("{"), ("no step has been logged yet",)),
        (lambda run: (make_run(run) / "pretrain" / "config.json").unlink(), ("config.json", "not the settings")),
        (
            lambda run: (make_run(run) / "pretrain" / "config.json").write_text("[]"),
            ("config.json", "not the settings"),
        ),
        (
            lambda run: (make_run(run) / "pretrain" / "config.json").write_text('{"inputs": {"shards": 3}}'),
            ("config.json", "not the settings"),
        ),
    ],
)
def test_directories_that_are_not_runs(tmp_path, call, spoil, words):
    spoil(tmp_path / "bad run")
    refused(call(make_run(tmp_path / "good"), tmp_path / "bad run"), "bad run", *words)
    assert not Path("compare.html").exists()


def test_settings_of_another_version_are_shown(tmp_path, call):
    for name in ("a", "b"):
        run = make_run(tmp_path / name, finished=False)
        (run / "pretrain" / "config.json").write_text(json.dumps({"model": {"shape": name}, "pretrain": {}}))
    code, printed, said = call(tmp_path / "a", tmp_path / "b")
    assert code == 0, said
    assert cells(printed, "Parameters") == ["\u2013", "\u2013"]
    assert cells(printed, "Steps") == ["20 not finished", "20 not finished"]
    assert cells(printed, "model.shape") == ["a", "b"]


def test_rows_without_losses_or_speeds(tmp_path, call):
    for name in ("a", "b"):
        run = make_run(tmp_path / name, finished=False)
        (run / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": NaN}\n')
    code, printed, said = call(tmp_path / "a", tmp_path / "b")
    assert code == 0, said
    for name in ("Best validation loss", "Training loss", "Tokens", "MFU", "Time"):
        assert cells(printed, name) == ["\u2013", "\u2013"]
    page = Page(Path("compare.html").read_text(encoding="utf-8"))
    assert "Fewer than two of them have a validation loss." in page.text


def test_only_pages_written_by_neolm_are_replaced(tmp_path, call):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    Path("thesis.html").write_text("<!doctype html><p>precious")
    refused(call(*runs, "--output", "thesis.html"), "thesis.html", "not a page written by NeoLM", "not changed")
    assert Path("thesis.html").read_text() == "<!doctype html><p>precious"
    refused(call(*runs, "--output", tmp_path), str(tmp_path), "is a directory", "compare.html")
    refused(call(*runs, "--output", "nowhere/page.html"), "nowhere", "no such directory")
    refused(call(*runs, "--output", "/proc/page.html"), "/proc")
    assert call(*runs)[0] == call(*runs)[0] == 0
