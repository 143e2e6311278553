"""Rules for imports and file sizes, and tests of the package as a whole."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import neolm
from neolm.core import artifact
from neolm.rooms import ROOMS, closure

PACKAGE = Path(neolm.__file__).parent


def imported(node: ast.AST) -> set[str]:
    """Return the modules that are imported in `node`, except for type checking."""
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            names |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            names.add(child.module)
        names |= imported(child)
    return names


def imports_of(folder: Path) -> set[str]:
    """Return the modules that a folder imports, without commands.py, which belongs to the command line."""
    files = [path for path in folder.rglob("*.py") if path.name != "commands.py"]
    return set().union(*(imported(ast.parse(path.read_text(encoding="utf-8"))) for path in files))


def test_rooms_lists_the_imports_of_each_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    for room, dependencies in ROOMS.items():
        packages = {name.split(".")[1] for name in imports_of(PACKAGE / room) if name.startswith("neolm.")}
        allowed = {room, "rooms"} if room == "core" else {room}
        assert packages - allowed == set(dependencies), room


def test_rooms_have_no_circular_dependencies() -> None:
    assert all(room not in closure(dependency) for room, needs in ROOMS.items() for dependency in needs)


def test_forbidden_dependencies() -> None:
    assert closure("models") == {"core", "kernels", "models"}
    assert "kernels" in closure("evaluation")  # through models
    assert "kernels" not in ROOMS["evaluation"]
    assert not {"data", "corpus", "training"} & set(ROOMS["generation"])
    assert all("training" not in closure(room) for room in ("evaluation", "report", "serving"))
    assert not {name for name in imports_of(PACKAGE / "models") if name.startswith("torch.distributed")}
    assert not {name for name in imports_of(PACKAGE) if name.partition(".")[0] == "transformers"}


def test_a_code_digest_covers_the_room_and_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "neolm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(artifact.neolm, "__file__", str(package / "__init__.py"))

    def digests() -> dict[str, str]:
        return {room: artifact.code_digest.__wrapped__(room) for room in ROOMS}

    before = digests()
    with (package / "generation" / "commands.py").open("a", encoding="utf-8") as source:
        source.write("# a comment\n")
    assert digests() == before  # the text of a command changes no result
    for changed, file in (("training", "loop.py"), ("models", "config.py")):
        with (package / changed / file).open("a", encoding="utf-8") as source:
            source.write("# a comment\n")
        after = digests()
        assert {room for room in ROOMS if after[room] != before[room]} == {r for r in ROOMS if changed in closure(r)}
        before = after


def test_files_and_functions_are_short() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 450, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_importing_the_package_is_light_and_opens_no_socket() -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "import neolm, neolm.cli\n"
        "assert not {'torch', 'daft', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
        "for name in neolm.__all__: getattr(neolm, name)\n"
        "import neolm.corpus.engine\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_lists_its_exports() -> None:
    assert dir(neolm) == sorted(neolm.__all__)
    assert set(neolm._EXPORTS) | {"__version__"} == set(neolm.__all__)
    assert all(callable(getattr(neolm, name)) for name in neolm._EXPORTS)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chatter'"):
        neolm.chatter  # noqa: B018


@pytest.mark.slow
def test_the_wheel_is_complete_and_installs_into_a_clean_environment(tmp_path: Path) -> None:
    root = PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("needs the source tree of the wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {f"neolm/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}
    assert {name for name in package if "__pycache__" not in name} <= names
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    version = subprocess.run([python, "-m", "neolm", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"neolm {neolm.__version__}"
    subprocess.run([python, "-m", "neolm", "config", "run"], capture_output=True, check=True, cwd=tmp_path)
