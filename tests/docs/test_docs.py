"""The documentation does what it says: links lead somewhere, settings exist, commands and Python blocks run.

Commands run in this process, in a directory with a space in its name that holds `my-texts`, `my.jsonl`, `masked.txt`,
two finished small runs, `runs/mine` and `runs/quickstart`, and a small encoder, `runs/encoder`. Commands that make a
run start without its output, and are made small by SMALL.
"""

import importlib
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer.main
from encoder_runs import wordpiece_vocabulary
from samples import sample_text
from test_cli import SMALL

import neolm.cli
from neolm.core.config import settings
from neolm.describe import section_settings
from neolm.serving.server.settings import ServeConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
SETTINGS = {setting.key: setting for command in ("run", "evaluate") for setting in section_settings(command)}
SECTIONS = "corpus|tokenizer|model|pretrain|evaluate"
PIPELINE = ("run", "pretrain", "corpus build", "tokenizer train")

# Lines of the sh blocks that this test does not run, and why; one that is no longer in the docs must go.
NOT_RUN = {
    "make demo": "sets up an environment from a package index",
    "make test": "is what runs this test",
    "neolm serve runs/mine/model": "runs until it is stopped; tests/serving/server/ starts it",
    "neolm serve runs/mine": "runs until it is stopped; tests/serving/server/ starts it",
    ".venv/bin/neolm serve runs/quickstart/model": "the same, after `make demo`",
    "neolm import EleutherAI/gpt-neo-125m models/gpt-neo-125m": "fetches from a hub",
}

# Commands share one worker, and so one small run.
pytestmark = pytest.mark.xdist_group("docs")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def relative_links(page: Path) -> list[str]:
    """The files that the page links to, without the place in them."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def shell_lines() -> list[str]:
    """Every line of every sh block, once, without comments."""
    text = "\n".join(block for page in PAGES for block in blocks(page, "sh")).replace("\\\n", " ")
    lines = (re.split(r"\s\s+#|^#", line)[0].strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def python_blocks() -> list[object]:
    found = ((page, number, code) for page in PAGES for number, code in enumerate(blocks(page, "python"), start=1))
    return [pytest.param(code, id=f"{page.name}-{number}") for page, number, code in found]


def command_tests() -> list[object]:
    slow = {line for line in shell_lines() if "quickstart" in line.split()}  # it reads the whole standard library
    lines = [line for line in shell_lines() if line not in NOT_RUN]
    return [pytest.param(line, id=line, marks=[pytest.mark.slow] if line in slow else []) for line in lines]


def table_rows(page: Path, first: str) -> list[list[str]]:
    """The cells of the tables whose header is `first`, default, meaning."""
    pattern = rf"^\| {first} \| default \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.split("|")[1:-1]] for rows in found for row in rows.splitlines()]


# ---- what needs no run ----


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not [target for target in relative_links(page) if not (page.parent / target).exists()]


def test_every_page_is_linked_from_another() -> None:
    linked = {(page.parent / target).resolve() for page in PAGES for target in relative_links(page)}
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.resolve() not in linked]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_settings_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w./-])((?:{SECTIONS})\.\w+|output|seed)=", text)
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    named += [span for span in spans if re.fullmatch(rf"(?:{SECTIONS})\.(?!json$|safetensors$|md$|py$)\w+", span)]
    assert not [key for key in named if key not in SETTINGS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_and_options_exist(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert not [span for span in spans if re.fullmatch(r"test_\w+", span) and f"def {span}(" not in sources]
    assert not [span for span in spans if re.fullmatch(r"tests/[\w/]+\.py", span) and not (ROOT / span).is_file()]
    group = typer.main.get_command(neolm.cli.app)
    commands = [
        *group.commands.values(),
        *(sub for c in group.commands.values() for sub in vars(c).get("commands", {}).values()),
    ]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert not [span for span in spans if re.fullmatch(r"--[\w-]+", span) and span not in known]


def test_defaults_in_tables_are_those_of_the_code() -> None:
    rows = [row for page in PAGES for row in table_rows(page, "setting")]
    assert len(rows) > 30
    assert not [(key, shown) for key, shown, _ in rows if shown != SETTINGS[key].default]


def test_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([\w.]+)` \|", text, re.MULTILINE)
    assert len(rows) > 20
    serving = {f"serve.{setting.key}": setting.default for setting in settings(ServeConfig)}
    defaults = {key: setting.default for key, setting in SETTINGS.items()} | serving
    units = {"MiB": 2**20, "s": 1, "times": 1, "": 1}
    for name, shown, place in rows:
        number, _, unit = shown.partition(" ")
        module, _, constant = place.rpartition(".")
        value = defaults[place] if place in defaults else getattr(importlib.import_module(module), constant)
        assert float(number.replace(",", "")) * units[unit.split(" ")[0]] == float(value), name


def test_defaults_of_generate_are_those_of_the_code() -> None:
    command = typer.main.get_command(neolm.cli.app).commands["generate"]
    defaults = {option: p.default for p in command.params for option in p.opts}
    rows = table_rows(ROOT / "docs" / "generation.md", "option")
    assert {option for option, _, _ in rows} == {option for option in defaults if option.startswith("--")}
    assert not [(o, shown) for o, shown, _ in rows if shown != ("none" if defaults[o] is None else str(defaults[o]))]


def test_exceptions_are_still_in_the_docs_and_nothing_else_is_shell() -> None:
    lines = shell_lines()
    assert not [line for line in NOT_RUN if line not in lines]
    assert not [line for line in lines if line not in NOT_RUN and not line.startswith("neolm ")]


# ---- what runs ----


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`neolm` in this process, with nothing on standard input; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["neolm", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    try:
        neolm.cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `my-texts`, `my.jsonl`, `masked.txt` and the finished runs that the documentation speaks of."""
    place = tmp_path_factory.mktemp("as documented")
    (place / "my-texts").mkdir()
    for number in range(40):
        (place / "my-texts" / f"story {number:02d}.txt").write_text(sample_text(number), encoding="utf-8")
    (place / "masked.txt").write_text("The boat [MASK] down to town.\n", encoding="utf-8")
    (place / "my.jsonl").write_text(json.dumps({"content": sample_text(1)}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        assert call(["run", "text", "corpus.path=my-texts", "output=runs/mine", *SMALL], monkeypatch) == 0
        (place / "wordpiece").mkdir()
        wordpiece_vocabulary(place / "wordpiece", place / "my-texts")
        encoder = ["output=runs/encoder", "model.family=bert", "model.window_size=null", "tokenizer={path: wordpiece}"]
        assert call(["run", "text", "corpus.path=my-texts", *SMALL, *encoder, "evaluate=null"], monkeypatch) == 0
    shutil.copytree(place / "runs" / "mine", place / "runs" / "quickstart")
    return place


@pytest.fixture
def workplace(finished_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working directory: what a command does there, no other sees."""
    place = tmp_path / "a place with spaces"
    shutil.copytree(finished_runs, place)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("line", command_tests())
def test_commands(
    line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(line)[1:]
    if " ".join(arguments).startswith(PIPELINE):
        output = next((word.partition("=")[2] for word in arguments if word.startswith("output=")), None)
        if "quickstart" in arguments:
            output = output or "runs/quickstart"
        if output:
            shutil.rmtree(workplace / output, ignore_errors=True)
        arguments += SMALL
    assert call(arguments, monkeypatch) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", python_blocks())
@pytest.mark.usefixtures("workplace")
def test_python_blocks(code: str) -> None:
    exec(compile(code, "<documentation>", "exec"), {"__name__": "documentation"})
