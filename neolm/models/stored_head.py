"""The head that an encoder's weight files hold, whatever its `config.json` says."""

from __future__ import annotations

from typing import Any

from neolm.core.progress import say
from neolm.models.encoder_config import POOLED, EncoderConfig, Head
from neolm.models.families import FAMILIES
from neolm.models.hf_files import WeightFiles
from neolm.models.hf_names import canonical_name


def with_stored_head(config: EncoderConfig, files: WeightFiles) -> EncoderConfig:
    """`config` with the head, the pooler and the number of labels that the tensors of `files` have.

    `architectures` decides between heads with the same tensors: classifiers of sequences, of tokens and of choices.
    Differences from `config.json` are said, but for a head or a pooler that published files often hold besides.
    """
    family = FAMILIES[config.family]
    names = {canonical: name for name in files.shapes if (canonical := canonical_name(family, name))}

    def holds(head: str) -> bool:
        return any(f"{rule.theirs[0]}.weight" in names for rule in family.head_rules[head])

    pooler = any(name.startswith(f"{family.prefix}pooler.") for name in names)
    head: Head = config.head
    if holds("masked") or holds("sentence"):
        head = "masked" if not holds("sentence") else "pretraining" if holds("masked") else "sentence"
    elif holds("span"):
        head = "span"
    elif holds("classifier") and head not in ("sequence", "token", "choice"):
        head = "sequence" if pooler else "token"
        say(f"{files.directory}: architectures names no classifier; its weights are taken for one of {head}s")
    fields: dict[str, Any] = {"head": head, "pooler": pooler or head in POOLED}
    weight = names.get("classifier.weight")
    outputs = files.shapes[weight][0] if weight and files.shapes[weight] else config.num_labels
    if head in ("sequence", "token") and outputs != config.num_labels:
        say(f"{files.directory}: the classifier has {outputs} outputs, but config.json says {config.num_labels} labels")
        fields |= {"num_labels": outputs, "labels": None}
    return config.model_copy(update=fields)
