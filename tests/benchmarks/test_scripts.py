"""Smoke tests of the benchmarks with tiny shapes and NeoLM only; peers would be installed from a package index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from tiny_encoders import write_encoder
from topic_tables import write_csv

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import train_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = (
    *("train_throughput", "encoders", "finetune", "finetune_scores", "time_to_quality", "decode"),
    *("quantization_cost", "encoder_inference", "extraction", "encoding"),
)
# Without this, the PYTHONPATH of coverage or a debugger would affect the processes.
ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / f"{script}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_import_heavy_packages(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.path[0] + f'/{sys.argv[0]}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'neolm', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout


def test_train_throughput_with_neolm_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- train_throughput -->\nold\n<!-- end of train_throughput -->\nafter\n", encoding="utf-8"
    )
    options = ["--shapes", "smoke", "--contestants", "neolm", "--rounds", "2", "--threads", "1"]
    places = ["--environments", tmp_path / "peers", "--output", tmp_path / "out.json", "--docs", page]
    done = run("train_throughput", *options, *places)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    ours = results["shapes"]["smoke"]["contestants"]["neolm"]
    assert len(ours["seconds"]) == 2
    assert min(ours["seconds"]) > 0
    assert ours["memory"] > 50e6
    # embeddings of 128 and 64 rows; two layers without three of the biases; the final norm
    assert ours["parameters"] == (128 + 64) * 32 + 2 * (12 * 32 * 32 + 10 * 32) + 2 * 32
    assert len(results["measured"]) == 3  # before the first round, and in each round
    assert results["measured"][0]["flops"] > 1e9
    assert results["command"] == "python benchmarks/train_throughput.py " + " ".join(options)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- train_throughput -->")
    assert text.endswith("<!-- end of train_throughput -->\nafter\n")
    assert "| neolm |" in text
    assert "old" not in text
    assert str(tmp_path) not in text


def test_encoders_with_neolm_only(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for first in "bcdfghjk":
        lines = (f"Then {first}{a}{b}{c} saw the {b}{c}{a}{first}." for a in "aeiou" for b in "lmnrst" for c in "aeioy")
        (tmp_path / "texts" / f"{first}.txt").write_text("\n".join(lines), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- encoders -->\nold\n<!-- end of encoders -->\nafter\n", encoding="utf-8")
    options = ["--shapes", "smoke", "--contestants", "neolm", "--rounds", "2", "--threads", "1"]
    places = ["--environments", tmp_path / "peers", "--output", tmp_path / "out.json", "--docs", page]
    done = run("encoders", "--text", tmp_path / "texts", *options, *places)
    assert done.returncode == 0, done.stderr
    shape = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["shapes"]["smoke"]
    ours = shape["contestants"]["neolm"]
    # two steps before the first turn, then two turns of two steps with their real tokens
    assert len(shape["tokens"]) == 6
    assert ours["tokens"] == [sum(shape["tokens"][2:4]), sum(shape["tokens"][4:])]
    assert 0 < shape["padding"] < 0.5
    assert max(shape["tokens"]) <= 4 * 32
    # embeddings, projection, one block of four matrices and two more, pooler and both heads
    tables, block = (300 + 64 + 2) * 16 + 2 * 16, 12 * 32 * 32 + 13 * 32
    heads = 32 * 16 + 3 * 16 + 300 + 32 * 32 + 32 + 2 * 32 + 2
    assert ours["parameters"] == tables + 16 * 32 + 32 + block + heads
    text = page.read_text(encoding="utf-8")
    assert "| neolm |" in text
    assert "old" not in text
    assert str(tmp_path) not in text
    failed = run("encoders", "--text", tmp_path / "none", *options, *places[:2])
    assert failed.returncode == 1
    assert failed.stderr.strip().endswith("smoke: the data could not be made; the messages above say why")


def test_finetune_with_neolm_only(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")
    rows = [("water", "coast"), ("the day and the clock", "time"), ("the sea " * 40, "coast")] * 4
    table = write_csv(tmp_path / "topics.csv", ("question", "topic"), rows)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- finetune -->\nold\n<!-- end of finetune -->\nafter\n", encoding="utf-8")
    columns = ["--text-column", "question", "--label-column", "topic", "--max-length", "16", "--batch-size", "4"]
    names = ("neolm", "neolm-frozen-embeddings")
    options = [*columns, "--contestants", *names, "--rounds", "2", "--steps", "3", "--threads", "1"]
    places = ["--environments", tmp_path / "peers", "--output", tmp_path / "out.json", "--docs", page]
    done = run("finetune", "--model", tmp_path / "model", "--data", f"short={table}", *options, *places)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["tables"]["short"]
    assert (found["examples"], found["labels"], found["longest"]) == (12, 2, 16)
    assert 0 < found["padding"] < 1
    for name in names:
        assert found["contestants"][name]["tokens"] == [12, 12]  # examples of two turns
        assert len(found["contestants"][name]["seconds"]) == 2
    everything, frozen = (found["contestants"][name]["parameters"] for name in names)
    assert everything - frozen > 1000  # the vocabulary, positions and token types
    text = page.read_text(encoding="utf-8")
    assert "| neolm-frozen-embeddings |" in text
    assert "old" not in text
    assert str(tmp_path) not in text
    missing = run("finetune", "--model", tmp_path / "model", "--data", f"short={tmp_path / 'none.csv'}", *options)
    assert missing.returncode == 1
    assert missing.stderr.strip().endswith("short: the data could not be made; the messages above say why")


@pytest.mark.slow
def test_finetune_scores_with_neolm_only(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")
    (tmp_path / "glue" / "CoLA").mkdir(parents=True)
    for part in ("train", "dev"):
        rows = [f"gj04\t{n % 2}\t\tthe {('sea', 'day')[n % 2]} is cold {'a ' * (n % 5)}" for n in range(40)]
        (tmp_path / "glue" / "CoLA" / f"{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = ["--tasks", "cola", "--contestants", "neolm", "--seeds", "1", "--threads", "1"]
    places = ["--glue", tmp_path / "glue", "--directory", tmp_path / "cells", "--environments", tmp_path / "peers"]
    command = ("finetune_scores", "--model", tmp_path / "model", *options, *places)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "cola-neolm-1: " in done.stderr
    cell = json.loads((tmp_path / "cells" / "cola-neolm-1.json").read_text(encoding="utf-8"))
    assert set(cell) == {"neolm", "neolm-probe", "neolm-kept"}
    assert cell["neolm-probe"]["matthews"] > 0.9
    assert f"| cola | matthews | neolm-probe | {cell['neolm-probe']['matthews']:.4f} |" in done.stdout
    cell["neolm"]["matthews"] = 0.1234
    (tmp_path / "cells" / "cola-neolm-1.json").write_text(json.dumps(cell), encoding="utf-8")
    again = run(*command)  # what is done is not done again
    assert "cola-neolm-1: " not in again.stderr
    assert "| cola | matthews | neolm | 0.1234 |" in again.stdout


def test_time_to_quality_with_neolm_only(tmp_path: Path) -> None:
    text = tmp_path / "input.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    options = ["--contestants", "neolm-same", "neolm-best", "--scale", "0.007", "--seeds", "3", "--threads", "1"]
    places = ["--text", text, "--environments", tmp_path / "peers", "--output", tmp_path / "out.json"]
    done = run("time_to_quality", *options, *places)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["runs"]
    for curve in one["curves"].values():
        _, seconds, _, losses = zip(*curve, strict=True)
        assert list(seconds) == sorted(seconds)
        assert max(losses) < 4  # uniform over 29 characters is 3.4
    same = one["curves"]["neolm-same"]
    assert same[-1][0] == 14
    assert same[-1][3] < same[0][3]
    assert "| neolm-best |" in done.stdout


def test_decode_with_neolm_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- decode -->\nold\n<!-- end of decode -->\nafter\n", encoding="utf-8")
    ours = ["neolm-float32", "neolm-int4"]
    options = ["--shapes", "smoke", "--contestants", *ours, "--prompt", "8", "--tokens", "5", "--read", "48", "2048"]
    options += ["--batches", "2", "--rounds", "2", "--threads", "1"]
    places = ["--environments", tmp_path / "peers", "--output", tmp_path / "out.json", "--docs", page]
    done = run("decode", *options, *places)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    smoke = results["shapes"]["smoke"]
    assert smoke["works"] == {"write 2": [2, 8, 6], "read 48": [1, 48, 1]}  # 2,048 tokens exceed the context
    for name in ours:
        one = smoke["contestants"][name]
        assert {work: len(times["reading"]) for work, times in one["times"].items()} == dict.fromkeys(smoke["works"], 2)
        assert min(one["times"]["write 2"]["decoding"]) > 0
        assert len(one["ids"]["write 2"]) == 6
    assert len(smoke["measured"]) == 5  # before the first round, and for each workload in each round
    assert min(smoke["measured"][0][key] for key in ("flops_bfloat16", "flops_float32", "bandwidth")) > 1e9
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- decode -->")
    assert text.endswith("<!-- end of decode -->\nafter\n")
    assert text.count("| neolm-int4 | 4.25 |") == 2
    assert "old" not in text
    assert str(tmp_path) not in text
    # the existing model is reused
    again = run("decode", *options[:4], "--prompt", "8", "--tokens", "2", "--read", "--rounds", "1", *places)
    assert again.returncode == 0, again.stderr
    assert "writing a model" in done.stderr
    assert "writing a model" not in again.stderr


def test_encoder_inference_with_neolm_only(tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "a model")
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 40}', encoding="utf-8")
    rows = [f"{'the ' * n}sea\tthe {'water ' * (20 - n)}is cold\t{n % 5}.0" for n in range(20)]
    pairs = ["header", *("\t" * 7 + row for row in rows)]
    texts = [json.dumps({"text": f"A title\n{'the clock and the water ' * (5 + n)}"}) for n in range(20)]
    for name, lines in (("glue/STS-B/dev.tsv", pairs), ("minipile/wikipedia_en.jsonl", texts)):
        path = tmp_path / "data" / f"{name}.zst"
        path.parent.mkdir(parents=True)
        path.write_bytes(zstandard.compress("\n".join(lines).encode()))
    ours = ["neolm-float32", "neolm-int8"]
    options = ["--contestants", *ours, "--rounds", "2", "--texts", "16", "--threads", "1"]
    places = ["--data", tmp_path / "data", "--environments", tmp_path / "peers", "--output", tmp_path / "out.json"]
    done = run("encoder_inference", "--model", model, *options, *places)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert results["texts"] == {"mixed": 16, "sentences": 16, "alone": 2, "calibration": 8, "pairs": 40}
    for name in ours:
        one = results["contestants"][name]
        assert {work: len(times) for work, times in one["seconds"].items()} == {"mixed": 2, "sentences": 2, "alone": 2}
        assert -1 <= one["spearman"] <= 1
    assert done.stdout.count("| neolm-int8 |") == 3
    assert str(tmp_path) not in done.stdout


def test_ranks_of_equal_values_are_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from encoder_inference import spearman  # type: ignore[import-not-found]

    assert spearman([1, 2, 2, 4], [10, 20, 30, 40]) == pytest.approx(0.9487, abs=1e-4)  # scipy.stats.spearmanr
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_flops_and_weights_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from decode_report import prefill_flops, weights_read

    shape = {"family": "gpt-neo", "hidden_size": 8, "num_layers": 2, "vocab_size": 10, "window_size": 3}
    assert weights_read(shape) == 2 * 12 * 64 + 80
    pairs = sum(range(1, 6)) + (1 + 2 + 3 + 3 + 3)  # five tokens in the global and the local layer
    assert prefill_flops(shape, 5) == 5 * 2 * 2 * 12 * 64 + 4 * 8 * pairs
    assert prefill_flops({**shape, "family": "gpt2"}, 2) == 2 * 2 * 2 * 12 * 64 + 4 * 8 * 6


def test_quantization_cost(tmp_path: Path) -> None:
    text = "".join(f"The {n * n}th fox jumps over {n} lazy dogs.\n" for n in range(300))
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer(iter([text]), 300)
    tokenizer.save(tmp_path / "model")
    config = decoder_config(
        "gpt2", vocab_size=300, hidden_size=64, num_layers=1, num_heads=2, max_position_embeddings=64
    )
    save_model(Decoder(config).initialise(1), tmp_path / "model")
    places = ["--model", tmp_path / "model", "--text", tmp_path / "texts", "--output", tmp_path / "out.json"]
    done = run("quantization_cost", *places, "--bytes", "5000")
    assert done.returncode == 0, done.stderr
    formats = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["formats"]
    assert list(formats) == ["float32", "bfloat16", "int8", "int4"]
    assert formats["float32"]["cost"]["value"] == 0
    assert all(0 < abs(one["cost"]["value"]) < 5 for name, one in formats.items() if name != "float32")
    assert "| int4 | 4.25 |" in done.stdout
    assert str(tmp_path) not in done.stdout
    failed = run("quantization_cost", "--model", tmp_path / "none")
    assert failed.returncode == 1
    assert "none: no such model directory" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_unknown_contestant_is_rejected() -> None:
    for script, ours, wrong in (("train_throughput", "neolm", "nanogtp"), ("decode", "neolm-int4", "neolm-int3")):
        done = run(script, "--shapes", "smoke", "--contestants", ours, wrong)
        assert done.returncode == 2
        assert f"unknown contestant: {wrong}." in done.stderr


def test_prompts_beyond_the_context_are_one_error_line(tmp_path: Path) -> None:
    done = run("decode", "--shapes", "smoke", "--environments", tmp_path)
    assert done.returncode == 1
    assert "smoke: no workload fits into the context of 64 tokens" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_checkout_or_text_is_one_error_line(tmp_path: Path) -> None:
    places = ["--environments", tmp_path / "peers"]
    done = run("time_to_quality", *places)
    assert done.returncode == 2
    assert "--nanogpt" in done.stderr
    done = run("time_to_quality", "--contestants", "neolm-same", "--text", tmp_path / "none.txt", *places)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Give the path of the tiny Shakespeare text: --text FILE")
    assert "Traceback" not in done.stderr
