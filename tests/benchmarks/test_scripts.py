"""The benchmarks run, on shapes that say nothing about speed, with NeoLM alone: peers come from a package index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("train_throughput", "time_to_quality")
# Started by coverage or a debugger, the parent's variables would reach every process that it starts.
ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / f"{script}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_nothing_heavy(script: str) -> None:
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


def test_throughput_of_ours_alone(tmp_path: Path) -> None:
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
    # tables of 128 and 64 rows; two blocks with three biases less; the last norm
    assert ours["parameters"] == (128 + 64) * 32 + 2 * (12 * 32 * 32 + 10 * 32) + 2 * 32
    assert len(results["measured"]) == 3  # before all, and in each round
    assert results["measured"][0]["flops"] > 1e9
    assert results["command"] == "python benchmarks/train_throughput.py " + " ".join(options)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- train_throughput -->")
    assert text.endswith("<!-- end of train_throughput -->\nafter\n")
    assert "| neolm |" in text
    assert "old" not in text
    assert str(tmp_path) not in text


def test_time_to_quality_without_the_peer(tmp_path: Path) -> None:
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
        assert max(losses) < 4  # a guess among 29 characters is 3.4
    same = one["curves"]["neolm-same"]
    assert same[-1][0] == 14
    assert same[-1][3] < same[0][3]
    assert "| neolm-best |" in done.stdout


def test_an_unknown_contestant_is_named() -> None:
    done = run("train_throughput", "--shapes", "smoke", "--contestants", "neolm", "nanogtp")
    assert done.returncode == 2
    assert "nobody is called nanogtp" in done.stderr


def test_a_missing_checkout_or_text_is_said_in_one_line(tmp_path: Path) -> None:
    places = ["--environments", tmp_path / "peers"]
    done = run("time_to_quality", *places)
    assert done.returncode == 2
    assert "--nanogpt" in done.stderr
    done = run("time_to_quality", "--contestants", "neolm-same", "--text", tmp_path / "none.txt", *places)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("give the text of tiny Shakespeare with --text")
    assert "Traceback" not in done.stderr
