"""`neolm import` and `neolm export`: whole models, weights, tokenizer and manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage
from neolm.core.errors import InputError
from neolm.core.files import read_json, storage_errors, write_json
from neolm.core.manifest import input_from
from neolm.core.model_files import DECISION_FILE, GENERATION_FILE, PREDICTION_FILE, SENTENCE_FILES
from neolm.core.output import refuse_foreign
from neolm.core.progress import count, say
from neolm.models.gguf import GGUF_FILE, export_gguf
from neolm.models.hf import convert, model_directory
from neolm.models.stored_model import StoredModel
from neolm.report.model_card import write_model_card
from neolm.tokenizer.chat_files import chat_templates
from neolm.tokenizer.directory import NoTokenizerError
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer


def import_directory(source: str, target: Path, dtype: str | None, quantize: str | None = None) -> Path:
    """Read a published model from a directory or the hub and write it, with a manifest, to `target`."""
    return _copy("import", model_directory(source), target, {"dtype": dtype, "quantize": quantize}, _write_hf)


def export_directory(model: str, target: Path, dtype: str | None, quantize: str | None = None, to: str = "hf") -> Path:
    """Write a model to the directory `target`: as a Hugging Face directory, or (`gguf`) as one file for llama.cpp."""
    settings = {"dtype": dtype, "quantize": quantize, **({"to": to} if to == "gguf" else {})}
    return _copy("export", model_directory(model), target, settings, _write_gguf if to == "gguf" else _write_hf)


def _write_hf(source: Path, directory: Path, dtype: str | None, quantize: str | None) -> StoredModel:
    stored = convert(source, directory, dtype, quantize)
    generation = source / GENERATION_FILE
    if generation.is_file():  # its settings of sampling have no effect here, but in other programs
        write_json(directory / GENERATION_FILE, read_json(generation))
    patterns = (*SENTENCE_FILES, PREDICTION_FILE, DECISION_FILE)
    for path in (path for pattern in patterns for path in source.glob(pattern) if path.is_file()):
        copy = directory / path.relative_to(source)
        with storage_errors(copy):
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    try:
        copy_tokenizer(source, directory, name_eos=False)
    except NoTokenizerError:
        say(f"{source} has no tokenizer; only the weights were written")
    return stored


def _write_gguf(source: Path, directory: Path, dtype: str | None, quantize: str | None) -> StoredModel:
    tokenizer = load_tokenizer(source, lossless=True)
    content = json.loads(tokenizer.backend.to_str())
    template = chat_templates(source).get("default")
    return export_gguf(
        source, directory / GGUF_FILE, content, tokenizer.eos_token_id, dtype, quantize, template and template[0]
    )


def _copy(
    name: str,
    source: Path,
    target: Path,
    settings: dict[str, str | None],
    write: Callable[[Path, Path, str | None, str | None], StoredModel],
) -> Path:
    """Build the stage `name` in `target`: `write` puts there what it makes of `source`."""
    refuse_foreign(target)
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: source and target are the same directory")
    stage = Stage(name, "models", target, {"source": input_from(source, target.resolve().parent)}, settings)

    def make(directory: Path) -> dict[str, Any]:
        stored = write(source, directory, settings["dtype"], settings["quantize"])
        return {"parameters": stored.parameters, "family": stored.config.family}

    def summary(counts: Mapping[str, Any]) -> str:
        return f"{counts['family']} of {count(counts['parameters'])} parameters in {target}"

    stage.ensure(make, summary, config_file=False)
    write_model_card(target)
    return target
