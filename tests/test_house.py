"""Rules of the house that import-linter cannot say, and the promises of the package as a whole."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import neolm
from neolm.core.artifact import ROOMS

PACKAGE = Path(neolm.__file__).parent


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_models_know_nothing_of_other_processes() -> None:
    for path in (PACKAGE / "models").glob("*.py"):
        assert not {name for name in imported(path) if name.startswith("torch.distributed")}, path


def test_every_room_is_in_the_order_that_decides_what_is_stale() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_no_file_or_function_hides_a_second_noun() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 450, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_importing_the_package_loads_nothing_heavy_and_opens_no_socket() -> None:
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


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chatter'"):
        neolm.chatter  # noqa: B018


@pytest.mark.slow
def test_the_wheel_holds_all_that_runs_and_installs_into_a_clean_environment(tmp_path: Path) -> None:
    root = PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("needs the source tree that the wheel is built from")
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
