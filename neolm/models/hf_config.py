"""`config.json` of Hugging Face's model directories, to and from a `DecoderConfig` or an `EncoderConfig`.

The keys are tables in `neolm.models.families`. An option that a family's format cannot express is refused by name, when
reading and when writing. GPT-3 sizes are written as GPT-2, which has the same architecture. Left out: rotary scaling,
cross-attention, other methods of quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from neolm.core.config import validate
from neolm.core.errors import InputError, SettingError, shortened
from neolm.core.files import read_json
from neolm.core.manifest import read_manifest
from neolm.core.model_files import CONFIG_FILE, listed_end_tokens, token_ids
from neolm.core.progress import say
from neolm.kernels.packing import GROUP
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig, Head, Pooling, needs_pooler
from neolm.models.families import FAMILIES
from neolm.models.families.albert import ALBERT
from neolm.models.families.bert import BERT
from neolm.models.families.family import Family
from neolm.models.hf_files import WeightFiles

C = TypeVar("C", DecoderConfig, EncoderConfig)


def read_config(directory: str | Path) -> DecoderConfig | EncoderConfig:
    """Configuration in `config.json` of `directory`, with the end tokens of its `generation_config.json`.

    The head of an encoder is the one that `architectures` names; `StoredModel` looks at the tensors too.

    Raises:
        InputError: it is missing, invalid or not supported.
    """
    directory = Path(directory)
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{directory}: not a model directory, it has no {CONFIG_FILE}{hint(directory)}")
    raw = read_json(path)
    family = _family(directory, raw)
    if raw.get("add_cross_attention"):
        raise InputError(f"{path}: add_cross_attention: cross-attention is not supported")
    read_bits(directory)
    return _decoder(directory, raw, family) if family.kind == "decoder" else _encoder(path, raw, family)


def read_decoder_config(directory: str | Path) -> DecoderConfig:
    """`read_config` of a decoder that writes text. Raises `InputError` also for an encoder or a classifier."""
    return require_language_model(read_config(directory), str(directory))


def require_language_model(config: DecoderConfig | EncoderConfig, name: str) -> DecoderConfig:
    """`config`, if the model `name` writes text. Raises `InputError` for an encoder or a classifier."""
    title = FAMILIES[config.family].title
    if isinstance(config, EncoderConfig):
        raise InputError(
            f"{name}: this {title} is an encoder: it reads text and cannot write it. Give a decoder, such as a GPT-Neo"
        )
    if config.head != "language-model":
        raise InputError(
            f"{name}: this {title} is a classifier: it reads text and cannot write it. Give a model with a language "
            "model head, such as the one that it was trained from"
        )
    return config


def _family(directory: Path, raw: Mapping[str, Any]) -> Family:
    """The family of a model; if `model_type` is missing, that of the tensors, which is said."""
    path = directory / CONFIG_FILE
    families = {family.model_type: family for family in FAMILIES.values()}
    found = families.get(str(raw.get("model_type")))
    if found is None and "model_type" not in raw:
        with suppress(InputError):
            names = " ".join(WeightFiles(directory).shapes)
            found = ALBERT if "albert_layer_groups." in names else BERT if ".attention.self.query." in names else None
        if found:
            say(f"{path}: model_type is missing; the tensors are those of {found.model_type}")
    if found is None:
        shown = shortened(raw.get("model_type"))
        supported = hint(directory) or f"; supported are {', '.join(families)}"
        raise InputError(f"{path}: model_type {shown} is not supported{supported}")
    return found


def _fields(path: Path, raw: Mapping[str, Any], family: Family) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of the configuration, and the keys that they were read from."""
    names = {key.field: next((name for name in key.names if name in raw), "") for key in family.keys}
    read = {key.field: raw[names[key.field]] if names[key.field] else key.default for key in family.keys}
    fields = {"family": family.name, **family.fixed, **read}
    try:
        fields |= family.read(raw, fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return fields, names


def _validated(model: type[C], path: Path, fields: Mapping[str, Any], names: Mapping[str, str]) -> C:
    place = {field: f"{path}: {name}, read as " for field, name in names.items() if name and name != field}
    config = validate(model, fields, place, str(path))
    if config.intermediate_size == 4 * config.hidden_size:
        config = config.model_copy(update={"intermediate_size": None})
    return config


def _decoder(directory: Path, raw: Mapping[str, Any], family: Family) -> DecoderConfig:
    path = directory / CONFIG_FILE
    fields, names = _fields(path, raw, family)
    listed = token_ids(fields["eos_token_id"], path)
    fields["eos_token_id"] = (listed or None) if isinstance(fields["eos_token_id"], list) else fields["eos_token_id"]
    ends = listed_end_tokens(directory)
    fields["end_token_ids"] = None if ends == listed else ends
    fields["pad_token_id"] = raw.get("pad_token_id")
    if raw.get("architectures") == [family.architecture + _SEQUENCE]:
        fields |= {"head": "sequence", **_label_fields(path, raw)}
    return _validated(DecoderConfig, path, fields, names)


_SEQUENCE = "ForSequenceClassification"
_HEADS: dict[str, tuple[Head, Pooling]] = {
    "Model": ("none", "first"),
    "ForPreTraining": ("pretraining", "first"),
    "ForMaskedLM": ("masked", "first"),
    "ForNextSentencePrediction": ("sentence", "first"),
    _SEQUENCE: ("sequence", "first"),
    "ForTokenClassification": ("token", "first"),
    "ForMultipleChoice": ("choice", "first"),
    "ForQuestionAnswering": ("span", "first"),
    "ForMeanPooledSequenceClassification": ("sequence", "mean"),
    "ForMeanPooledMultipleChoice": ("choice", "mean"),
}
"""Ends of the class names of encoders: those that are published, and two that transformers does not have."""


def _encoder(path: Path, raw: Mapping[str, Any], family: Family) -> EncoderConfig:
    fields, names = _fields(path, raw, family)
    architectures = raw.get("architectures") or [f"{family.architecture}Model"]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise InputError(f"{path}: architectures: expected a list of class names, not {shortened(architectures)}")
    named = _HEADS.get(architectures[0].removeprefix(family.architecture))
    if named is None:
        say(f"{path}: architectures: {shortened(architectures[0])} is not known; the head is that of the weights")
    head, pooling = named or _HEADS["Model"]
    fields |= {
        "head": head,
        "pooling": pooling,
        "pooler": head == "none" or needs_pooler(head, pooling),
        **_label_fields(path, raw),
        "sentence_task": raw.get("sentence_task", family.defaults["sentence_task"]),
    }
    return _validated(EncoderConfig, path, fields, names)


def _label_fields(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `LabelConfig`."""
    labels = _label_names(path, raw)
    number = raw.get("num_labels", len(labels) or 2)
    if labels and len(labels) != number:
        say(f"{path}: num_labels is {shortened(number)}, but id2label has {len(labels)} names; they are not used")
        labels = []
    return {"num_labels": number, "labels": labels or None, "problem": raw.get("problem_type")}


def _label_names(path: Path, raw: Mapping[str, Any]) -> list[str]:
    """Names of a classifier's outputs, in their order; none if the file has none."""
    listed = raw.get("id2label") or {}
    if isinstance(listed, dict) and all(isinstance(name, str) for name in listed.values()):
        with suppress(ValueError):
            return [listed[key] for key in sorted(listed, key=int)]
    raise InputError(f"{path}: id2label: expected an object from numbers to names, not {shortened(listed)}")


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


def hf_config(config: DecoderConfig | EncoderConfig) -> dict[str, Any]:
    """Content of `config.json` for `config`. Raises `SettingError` if the family's format cannot express it."""
    family = FAMILIES[config.family]
    limits = {field: f"it must be {value}" for field, value in family.fixed.items() if getattr(config, field) != value}
    for field, reason in [*limits.items(), *family.limits(config)]:
        value = getattr(config, field)
        shown = list(value) if isinstance(value, tuple) else value
        raise SettingError(field, f"{shown} has no place in the published format of {family.name}; {reason}")
    return {
        "model_type": family.model_type,
        "architectures": [family.architecture + _suffix(config, family)],
        "initializer_range": 0.02,  # of a decoder this has no effect here, nor has use_cache; readers expect them
        **{key.names[0]: getattr(config, key.field) for key in family.keys},
        "use_cache": True,
        **family.write(config),
        **_head_entries(config),
    }


def _suffix(config: DecoderConfig | EncoderConfig, family: Family) -> str:
    """End of the class name, which names the head."""
    if isinstance(config, DecoderConfig):
        return _SEQUENCE if config.head == "sequence" else family.language_model
    return next(end for end, named in _HEADS.items() if named == (config.head, config.pooling))


def _head_entries(config: DecoderConfig | EncoderConfig) -> dict[str, Any]:
    """Entries of `config.json` about the head."""
    entries: dict[str, Any] = {}
    if isinstance(config, EncoderConfig) and config.head in ("pretraining", "sentence"):
        entries["sentence_task"] = config.sentence_task
    if config.head in ("sequence", "token"):
        entries["id2label"] = {str(number): name for number, name in enumerate(config.label_names)}
        entries["label2id"] = {name: number for number, name in enumerate(config.label_names)}
    if isinstance(config, DecoderConfig) and config.pad_token_id is not None:
        entries["pad_token_id"] = config.pad_token_id
    if isinstance(config, EncoderConfig) and config.pooling == "mean":
        entries["classifier_pooling"] = "mean"  # ModernBERT's key
    if config.problem is not None:
        entries["problem_type"] = config.problem
    return entries
