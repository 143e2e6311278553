"""What `neolm config` and `neolm doctor` print: settings, published models, this machine."""

from __future__ import annotations

import difflib
import importlib
import itertools
import os
import platform
import re
import shutil
from pathlib import Path

import neolm
from neolm.core.config import Setting, sections, settings
from neolm.core.device import (
    choose_device,
    choose_precision,
    compiler,
    cpu_flags,
    cpu_name,
    matrix_ceiling,
    memory_bytes,
    usable_cores,
)
from neolm.core.energy import EnergyMeter
from neolm.core.errors import InputError
from neolm.evaluation.config import TextEvaluateConfig
from neolm.recipe import Recipe, builtin_recipes
from neolm.serving.server.settings import ServeConfig


def section_settings(name: str) -> list[Setting]:
    """The settings of a command or a section of the recipe.

    Raises:
        InputError: no such section; the message names the nearest.
    """
    if name == "serve":
        return list(settings(ServeConfig))
    if name == "evaluate":
        return list(settings(TextEvaluateConfig, "evaluate."))
    found = [setting for setting in settings(Recipe) if name == "run" or setting.key.startswith(f"{name}.")]
    if not found:
        valid = list(sections(Recipe))
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are run, serve, presets, recipes, {', '.join(valid)}"
        raise InputError(f"config: no section '{name}'; {hint}")
    return found


def presets_table() -> list[tuple[str, ...]]:
    """The published models with their sizes and exact parameter counts."""
    from neolm.models.families import PRESETS, preset

    rows: list[tuple[str, ...]] = [("PRESET", "FAMILY", "LAYERS", "WIDTH", "HEADS", "CONTEXT", "PARAMETERS")]
    for name, (family, size) in PRESETS.items():
        context = preset(name)["max_position_embeddings"]
        sizes = (size.num_layers, size.hidden_size, size.num_heads, context)
        rows.append((name, family, *map(str, sizes), f"{size.parameters:,}"))
    return rows


def recipes_table() -> list[tuple[str, str]]:
    """The built-in recipes, each with the sentence that its file begins with."""
    rows = [("RECIPE", "DESCRIPTION")]
    for name, path in builtin_recipes().items():
        comment = itertools.takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
        text = " ".join(line.removeprefix("# ") for line in comment)
        rows.append((name, re.split(r"\.(?: +(?=[A-Z])|$)|:  ", text)[0]))
    return rows


def machine_report() -> list[tuple[str, str]]:
    """What this machine can do, what NeoLM will use, and what is missing, a line each."""
    import torch

    device = choose_device()
    precision = choose_precision("auto", device.value)
    ceiling = matrix_ceiling(device.value, getattr(torch, precision.value))
    total, available = memory_bytes()
    matrix = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu_flags()]
    free = shutil.disk_usage(Path.cwd()).free
    return [
        ("neolm", neolm.__version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        ("processor", f"{cpu_name()}, {usable_cores()} cores usable, {', '.join(matrix) or 'no vector units known'}"),
        ("load", _load()),
        ("threads", f"{torch.get_num_threads()} in torch, GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'unset')}"),
        ("memory", f"{total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB available"),
        ("disk", f"{free / 2**30:.1f} GiB free here"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
        ("compiler", compiler() or "none: pretrain.compile=true cannot be used on the CPU; everything else can"),
        ("energy", EnergyMeter().method),
        ("will use", f"device {device}"),
        ("", f"precision {precision}"),
        ("", f"matrix products at {ceiling / 1e9:,.0f} GFLOP/s, measured now"),
        *(("missing", line) for line in _missing()),
    ]


def _load() -> str:
    """How busy the machine is: threads that run or wait for a core, the mean of the last minute."""
    running, cores = os.getloadavg()[0], usable_cores()
    text = f"{running:.1f} threads running on {cores} core{'s' if cores > 1 else ''}"
    return f"{text}: other programs compete with NeoLM, so expect it to be slower" if running > cores / 2 else text


def _missing() -> list[str]:
    problems = []
    for name in ("daft", "tokenizers", "safetensors", "zstandard", "pyarrow", "huggingface_hub"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {error}; pip install {name}")
    return problems
