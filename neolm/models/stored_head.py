"""The head that the weight files of a model hold, whatever its `config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.core.progress import say
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import MEAN_POOLED, EncoderConfig, Head, Pooling, needs_pooler
from neolm.models.families import FAMILIES
from neolm.models.families.family import Family
from neolm.models.hf_files import WeightFiles
from neolm.models.hf_names import canonical_name, rule_of


def with_stored_head(config: DecoderConfig | EncoderConfig, files: WeightFiles) -> DecoderConfig | EncoderConfig:
    """`config` with the head, the pooler and the number of labels that the tensors of `files` have.

    `architectures` decides between heads with the same tensors: classifiers of sequences, of tokens and of choices. It
    decides between a decoder's heads too. Differences from `config.json` are said, but for a head or a pooler that
    published files often hold besides.
    """
    family = FAMILIES[config.family]
    names = {canonical: name for name in files.shapes if (canonical := canonical_name(family, name))}
    if isinstance(config, EncoderConfig):
        config = config.model_copy(update=_encoder_head(config, family, names, files))
    if config.head not in ("sequence", "token"):
        return config
    weight = names.get(rule_of(config, "head.weight").theirs[0])
    outputs = files.shapes[weight][0] if weight and files.shapes[weight] else config.num_labels
    if outputs == config.num_labels:
        return config
    say(f"{files.directory}: the classifier has {outputs} outputs, but config.json says {config.num_labels} labels")
    return config.model_copy(update={"num_labels": outputs, "labels": None})


def _encoder_head(
    config: EncoderConfig, family: Family, names: Mapping[str, str], files: WeightFiles
) -> dict[str, Any]:
    """The head that the tensors `names` belong to, by field."""

    def holds(head: str) -> bool:
        return any(f"{rule.theirs[0]}.weight" in names for rule in family.head_rules[head])

    pooler = any(name.startswith(f"{family.prefix}pooler.") for name in names)
    head: Head = config.head
    pooling: Pooling = config.pooling
    if holds("masked") or holds("sentence"):
        head = "masked" if not holds("sentence") else "pretraining" if holds("masked") else "sentence"
        pooling = "first"
    elif holds("span"):
        head, pooling = "span", "first"
    elif holds("mean_classifier") and not (holds("classifier") and pooling == "first"):
        head, pooling = head if head in MEAN_POOLED else "sequence", "mean"
    elif holds("classifier"):
        head = head if head in ("sequence", "token", "choice") else "sequence" if pooler else "token"
        pooling = "first"
    if head in ("sequence", "token") and head != config.head:
        say(f"{files.directory}: architectures names no such classifier; its weights are taken for one of {head}s")
    pooler = pooling == "first" and (pooler or needs_pooler(head, pooling))
    return {"head": head, "pooling": pooling, "pooler": pooler}
