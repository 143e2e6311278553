"""`config.json` of Hugging Face's model directories, to and from a `DecoderConfig`.

The keys are tables in `neolm.models.families`. An option that a family's format cannot express is refused by name, when
reading and when writing. GPT-3 sizes are written as GPT-2, which has the same architecture. Left out: rotary scaling,
cross-attention, other methods of quantisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neolm.core.config import validate
from neolm.core.errors import InputError, SettingError, shortened
from neolm.core.files import read_json
from neolm.core.manifest import read_manifest
from neolm.core.model_files import CONFIG_FILE, listed_end_tokens, token_ids
from neolm.kernels.packing import GROUP
from neolm.models.config import DecoderConfig
from neolm.models.families import FAMILIES


def read_config(directory: str | Path) -> DecoderConfig:
    """Configuration in `config.json` of `directory`, with the end tokens of its `generation_config.json`.

    Raises:
        InputError: it is missing, invalid or not supported.
    """
    directory = Path(directory)
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{directory}: not a model directory, it has no {CONFIG_FILE}{hint(directory)}")
    raw = read_json(path)
    families = {family.model_type: family for family in FAMILIES.values()}
    family = families.get(str(raw.get("model_type")))
    if family is None:
        found = shortened(raw.get("model_type"))
        supported = hint(directory) or f"; supported are {', '.join(families)}"
        raise InputError(f"{path}: model_type {found} is not supported{supported}")
    if raw.get("add_cross_attention"):
        raise InputError(f"{path}: add_cross_attention: cross-attention is not supported")
    read_bits(directory)
    names = {key.field: next((name for name in key.names if name in raw), "") for key in family.keys}
    read = {key.field: raw[names[key.field]] if names[key.field] else key.default for key in family.keys}
    fields = {"family": family.name, **family.fixed, **read}
    try:
        fields |= family.read(raw, fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    listed = token_ids(fields["eos_token_id"], path)
    fields["eos_token_id"] = (listed or None) if isinstance(fields["eos_token_id"], list) else fields["eos_token_id"]
    ends = listed_end_tokens(directory)
    fields["end_token_ids"] = None if ends == listed else ends
    place = {field: f"{path}: {name}, read as " for field, name in names.items() if name and name != field}
    config = validate(DecoderConfig, fields, place, str(path))
    if config.intermediate_size == 4 * config.hidden_size:
        config = config.model_copy(update={"intermediate_size": None})
    return config


def hint(directory: Path) -> str:
    """What `directory` is instead of a model, and where a model is near it, as the end of a message; may be empty."""
    manifest = read_manifest(directory)
    kind = f"; this is the output of the stage {shortened(manifest.stage)}" if manifest else ""
    if not manifest and (directory / "pretrain").is_dir():
        kind = "; this is the output of a run that has no model yet, because its training has not ended"
    around = [directory, *directory.parents[:2]]
    models = (place for parent in around for place in (parent / "model", parent) if _has_model(place))
    near = next(models, None)
    return kind + (f"; give {near}" if near else "")


def _has_model(directory: Path) -> bool:
    try:
        return "model_type" in read_json(directory / CONFIG_FILE)
    except InputError:
        return False


def read_bits(directory: str | Path) -> int | None:
    """Bits of quantised weights in `directory`, else None. Raises `InputError` if another method quantised them."""
    path = Path(directory) / CONFIG_FILE
    entry = read_json(path).get("quantization_config")
    if not entry:
        return None
    method = entry.get("quant_method") if isinstance(entry, dict) else entry
    if method != "neolm":
        raise InputError(f"{path}: quantization_config: the method {shortened(method)} is not supported")
    if entry not in (quantization_config(8), quantization_config(4)):
        raise InputError(f"{path}: quantization_config: {shortened(entry)} is not supported by this version")
    return int(entry["bits"])


def quantization_config(bits: int) -> dict[str, Any]:
    """`quantization_config` in `config.json`, with the keys that other methods use too."""
    return {"quant_method": "neolm", "bits": bits, "group_size": GROUP, "sym": True}


def hf_config(config: DecoderConfig) -> dict[str, Any]:
    """Content of `config.json` for `config`. Raises `SettingError` if the family's format cannot express it."""
    family = FAMILIES[config.family]
    limits = {field: f"it must be {value}" for field, value in family.fixed.items() if getattr(config, field) != value}
    for field, reason in [*limits.items(), *family.limits(config)]:
        value = getattr(config, field)
        shown = list(value) if isinstance(value, tuple) else value
        raise SettingError(field, f"{shown} has no place in the published format of {family.name}; {reason}")
    return {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        **{key.names[0]: getattr(config, key.field) for key in family.keys},
        "initializer_range": 0.02,  # this and use_cache have no effect here; readers expect them
        "use_cache": True,
        **family.write(config),
    }
