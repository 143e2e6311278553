"""Directories of LoRA adapters in PEFT's layout, so that adapters can be exchanged with it.

`adapter_config.json` has rank, alpha, dropout, the published names of the adapted layers (`target_modules`) and of the
layers that are trained in full (`modules_to_save`). `adapter_model.safetensors` has, in the published order of rows,

    base_model.model.<published layer>.lora_A.weight    (r, inputs)
    base_model.model.<published layer>.lora_B.weight    (outputs, r)
    base_model.model.<published layer>.weight           and .bias, of a layer that is trained in full

`config.json` is the adapted model's, with the names of its labels; PEFT does not read it.

Source: "PEFT checkpoint format" in the developer guides of PEFT 0.20; PEFT itself is not needed. Refused by name: DoRA,
rsLoRA, trained biases, and ranks or alphas that differ between layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neolm.core.errors import InputError, shortened
from neolm.core.files import read_json, storage_errors, sync_directory, write_json, write_tensors
from neolm.core.model_files import ADAPTER_CONFIG_FILE, CONFIG_FILE
from neolm.models.adapters import attach, check_adaptable, full_modules, lora_layers, published_parts, target_layers
from neolm.models.families.family import Rule
from neolm.models.hf_config import hf_config, read_config
from neolm.models.hf_files import FLOATS, WeightFiles, listing
from neolm.models.hf_names import gather, rule_of, scatter
from neolm.models.model import Model

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS", "language-model": "CAUSAL_LM"}
"""PEFT's names of tasks, by head."""
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "init_lora_weights": (True, False, "gaussian", None),  # others change the base's weights
}
"""Options of PEFT that change the computation, with the values that are supported."""


def save_adapter(model: Model, directory: str | Path, base: str | None = None) -> None:
    """Write the adapters of `model`, merged or not, and the layers that are trained in full.

    Args:
        model: A model with adapters.
        directory: Directory to write to.
        base: Name or path of the model that the adapters belong to, for the readers of the files.

    Raises:
        InputError: the model has no adapters, or the directory cannot be written.
        StorageError: the disk is full.
    """
    layers, target = lora_layers(model), Path(directory)
    if not layers:
        raise InputError("the model has no LoRA adapters to save")
    tensors: dict[str, Tensor] = {}
    adapted: list[str] = []
    for name, layer in layers.items():
        rule = rule_of(model.config, f"{name}.weight")
        for part, down, up in zip(layer.parts, layer.lora_a, layer.lora_b, strict=True):
            adapted.append(rule.theirs[part].removesuffix(".weight"))
            tensors[f"{PREFIX}{adapted[-1]}.lora_A.weight"] = down.detach()
            tensors[f"{PREFIX}{adapted[-1]}.lora_B.weight"] = _published_rows(rule, up.detach(), model)
    whole = _full_tensors(model)
    tensors |= {PREFIX + theirs: model.get_parameter(ours).detach() for theirs, ours in whole.items()}
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": TASKS.get(model.config.head),
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": int(first.alpha) if float(first.alpha).is_integer() else first.alpha,
        "lora_dropout": first.dropout,
        "target_modules": adapted,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in whole}) or None,
        "fan_in_fan_out": any(rule_of(model.config, f"{n}.weight").layout == "transposed" for n in layers),
        "bias": "none",
        "inference_mode": True,
    }
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        temporary = target / f".{ADAPTER_WEIGHTS}.tmp"
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_tensors(temporary, contiguous, metadata={"format": "pt"})
        temporary.replace(target / ADAPTER_WEIGHTS)
        sync_directory(target)
    write_json(target / CONFIG_FILE, hf_config(model.config))
    write_json(target / ADAPTER_CONFIG_FILE, config)


def load_adapter(model: Model, directory: str | Path) -> None:
    """Give `model` the adapters of `directory`; what is trained in full is replaced. As after `add_lora`, it is frozen.

    Raises:
        InputError: the files are missing, damaged, of another model or with other labels, or they need something that
            is not supported. The model is then as before.
    """
    directory = Path(directory)
    check_adaptable(model)
    config = _read_adapter_config(directory)
    _check_labels(model, directory)
    files = WeightFiles(directory, ADAPTER_WEIGHTS)
    found = {_plain_name(name): name for name in files.shapes}
    matrices, chosen = _matrices(model, files, found)
    ranks = {files.shapes[down][0] for pair in matrices.values() for down in pair[:1]}
    if len(ranks) != 1:
        raise InputError(f"{directory}: {ADAPTER_WEIGHTS} has ranks {sorted(ranks)}; one rank is supported")
    whole = _full_tensors(model)
    shapes = {theirs: tuple(model.get_parameter(ours).shape) for theirs, ours in whole.items()}
    _check_full(files, found, shapes)
    attached = attach(model, chosen, ranks.pop(), float(config["lora_alpha"]), float(config["lora_dropout"]))
    for (name, part), (down, up) in matrices.items():
        layer, rule = attached[name], rule_of(model.config, f"{name}.weight")
        place = layer.parts.index(part)
        layer.lora_a[place].data.copy_(files.read(down))
        rows = files.read(up)
        layer.lora_b[place].data.copy_(
            gather(rule, [rows], model.config.num_heads) if rule.layout == "interleaved" else rows
        )
    for theirs, ours in whole.items():
        model.get_parameter(ours).data.copy_(files.read(found[theirs]))


def _published_rows(rule: Rule, up: Tensor, model: Model) -> Tensor:
    """B with its rows in the published order: that of the outputs."""
    return scatter(rule, up, model.config.num_heads)[0] if rule.layout == "interleaved" else up


def _full_tensors(model: Model) -> dict[str, str]:
    """Published names of the parameters that are trained in full, with ours."""
    names = [
        f"{name}.{kind}" for name in full_modules(model) for kind, _ in model.get_submodule(name).named_parameters()
    ]
    return {rule_of(model.config, ours).theirs[0]: ours for ours in names}


def _read_adapter_config(directory: Path) -> dict[str, Any]:
    path = directory / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{directory}: not the directory of an adapter, it has no {ADAPTER_CONFIG_FILE}")
    raw = {"lora_alpha": 8, "lora_dropout": 0.0, **read_json(path)}  # PEFT's defaults
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type {shortened(raw.get('peft_type'))} is not supported, only LORA")
    for option, supported in _OPTIONS.items():
        if raw.get(option, supported[0]) not in supported:
            raise InputError(f"{path}: {option}: {shortened(raw[option])} is not supported")
    for option in ("lora_alpha", "lora_dropout"):
        if type(raw[option]) not in (int, float) or not 0 <= raw[option] < (1 if option == "lora_dropout" else 1e9):
            raise InputError(f"{path}: {option}: {shortened(raw[option])} is not a possible number")
    return raw


def _check_labels(model: Model, directory: Path) -> None:
    """Refuse an adapter whose `config.json`, if it has one, names other labels than the model's."""
    if not full_modules(model) or not (directory / CONFIG_FILE).is_file():
        return
    theirs, ours = read_config(directory).labels, model.config.labels
    if theirs and ours and theirs != ours:
        raise InputError(
            f"{directory}: the adapter's labels are {shortened(list(theirs))}, the model's {shortened(list(ours))}"
        )


def _plain_name(name: str) -> str:
    """The name of a tensor without PEFT's prefix and the marks that older versions left in it."""
    return re.sub(r"\.(modules_to_save|default)(?=\.)", "", name.removeprefix(PREFIX))


def _matrices(
    model: Model, files: WeightFiles, found: dict[str, str]
) -> tuple[dict[tuple[str, int], tuple[str, str]], dict[str, list[int]]]:
    """Names of A and B in the file for each adapted layer and part; and the parts of each layer."""
    places = {
        rule_of(model.config, f"{name}.weight").theirs[part].removesuffix(".weight"): (name, part)
        for name in target_layers(model)
        for part in range(published_parts(model, name))
    }
    matrices: dict[tuple[str, int], tuple[str, str]] = {}
    chosen: dict[str, list[int]] = {}
    unknown = {*found} - {*_full_tensors(model)}
    for published, (name, part) in places.items():
        keys = [f"{published}.lora_{kind}.weight" for kind in "AB"]
        present = [key for key in keys if key in found]
        if not present:
            continue
        unknown -= {*keys}
        if len(present) == 1:
            raise InputError(f"{files.directory}: {ADAPTER_WEIGHTS} has {found[present[0]]}, but not the other matrix")
        down, up = (found[key] for key in keys)
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        rank = files.shapes[down][0] if files.shapes[down] else 0
        expected = {down: (rank, layer.in_features), up: (layer.out_features // published_parts(model, name), rank)}
        _check_tensors(files, expected)
        matrices[name, part] = down, up
        chosen.setdefault(name, []).append(part)
    if unknown or not matrices:
        shown = (
            f"{listing(sorted(found[name] for name in unknown))} is not part of" if unknown else "no LoRA matrices for"
        )
        raise InputError(f"{files.directory}: {ADAPTER_WEIGHTS}: {shown} this {model.config.family}")
    return matrices, chosen


def _check_full(files: WeightFiles, found: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse an adapter without the head of a classifier: it would be random."""
    missing = [name for name in shapes if name not in found]
    if missing:
        raise InputError(
            f"{files.directory}: {ADAPTER_WEIGHTS} lacks {listing(missing)}; a new classifier would be random"
        )
    _check_tensors(files, {found[name]: shape for name, shape in shapes.items()})


def _check_tensors(files: WeightFiles, expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if files.shapes[name] != shape or files.dtypes[name] not in FLOATS.values():
            raise InputError(
                f"{files.directory}: {listing([name])} has the shape {list(files.shapes[name])} and type "
                f"{files.dtypes[name]}; by the model it must be {list(shape)} and of floating-point numbers"
            )
        if not torch.isfinite(files.read(name)).all():
            raise InputError(f"{files.directory}: {listing([name])} holds a NaN or an infinity")
