"""The command line: a complete run, and every mistake as one clear error line."""

import errno
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from safetensors.torch import load_file, save_file
from samples import sample_text

from neolm.core.output import claim_output
from neolm.training.checkpoint import write_record

Run = Callable[..., tuple[int, str, str]]

SMALL = [
    "tokenizer.vocab_size=300",
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.window_size=16",
    "pretrain.steps=8",
    "pretrain.sequence_length=32",
    "pretrain.batch_size=4",
    "pretrain.warmup_steps=2",
    "pretrain.validate_every=4",
    "pretrain.checkpoint_every=4",
    "pretrain.validation_sequences=8",
    "evaluate.max_bytes=2000",
    "evaluate.sample_tokens=8",
]


def assert_rejected(result: tuple[int, str, str], *words: str) -> None:
    """Check that the error is one line on stderr with these words, with exit code 2 and no traceback."""
    code, _, stderr = result
    assert code == 2, stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("neolm: "), stderr
    assert "Traceback" not in stderr
    for word in words:
        assert word in last, last


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A complete run of the command in a directory with a space in its name."""
    parent = tmp_path_factory.mktemp("a run with spaces")
    command = [sys.executable, "-m", "neolm", "run", "text", f"corpus.path={text_folder}", "output=my run", *SMALL]
    done = subprocess.run(command, cwd=parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "my run/report.html"
    return parent / "my run"


def test_a_run_writes_all_artefacts(finished: Path) -> None:
    for stage in ("corpus", "tokenizer", "shards", "pretrain", "model", "evaluation"):
        manifest = json.loads((finished / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage
        assert manifest["outputs"]
    for name in (
        "corpus/documents/train-00000.parquet",
        "corpus/documents/validation-00000.parquet",
        "corpus/rejected",
        "tokenizer/tokenizer.json",
        "pretrain/metrics.jsonl",
        "pretrain/checkpoints",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "model/generation_config.json",
        "model/README.md",
        "evaluation/scores.json",
        "report.html",
        "recipe.yaml",
    ):
        assert (finished / name).exists(), name
    assert not [p.name for p in finished.iterdir() if "partial" in p.name or p.name.endswith(".old")]


def test_a_second_run_changes_nothing(finished: Path, neolm_: Run, text_folder: Path) -> None:
    before = (finished / "pretrain" / "metrics.jsonl").read_bytes()
    code, _, stderr = neolm_("run", "text", f"corpus.path={text_folder}", f"output={finished}", *SMALL)
    assert code == 0
    for stage in ("corpus", "tokenizer", "shards", "pretrain", "model", "evaluation"):
        assert f"{stage}: up to date" in stderr
    assert (finished / "pretrain" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        lambda model, target: ("generate", model, "The ", "--max-new-tokens", 4),
        lambda model, target: ("tokenizer", "encode", model, "The sea"),
        lambda model, target: ("evaluate", model, "--set", "max_bytes=500", "--set", "baselines=false"),
        lambda model, target: ("export", model, target),
    ],
)
def test_a_run_directory_can_be_given_as_its_model(
    finished: Path, neolm_: Run, tmp_path: Path, command: Callable[[Path, Path], tuple[object, ...]]
) -> None:
    from_run, from_model = (neolm_(*command(path, tmp_path / "copy")) for path in (finished, finished / "model"))
    assert from_run[0] == 0, from_run[2]
    assert from_run[1] == from_model[1]


def test_the_resolved_recipe_runs_the_same(finished: Path, neolm_: Run) -> None:
    code, _, stderr = neolm_("pretrain", finished / "recipe.yaml", f"output={finished}")
    assert code == 0
    assert stderr.count("up to date") == 5


def test_final_selects_the_best_or_the_last_checkpoint(finished: Path, neolm_: Run, tmp_path: Path) -> None:
    def step_of(run: Path) -> int:
        return int(json.loads((run / "model" / "manifest.json").read_text())["counts"]["step"])

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    checkpoints = copy / "pretrain" / "checkpoints"
    *earlier, best = sorted(checkpoints.glob("best-*"))
    for checkpoint in earlier:
        shutil.rmtree(checkpoint)
    record = json.loads((best / "checkpoint.json").read_text())
    # pretend that the lowest loss was in the middle
    write_record(best, {**record["state"], "step": 4}, record["digests"])
    shutil.rmtree(copy / "model")
    for final, step in (("best", 4), ("last", 8)):
        code, _, stderr = neolm_("pretrain", copy / "recipe.yaml", f"output={copy}", f"pretrain.final={final}")
        assert code == 0, stderr
        assert step_of(copy) == step


def test_generate_prints_prompt_and_continuation(finished: Path, neolm_: Run) -> None:
    code, printed, _ = neolm_("generate", finished / "model", "The river", "--max-new-tokens", 5)
    assert code == 0
    assert printed.startswith("The river")
    assert printed.endswith("\n")
    assert len(printed) > len("The river\n")
    assert neolm_("generate", finished / "model", "The river", "--max-new-tokens", 5)[1] == printed
    sampled = ["generate", finished / "model", "A", "--temperature", 1, "--seed", 4]
    assert neolm_(*sampled)[1] == neolm_(*sampled)[1]


def test_evaluate_measures_held_out_text_or_a_file(finished: Path, neolm_: Run, tmp_path: Path) -> None:
    code, printed, stderr = neolm_("evaluate", finished / "model", "--output", tmp_path / "scores.json")
    assert code == 0, stderr
    assert "zstd with a dictionary" in printed
    assert json.loads((tmp_path / "scores.json").read_text())
    assert neolm_("evaluate", finished / "model", "--output", tmp_path / "scores.json")[0] == 0
    (tmp_path / "other.txt").write_text(sample_text(99))
    code, printed, stderr = neolm_("evaluate", finished / "model", "--text", tmp_path / "other.txt")
    assert code == 0, stderr


def test_evaluate_replaces_only_scores_and_checks_the_file_first(finished: Path, neolm_: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for place, word in (
        (tmp_path / "thesis.tex", "not changed"),
        (tmp_path, "this is a directory"),
        (tmp_path / "nowhere" / "scores.json", "no such directory"),
    ):
        code, printed, stderr = neolm_("evaluate", finished / "model", "--output", place)
        assert_rejected((code, printed, stderr), str(place), word)
        assert printed == ""
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_show_lists_all_stages_and_the_raw_text(finished: Path, neolm_: Run, text_folder: Path) -> None:
    code, printed, _ = neolm_("show", finished, "--verify")
    assert code == 0
    positions = [printed.index(f"\n{stage}  ") for stage in ("model", "pretrain", "shards", "corpus")]
    assert positions == sorted(positions)
    assert str(text_folder) in printed
    assert "Every file matches its recorded digest" in printed
    assert re.search(r"bits per byte +[\d.]+", printed)


def test_import_reads_the_weights_that_export_wrote(finished: Path, neolm_: Run, tmp_path: Path) -> None:
    assert neolm_("export", finished / "model", tmp_path / "out", "--to", "hf", "--dtype", "bfloat16")[0] == 0
    assert neolm_("import", tmp_path / "out", tmp_path / "in", "--dtype", "float32")[0] == 0
    original, back = (load_file(d / "model.safetensors") for d in (finished / "model", tmp_path / "in"))
    assert all((original[name].bfloat16().float() == back[name]).all() for name in original)
    assert neolm_("generate", tmp_path / "in", "The", "--max-new-tokens", 3)[0] == 0
    assert "up to date" in neolm_("import", tmp_path / "out", tmp_path / "in", "--dtype", "float32")[2]


def test_chat_answers_and_exits(finished: Path) -> None:
    command = [sys.executable, "-m", "neolm", "chat", str(finished / "model"), "--max-new-tokens", "4"]
    done = subprocess.run(command, input="hello\n/help\n/exit\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/reset" in done.stdout


def test_config_prints_every_key_with_its_description(neolm_: Run) -> None:
    code, printed, _ = neolm_("config", "run")
    assert code == 0
    for key in ("output", "corpus.path", "tokenizer.vocab_size", "model.preset", "pretrain.micro_batch_size"):
        assert f"\n{key} " in printed
    code, printed, _ = neolm_("config", "pretrain")
    assert "Sequences of one optimiser step" in " ".join(printed.split())
    assert "\ncorpus.path " not in printed
    assert "125,198,592" in neolm_("config", "presets")[1]
    assert json.loads(neolm_("config", "--schema")[1])["title"] == "Recipe"
    assert_rejected(neolm_("config", "pretran"), "did you mean 'pretrain'")


def test_doctor_prints_the_hardware_and_the_chosen_settings(neolm_: Run) -> None:
    code, printed, _ = neolm_("doctor")
    assert code == 0
    for word in ("processor", "load", "memory", "GPU", "compiler", "will use", "precision", "FLOP/s"):
        assert word in printed


@pytest.mark.parametrize(("running", "warned"), [(0.1, False), (9.5, True)])
def test_doctor_shows_when_other_programs_use_the_cores(
    neolm_: Run, monkeypatch: pytest.MonkeyPatch, running: float, warned: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (running, 0.0, 0.0))
    monkeypatch.setattr("neolm.describe.usable_cores", lambda: 2)
    printed = neolm_("doctor")[1]
    assert f"{running} threads running on 2 cores" in printed
    assert ("compete with NeoLM" in printed) == warned


def test_the_command_line_does_not_import_heavy_packages() -> None:
    script = "import sys, neolm.cli; print([m for m in ('torch', 'daft', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tokenizer_encode_shows_the_tokens(finished: Path, neolm_: Run) -> None:
    code, printed, _ = neolm_("tokenizer", "encode", finished / "model", "the river\n")
    assert code == 0
    assert "".join(json.loads(line.partition("\t")[2]) for line in printed.splitlines()) == "the river\n"


# ---- mistakes ----


def test_unknown_recipe(neolm_: Run, tmp_path: Path) -> None:
    assert_rejected(neolm_("run", "quikstart"), "no such recipe", "did you mean 'quickstart'")
    assert_rejected(neolm_("run", tmp_path), "directory")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.step=3", ("pretrain.step", "unknown key", "'steps'")),
        ("pretrain.steps=-3", ("pretrain.steps", "greater than 0")),
        ("pretrain.steps=many", ("pretrain.steps", "integer")),
        ("pretrain={}", ("either steps or tokens",)),
        ("pretrain.learning_rate=0", ("pretrain.learning_rate", "greater than 0")),
        ("pretrain.precision=float8", ("pretrain.precision", "bfloat16")),
        ("pretrain.device=cuda:7", ("pretrain.device: 'cuda:7' is not available",)),
        ("pretrain.schedule=cosin", ("pretrain.schedule", "did you mean 'cosine'")),
        ("pretrain.final=average", ("pretrain", "ema_decay must be given")),
        ("pretrain.batch_ramp_start=2", ("batch_ramp_start and batch_ramp_tokens are given together",)),
        ("pretrain.skip_spikes=0.5", ("pretrain.skip_spikes", "greater than 1")),
        ("pretrain.ema_decay=1", ("pretrain.ema_decay", "less than 1")),
        ("pretrain.loss_scale=.inf", ("pretrain.loss_scale", "finite")),
        ("pretrain.compile=maybe", ("pretrain.compile",)),
        ("pretrain.track=[tensorbord]", ("pretrain.track", "did you mean 'tensorboard'")),
        ("model.preset=gpt-neo-125", ("model.preset: unknown preset", "gpt-neo-125m")),
        ("model.num_heads=5", ("model.hidden_size: 32 is not a multiple of num_heads 5",)),
        ("model.family=gpt2", ("model.attention_layers", "window")),
        ("model.vocab_size=100", ("model.vocab_size", "less than the tokenizer's 300")),
        ("model.max_position_embeddings=16", ("pretrain.sequence_length", "context of 16")),
        ("tokenizer.vocab_size=60000", ("tokenizer.vocab_size", "the corpus is too small for 60000 tokens")),
        ("tokenizer.path=/nowhere", ("/nowhere", "no such tokenizer")),
        ("pretrain.sequence_length=100000", ("pretrain.sequence_length", "fewer than one sequence of 100000")),
    ],
)
def test_wrong_settings(neolm_: Run, tmp_path: Path, text_folder: Path, override: str, words: tuple[str, ...]) -> None:
    settings = [setting for setting in SMALL if setting.partition("=")[0] != override.partition("=")[0]]
    if override.startswith("model.family"):
        settings += ["model.attention_layers=[local]"]
        words = ("gpt2",)
    result = neolm_("pretrain", "text", f"corpus.path={text_folder}", f"output={tmp_path / 'out'}", *settings, override)
    assert_rejected(result, *words)
    assert not (tmp_path / "out" / "pretrain" / "metrics.jsonl").exists()  # the error comes before training


def bad_raw_text(tmp_path: Path, kind: str) -> Path:
    """Return a path from which no corpus can be built."""
    path = tmp_path / "input.txt"
    match kind:
        case "missing":
            pass
        case "empty":
            path.write_bytes(b"")
        case "binary":
            path.write_bytes(bytes(range(256)) * 40)
        case "latin-1":
            path.write_bytes("Grüße aus Köln. ".encode("latin-1") * 50)
        case "empty folder":
            path = tmp_path / "folder"
            path.mkdir()
        case "folder without text":
            path = tmp_path / "folder"
            path.mkdir()
            (path / "picture.png").write_bytes(b"\x89PNG")
        case "wrong suffix":
            path = tmp_path / "book.pdf"
            path.write_bytes(b"%PDF")
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "binary", "latin-1", "empty folder", "folder without text", "wrong suffix"]
)
def test_invalid_raw_text(neolm_: Run, tmp_path: Path, kind: str) -> None:
    path = bad_raw_text(tmp_path, kind)
    assert_rejected(neolm_("run", "text", f"corpus.path={path}", f"output={tmp_path / 'out'}", *SMALL), path.name)


def test_broken_lines_and_truncated_archives_are_counted(neolm_: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = [json.dumps({"text": sample_text(i, 80)}) for i in range(20)]
    (folder / "a.jsonl").write_bytes(
        "\n".join([*good, '{"text": "broken', '{"no": 1}']).encode() + b'\n{"text": "\xff"}'
    )
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(good).encode())[:-20])
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress("\n".join(good * 50).encode())[:-20])
    (folder / "d.txt").write_bytes(b"\x00\x01\x02" * 100)
    code, _, stderr = neolm_("corpus", "build", "text", f"corpus.path={folder}", f"output={tmp_path / 'out'}")
    assert code == 0, stderr
    reasons = json.loads((tmp_path / "out" / "corpus" / "manifest.json").read_text())["counts"]["rejected"]
    assert {"broken_json", "missing_text", "broken_utf8", "truncated", "binary", "duplicate"} <= set(reasons)
    assert sum(entry["documents"] for entry in reasons.values()) >= 6


def test_an_output_with_other_files_is_rejected(neolm_: Run, tmp_path: Path, text_folder: Path) -> None:
    (tmp_path / "taxes.ods").write_text("precious")
    assert_rejected(
        neolm_("run", "text", f"corpus.path={text_folder}", f"output={tmp_path}"), "taxes.ods", "output=DIR"
    )
    assert_rejected(
        neolm_("run", "text", f"corpus.path={text_folder}", f"output={tmp_path / 'taxes.ods'}"), "is a file"
    )
    assert_rejected(neolm_("run", "text", f"corpus.path={text_folder}", "output=/proc/x"), "/proc/x")
    assert_rejected(
        neolm_("run", "text", f"corpus.path={text_folder}", "output="), "output: must have at least 1 character, not ''"
    )
    assert (tmp_path / "taxes.ods").read_text() == "precious"


def test_another_run_in_the_directory_is_not_overwritten(finished: Path, neolm_: Run, text_folder: Path) -> None:
    weights = (finished / "model" / "model.safetensors").read_bytes()
    base = ["run", "text", f"corpus.path={text_folder}", f"output={finished}", *SMALL]
    assert_rejected(neolm_(*base, "pretrain.lr=1e-5"), "pretrain.learning_rate", "another output=DIR")
    assert_rejected(neolm_(*base, "corpus.min_characters=77"), "min_characters", "was started from it")
    assert_rejected(neolm_(*base, "seed=9"), "seed")
    assert (finished / "model" / "model.safetensors").read_bytes() == weights
    assert neolm_(*base)[0] == 0


def test_two_runs_on_one_directory(neolm_: Run, tmp_path: Path, text_folder: Path) -> None:
    with claim_output(tmp_path / "out", []):
        result = neolm_("run", "text", f"corpus.path={text_folder}", f"output={tmp_path / 'out'}")
    assert_rejected(result, "in use by another run", str(os.getpid()))


def broken_model(finished: Path, tmp_path: Path, kind: str) -> Path:
    """Return a copy of the model with one fault."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((finished / "model" / name).read_bytes())
    weights = load_file(finished / "model" / "model.safetensors")
    first = "transformer.h.0.mlp.c_fc.weight"
    match kind:
        case "missing tensor":
            del weights[first]
        case "extra tensor":
            weights["transformer.h.9.surprise"] = weights[first].clone()
        case "misshapen tensor":
            weights[first] = weights[first][:-1].contiguous()
    save_file(weights, directory / "model.safetensors")
    if kind == "truncated file":
        os.truncate(directory / "model.safetensors", 2000)
    if kind == "no config":
        (directory / "config.json").unlink()
    if kind == "no weights":
        (directory / "model.safetensors").unlink()
    return directory


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing tensor", "transformer.h.0.mlp.c_fc.weight"),
        ("extra tensor", "transformer.h.9.surprise"),
        ("misshapen tensor", "transformer.h.0.mlp.c_fc.weight"),
        ("truncated file", "model.safetensors"),
        ("no config", "config.json"),
        ("no weights", "model.safetensors"),
    ],
)
def test_broken_model_directories(finished: Path, neolm_: Run, tmp_path: Path, kind: str, word: str) -> None:
    assert_rejected(neolm_("generate", broken_model(finished, tmp_path, kind), "The"), word)


def test_missing_model_directory(neolm_: Run, tmp_path: Path) -> None:
    assert_rejected(neolm_("generate", tmp_path / "nothing", "x"), "nothing")
    assert_rejected(neolm_("evaluate", tmp_path / "nothing"), "nothing")
    assert_rejected(neolm_("show", tmp_path / "nothing"), "no such directory")
    assert_rejected(neolm_("import", tmp_path / "nothing", tmp_path / "out"), "nothing")


def test_invalid_prompts_and_settings_of_generation(finished: Path, neolm_: Run) -> None:
    model = finished / "model"
    assert_rejected(neolm_("generate", model, "word " * 200), "the model's context is 32")
    assert_rejected(neolm_("generate", model, "x", "--temperature", "-1"), "temperature")
    assert_rejected(neolm_("generate", model, "x", "--top-p", "1.5"), "top_p")
    assert_rejected(neolm_("generate", model, "x", "--device", "cuda:9"), "cuda:9")
    assert_rejected(neolm_("generate", model, "x", "--dtype", "float7"), "float7")


def test_export_does_not_overwrite_other_files(finished: Path, neolm_: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert_rejected(neolm_("export", finished / "model", tmp_path), "already contains other files")
    assert_rejected(neolm_("export", finished / "model", finished / "model"), "same directory")


def test_a_full_disk_is_one_error_line_and_exit_code_1(
    neolm_: Run, tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("neolm.data.build.write_shards", full)
    code, _, stderr = neolm_("run", "text", f"corpus.path={text_folder}", f"output={tmp_path / 'out'}", *SMALL)
    assert code == 1
    assert "the disk is full" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
