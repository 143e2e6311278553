"""Environments of the peers: each has its own packages, and all have the very torch that NeoLM runs on.

A peer's environment is a venv that finds, after its own packages, a folder of links to torch, numpy and what they
require, as they are in the environment that started the benchmark. So torch is neither downloaded again nor another
build, and nothing else of NeoLM's environment is seen. An environment made from the same requirements is used again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from workers import Failed, note

REQUIREMENTS = {
    "transformers": ("transformers>=5,<6", "accelerate>=1.10"),
    "transformers serve": ("transformers[serving]>=5,<6", "accelerate>=1.10"),
    "litgpt": ("litgpt>=0.5.11,<0.6",),
    "llama.cpp": ("llama-cpp-python>=0.3.16,<0.4",),  # from its sources: needs a C++ compiler and minutes
    "ctranslate2": ("ctranslate2>=4.6,<5", "transformers>=4.50,<5"),  # its converter of GPT-NeoX knows no later ones
}


def environment(name: str | None, root: Path) -> Path:
    """The interpreter of the environment `name` below `root`, made if need be; None: this one.

    Raises:
        Failed: a package cannot be had.
    """
    if name is None:
        return Path(sys.executable)
    directory = root.resolve() / name
    python = directory / "bin" / "python"
    borrowed = _lend(root.resolve() / "borrowed")
    recipe = "\n".join([*REQUIREMENTS[name], *borrowed])
    stamp = directory / "made-of.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe and python.exists():
        return python
    note(f"making the environment of {name} in {directory}")
    venv.create(directory, with_pip=True, clear=True)
    packages = next((directory / "lib").glob("python*/site-packages"))
    (packages / "borrowed.pth").write_text(f"{root.resolve() / 'borrowed'}\n", encoding="utf-8")
    constraint = directory / "constraints.txt"
    constraint.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n", encoding="utf-8")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraint]
    done = subprocess.run([*command, *REQUIREMENTS[name]], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failed(f"pip cannot install {', '.join(REQUIREMENTS[name])}: {lines[-1] if lines else 'no message'}")
    stamp.write_text(recipe, encoding="utf-8")
    return python


def versions(name: str, python: Path) -> dict[str, str]:
    """The versions of the peer's packages in its environment."""
    packages = [re.split(r"[\[>]", requirement)[0] for requirement in REQUIREMENTS[name]]
    script = "import importlib.metadata as m, sys; print(*[m.version(name) for name in sys.argv[1:]])"
    done = subprocess.run([python, "-c", script, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


@functools.cache
def _lend(folder: Path) -> list[str]:
    """Fill `folder` with links to what torch and numpy consist of; returns their names and versions.

    It lies outside of every venv, so that no pip takes its files for its own.
    """
    lent: dict[str, str] = {}
    links: dict[str, Path] = {}
    wanted = ["torch", "numpy"]
    while wanted:
        name = wanted.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # only for another platform
        if distribution.name in lent:
            continue
        lent[distribution.name] = distribution.version
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            links[top] = Path(str(distribution.locate_file(top))).resolve()
        needs = [requirement for requirement in distribution.requires or () if "extra ==" not in requirement]
        wanted += [found.group() for found in (re.match(r"[\w.-]+", requirement) for requirement in needs) if found]
    if not folder.is_dir() or {path.name: path.resolve() for path in folder.iterdir()} != links:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for top, target in links.items():
            (folder / top).symlink_to(target)
    return sorted(f"{name}=={version}" for name, version in lent.items())
