"""Quantised and offloaded models, and drafts, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import train_tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("a model")
    tokenizer = train_tokenizer(iter(["the sea and the day and the water of the sea"] * 3), 266)
    config = decoder_config(
        "gpt-neo", vocab_size=280, hidden_size=40, num_layers=2, num_heads=4, max_position_embeddings=64
    )
    save_model(Decoder(config).initialise(0), directory)
    tokenizer.save(directory)
    return directory


def neolm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "neolm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_an_exported_model_generates_the_same_text(model: Path, tmp_path: Path, neolm_: Run) -> None:
    target = tmp_path / "four bits"
    done = neolm("export", model, target, "--quantize", "int4")
    assert (done.returncode, done.stdout.strip()) == (0, str(target)), done.stderr
    assert json.loads((target / "config.json").read_text(encoding="utf-8"))["quantization_config"]["bits"] == 4
    texts = [
        neolm("generate", model, "the sea", "--quantize", "int4", "--max-new-tokens", "8").stdout,
        neolm_("generate", target, "the sea", "--max-new-tokens", "8")[1],
        neolm_("generate", target, "the sea", "--max-new-tokens", "8", "--offload", "disk")[1],
        neolm_("generate", target, "the sea", "--max-new-tokens", "8", "--draft", "lookup")[1],
    ]
    assert texts[0].startswith("the sea")
    assert len(set(texts)) == 1


def test_evaluate_measures_the_quantised_model(model: Path, tmp_path: Path, neolm_: Run) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the day of the sea and the water\n" * 20, encoding="utf-8")
    scores = []
    for more in ([], ["--quantize", "int8"]):
        output = tmp_path / "scores.json"
        code, _, said = neolm_("evaluate", model, "--text", text, "--output", output, "--set", "baselines=false", *more)
        assert code == 0, said
        scores.append(json.loads(output.read_text(encoding="utf-8")))
    assert scores[1]["protocols"][scores[1]["loss"]["protocol"]]["quantize"] == "int8"
    plain, quantised = (score["bits_per_byte"]["value"] for score in scores)
    assert plain != quantised
    assert abs(plain - quantised) < 0.05 * plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "MODEL", "x", "--quantize", "int3"], "'int3' is not known; use int8 or int4"),
        (["generate", "MODEL", "x", "--offload", "cloud"], "'cloud' is not known; the only choice is disk"),
        (["generate", "MODEL", "x", "--draft", "nowhere"], "nowhere"),
        (["evaluate", "MODEL", "--text", "MODEL", "--quantize", "int2"], "quantize"),
        (["export", "MODEL", "TARGET", "--to", "gguf"], "GPT-Neo"),
    ],
)
def test_invalid_arguments_are_one_error_line_and_exit_code_2(
    arguments: list[str], message: str, model: Path, tmp_path: Path, neolm_: Run
) -> None:
    paths = {"MODEL": model, "TARGET": tmp_path / "target"}
    code, _, said = neolm_(*(paths.get(argument, argument) for argument in arguments))
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1
    assert message.lower() in said.lower()
    assert not (tmp_path / "target").exists()


@pytest.mark.slow
def test_an_interrupt_while_loading(tmp_path: Path) -> None:
    """Send SIGINT while a gigabyte of weights is read and quantised."""
    config = decoder_config(
        "gpt2", vocab_size=280, hidden_size=2048, num_layers=6, num_heads=16, max_position_embeddings=64
    )
    save_model(Decoder(config).initialise(0), tmp_path / "model")
    train_tokenizer(iter(["the sea and the day"] * 3), 266).save(tmp_path / "model")
    script = (
        "import neolm.models.hf_files as hf, sys\n"
        "read = hf.WeightFiles.read\n"
        "def read_and_print(self, name):\n"
        "    print(name, file=sys.stderr, flush=True)\n"
        "    return read(self, name)\n"
        "hf.WeightFiles.read = read_and_print\n"
        "from neolm.cli import main\n"
        f"sys.argv = ['neolm', 'generate', {str(tmp_path / 'model')!r}, 'x', '--quantize', 'int4']\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(12):
            process.stderr.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "neolm: interrupted" in rest.splitlines(), rest
