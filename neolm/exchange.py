"""`neolm import` and `neolm export`: whole model directories, weights, tokenizer and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage, input_from
from neolm.core.errors import InputError
from neolm.core.output import refuse_foreign
from neolm.core.progress import count, say
from neolm.models.decoder import count_parameters
from neolm.models.hf import convert, model_directory
from neolm.tokenizer.tokenizer import copy_tokenizer


def import_directory(source: str, target: Path, dtype: str | None, quantize: str | None = None) -> Path:
    """Read a published model from a directory or the hub and write it, with a manifest, to `target`."""
    return _copy("import", model_directory(source), target, dtype, quantize)


def export_directory(model: str, target: Path, dtype: str | None, quantize: str | None = None) -> Path:
    """Write a model to `target` as a Hugging Face directory."""
    return _copy("export", model_directory(model), target, dtype, quantize)


def _copy(name: str, source: Path, target: Path, dtype: str | None, quantize: str | None = None) -> Path:
    refuse_foreign(target)
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: source and target are the same directory")
    parent = target.resolve().parent
    stage = Stage(
        name, "models", target, {"source": input_from(source, parent)}, {"dtype": dtype, "quantize": quantize}
    )
    if stage.current() is not None:
        say(f"{name}: up to date")
        return target

    def make(directory: Path) -> Mapping[str, Any]:
        config = convert(source, directory, dtype, quantize)
        try:
            copy_tokenizer(source, directory)
        except InputError:
            say(f"{name}: {source} has no tokenizer; only the weights were written")
        return {"parameters": count_parameters(config), "family": config.family}

    manifest = stage.build(make, config_file=False)
    say(f"{name}: {manifest.counts['family']} of {count(manifest.counts['parameters'])} parameters in {target}")
    return target
