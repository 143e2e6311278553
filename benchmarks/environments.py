"""Virtual environments of the peers: each has its own packages and the same torch as NeoLM.

After its own packages, a peer's venv finds a folder of links to torch, numpy and their requirements in the
environment that started the benchmark. So torch is not downloaded again and is the same build; nothing else of
NeoLM's environment is visible. An environment with the same requirements is reused.
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

from workers import BenchmarkError, log

REQUIREMENTS = {
    "transformers": ("transformers>=5,<6", "accelerate>=1.10"),
    "transformers serve": ("transformers[serving]>=5,<6", "accelerate>=1.10"),
    "litgpt": ("litgpt>=0.5.11,<0.6",),
    "llama.cpp": ("llama-cpp-python>=0.3.16,<0.4",),  # built from source: needs a C++ compiler and minutes
    "sentence-transformers": ("sentence-transformers>=5.1,<7",),
    "sentence-transformers onnx": ("sentence-transformers[onnx]>=5.1,<7", "onnxruntime"),
    "sentence-transformers openvino": ("sentence-transformers[openvino]>=5.1,<7", "openvino"),
    "rensa": ("rensa>=0.5,<0.6",),
    "tiktoken": ("tiktoken>=0.9,<1",),
    "datatrove": ("datatrove[processing]>=0.10,<0.11", "orjson", "spacy>=3.8"),
    "ctranslate2": ("ctranslate2>=4.6,<5", "transformers>=4.50,<5"),  # later versions fail to convert GPT-NeoX
}
REMOVED = {"sentence-transformers openvino": ("torchvision",)}
"""Packages that are required but not used: a torchvision from the package index does not fit every build of torch."""


def environment(name: str | None, root: Path) -> Path:
    """Return the interpreter of the environment `name` in `root`, created if necessary; None: this environment.

    Raises:
        BenchmarkError: a package cannot be installed.
    """
    if name is None:
        return Path(sys.executable)
    directory = root.resolve() / name
    python = directory / "bin" / "python"
    shared = _link_shared(root.resolve() / "borrowed")
    recipe = "\n".join([*REQUIREMENTS[name], *shared])
    stamp = directory / "made-of.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe and python.exists():
        return python
    log(f"creating the environment of {name} in {directory}")
    venv.create(directory, with_pip=True, clear=True)
    packages = next((directory / "lib").glob("python*/site-packages"))
    (packages / "borrowed.pth").write_text(f"{root.resolve() / 'borrowed'}\n", encoding="utf-8")
    constraint = directory / "constraints.txt"
    constraint.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n", encoding="utf-8")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraint]
    done = subprocess.run([*command, *REQUIREMENTS[name]], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BenchmarkError(
            f"pip cannot install {', '.join(REQUIREMENTS[name])}: {lines[-1] if lines else 'no message'}"
        )
    if name in REMOVED:
        command = [python, "-m", "pip", "uninstall", "--quiet", "--disable-pip-version-check", "--yes", *REMOVED[name]]
        subprocess.run(command, check=True, capture_output=True)
    stamp.write_text(recipe, encoding="utf-8")
    return python


def versions(name: str, python: Path) -> dict[str, str]:
    """Return the versions of the peer's packages in its environment."""
    packages = [re.split(r"[\[>]", requirement)[0] for requirement in REQUIREMENTS[name]]
    script = "import importlib.metadata as m, sys; print(*[m.version(name) for name in sys.argv[1:]])"
    done = subprocess.run([python, "-c", script, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


@functools.cache
def _link_shared(folder: Path) -> list[str]:
    """Fill `folder` with links to torch, numpy and their requirements; return their names and versions.

    The folder is outside every venv, so that pip does not manage its files.
    """
    linked: dict[str, str] = {}
    links: dict[str, Path] = {}
    pending = ["torch", "numpy"]
    while pending:
        name = pending.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # required only on other platforms
        if distribution.name in linked:
            continue
        linked[distribution.name] = distribution.version
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            links[top] = Path(str(distribution.locate_file(top))).resolve()
        needs = [requirement for requirement in distribution.requires or () if "extra ==" not in requirement]
        pending += [found.group() for found in (re.match(r"[\w.-]+", requirement) for requirement in needs) if found]
    if not folder.is_dir() or {path.name: path.resolve() for path in folder.iterdir()} != links:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for top, target in links.items():
            (folder / top).symlink_to(target)
    return sorted(f"{name}=={version}" for name, version in linked.items())
