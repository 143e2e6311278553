"""The documentation does what it says: links lead somewhere, settings exist, commands and Python blocks run.

Commands run in this process, in a directory with a space in its name that holds `my-texts`, `my.jsonl`, `masked.txt`,
`story.txt`, tables (`comments.csv`, `questions.csv`, `intents.csv`, `all-intents.csv`, `more-intents.csv`,
`requests.csv`), `labels.txt`, `decisions.json`, `decided.jsonl`, two moderation policies (`policy.yaml`,
`strict.yaml`), two finished small runs, `runs/mine` and `runs/quickstart`, a small encoder, `runs/encoder`, and the
tiny models `runs/questions`, `runs/entities` and `runs/intents`.
Commands that make a run start without its output, and are made small by SMALL.
"""

import importlib
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer.main
from encoder_runs import wordpiece_vocabulary
from samples import sample_text
from test_cli import SMALL
from tiny_encoders import tiny_encoder
from tiny_models import tiny_decoder
from topic_tables import QUICK, write_csv
from word_classifier import CATEGORY, write_policy

import neolm.cli
from neolm.core.config import settings
from neolm.describe import section_settings
from neolm.models.hf import save_model
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
SETTINGS = {setting.key: setting for command in ("run", "evaluate") for setting in section_settings(command)}
SECTIONS = "corpus|tokenizer|model|pretrain|finetune|evaluate"
PIPELINE = ("run", "pretrain", "corpus build", "tokenizer train", "finetune")

# Lines of the sh blocks that this test does not run, and why; one that is no longer in the docs must go.
NOT_RUN = {
    "make demo": "sets up an environment from a package index",
    "make test": "is what runs this test",
    "neolm serve runs/mine/model": "runs until it is stopped; tests/serving/server/ starts it",
    "neolm serve runs/mine": "runs until it is stopped; tests/serving/server/ starts it",
    ".venv/bin/neolm serve runs/quickstart/model": "the same, after `make demo`",
    "neolm import EleutherAI/gpt-neo-125m models/gpt-neo-125m": "fetches from a hub",
}

ANSWERS = [[{"text": "in town", "answer_start": len(f"Number {n} is ")}] for n in range(12)]


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
    sections = {setting.rpartition(".")[0] for setting in SETTINGS}
    assert not [key for key in named if key not in SETTINGS and key not in sections]


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

    parameters = [parameter for command in commands for parameter in command.params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
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
    """A directory with the texts, tables and finished runs that the documentation speaks of."""
    place = tmp_path_factory.mktemp("as documented")
    (place / "my-texts").mkdir()
    for number in range(40):
        (place / "my-texts" / f"story {number:02d}.txt").write_text(sample_text(number), encoding="utf-8")
    (place / "masked.txt").write_text("The boat [MASK] down to town.\n", encoding="utf-8")
    (place / "comments.csv").write_text("id,comment\n1,The boat [MASK] down to town.\n", encoding="utf-8")
    (place / "my.jsonl").write_text(json.dumps({"content": sample_text(1)}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        assert call(["run", "text", "corpus.path=my-texts", "output=runs/mine", *SMALL], monkeypatch) == 0
        (place / "wordpiece").mkdir()
        wordpiece_vocabulary(place / "wordpiece", place / "my-texts")
        encoder = ["output=runs/encoder", "model.family=bert", "model.window_size=null", "tokenizer={path: wordpiece}"]
        assert call(["run", "text", "corpus.path=my-texts", *SMALL, *encoder, "evaluate=null"], monkeypatch) == 0
    shutil.copytree(place / "runs" / "mine", place / "runs" / "quickstart")
    (place / "story.txt").write_text(sample_text(1), encoding="utf-8")
    (place / "questions.csv").write_text(f'question,context\nWhere?,"{sample_text(2)}"\n', encoding="utf-8")
    _save_tiny_model(place, "questions", head="span", pooler=False)
    tags = ("O", "B-PER", "I-PER")
    _save_tiny_model(place, "entities", head="token", pooler=False, num_labels=len(tags), labels=tags)
    rows = [(f"Where is my {thing} {number}?", thing) for number in range(20) for thing in ("card", "money")]
    write_csv(place / "intents.csv", ("text", "label"), rows)
    write_csv(place / "all-intents.csv", ("text", "label"), [*rows, *((f"Rain in {n}?", "other") for n in range(9))])
    write_csv(place / "more-intents.csv", ("text", "label"), [(f"So, {text}", label) for text, label in rows[:20]])
    paragraphs = [
        {"context": f"Number {n} is in town.", "qas": [{"id": str(n), "question": "Where?", "answers": ANSWERS[n]}]}
        for n in range(12)
    ]
    data = [{"title": str(n), "paragraphs": [paragraph]} for n, paragraph in enumerate(paragraphs)]
    (place / "questions.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    entities = [{"tokens": ["To", name], "tags": ["O", "B-PER"]} for name in map(str, range(12))]
    (place / "entities.jsonl").write_text("\n".join(map(json.dumps, entities)), encoding="utf-8")
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"messages": [{"role": "system", "content": str(number)}, *said]} for number in range(12)]
    (place / "conversations.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    texts = [(str(number), "a", "b") for number in range(12)]
    write_csv(place / "summaries.csv", ("id", "article", "summary"), [(n, f"{n}{a}", b) for n, a, b in texts])
    write_csv(place / "articles.csv", ("id", "article"), [text[:2] for text in texts])
    write_csv(place / "requests.csv", ("id", "text"), [(1, "Where is my card?"), (2, "Money?")])
    (place / "labels.txt").write_text("card arrival\nexchange rate\n", encoding="utf-8")
    questions = {
        "refund": {"type": "noul", "instructions": "The customer wants a refund."},
        "topic": {"type": "choice", "criteria": {"billing": None, "delivery": None}},
    }
    (place / "decisions.json").write_text(json.dumps(questions), encoding="utf-8")
    decided = [{"state": state, "questions": questions} for state in ("Money?", "Where is it?", "A boat", "Old men")]
    for number, one in enumerate(decided):
        one["answers"] = {"refund": number < 2, "topic": ("billing", "delivery")[number % 2]}
    (place / "decided.jsonl").write_text("\n".join(map(json.dumps, decided)), encoding="utf-8")
    _save_tiny_model(place, "intents", head="sequence", num_labels=2, labels=("card", "money"))
    money = {"money": {**CATEGORY, "labels": ["money"]}}
    for name in ("policy", "strict"):
        write_policy(place / f"{name}.yaml", Path("runs/intents"), categories=money, canaries=None)
    options = [(f"Where is {n}?", "in town", "at sea", "AB"[n % 2]) for n in range(12)]
    write_csv(place / "choices.csv", ("question", "A", "B", "label"), options)
    _save_tiny_model(place, "choices", head="choice")
    read = {"task": "choice", "text_column": "question", "option_columns": ["A", "B"]}
    (place / "runs" / "choices" / "prediction.json").write_text(json.dumps(read), encoding="utf-8")
    (place / "glue" / "RTE").mkdir(parents=True)
    pairs = [f"{n}\tThe boat {n}.\tThe {n}.\t{'not_' * (n % 2)}entailment\n" for n in range(24)]
    for part in ("train", "dev"):
        header = "index\tsentence1\tsentence2\tlabel\n"
        (place / "glue" / "RTE" / f"{part}.tsv").write_text(header + "".join(pairs), encoding="utf-8")
    for name in ("assistant", "summaries"):
        save_model(tiny_decoder("gpt-neo", 128), place / "runs" / name)
        copy_tokenizer(place / "runs" / "mine", place / "runs" / name)
        (place / "runs" / name / "prediction.json").write_text('{"task": "instruct"}', encoding="utf-8")
    return place


def _save_tiny_model(place: Path, name: str, **fields: object) -> None:
    """A tiny BERT that was never trained, with the tokenizer of `runs/encoder`."""
    size = load_tokenizer(place / "runs" / "encoder").size
    save_model(tiny_encoder("bert", vocab_size=size, max_position_embeddings=128, **fields), place / "runs" / name)
    copy_tokenizer(place / "runs" / "encoder", place / "runs" / name)


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
        small: Sequence[str] = SMALL
        if "quickstart" in arguments:
            output = output or "runs/quickstart"
        if "finetune" in arguments:
            output, small = arguments[arguments.index("--output") + 1], (*QUICK, "finetune.epochs=1")
        if output:
            shutil.rmtree(workplace / output, ignore_errors=True)
        of_encoder = ["model.embedding_size=16", "tokenizer.vocab_size=140"]  # WordPiece finds few in these texts
        arguments += [*small, *(of_encoder if "albert-desk" in arguments else [])]
    assert call(arguments, monkeypatch) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", python_blocks())
@pytest.mark.usefixtures("workplace")
def test_python_blocks(code: str) -> None:
    exec(compile(code, "<documentation>", "exec"), {"__name__": "documentation"})
