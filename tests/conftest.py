"""Shared fixtures and settings: one thread per test worker, no network, sample text."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import hypothesis
import pytest
from samples import sample_text

import neolm.cli
import neolm.core.device

# Every training measures it, for half a second or more; most trainings of the tests take less.
neolm.core.device.matrix_ceiling = functools.cache(neolm.core.device.matrix_ceiling)

# No test has a time limit: a busy machine is not a bug.
hypothesis.settings.register_profile("all", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """`make test` leaves out slow tests and tries fewer examples; `make test-all` does neither."""
    hypothesis.settings.load_profile("quick" if "not slow" in config.option.markexpr else "all")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty small text files."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (folder / f"story {number:02d}.txt").write_text(sample_text(number), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of public data next to the checkout, which is not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data folder ../shared/data, which is not part of the project")
    return SHARED_DATA


@pytest.fixture
def neolm_(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Call the command in this process and return (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neolm", *map(str, arguments)])
        code = 0
        try:
            neolm.cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
