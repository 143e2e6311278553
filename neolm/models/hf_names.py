"""Published tensors from and to our parameters; the names are tables in `neolm.models.families`.

There are four layouts. `plain`: the same as ours. `transposed`: GPT-2 stores a linear layer as (in, out). `stacked`:
GPT-Neo has separate matrices for queries, keys and values; ours is one matrix with the rows [all q | all k | all v].
`interleaved`: GPT-NeoX groups the rows of that matrix by head: [q k v] of the first head, then of the second. (GPT-2's
`c_attn` has the columns [all q | all k | all v], so it is only transposed.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.models.families import DECODERS, FAMILIES
from neolm.models.families.family import Copy, Family, Rule

HEADS = {f"{family.head}.weight" for family in DECODERS.values()}
# Causal masks, rotary tables and position numbers in old files.
_BUFFERS = re.compile(
    r"\.(attn|attention|crossattention)\.(bias|masked_bias)$|rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)embeddings\.position_ids$"
)
_OLD_NORM = {"gamma": "weight", "beta": "bias"}  # names of a layer norm's tensors in TensorFlow and in old files
# Names of modules around the model, or around its blocks, in files of other programs.
_WRAPPERS = "_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"  # torch.compile, FSDP, checkpointing
_WRAPPED = re.compile(rf"^(?:(?:{_WRAPPERS}|module|model)\.)+|(?<=\.)(?:(?:{_WRAPPERS})\.)+")


def gather(rule: Rule, tensors: list[Tensor], num_heads: int) -> Tensor:
    """Our parameter from the published tensors."""
    if rule.layout == "transposed":
        return tensors[0].t().contiguous()
    if rule.layout == "stacked":
        return torch.cat(tensors)
    return _regroup(tensors[0], num_heads, 3) if rule.layout == "interleaved" else tensors[0]


def scatter(rule: Rule, tensor: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """The published tensors from our parameter, each contiguous."""
    if rule.layout == "transposed":
        tensor = tensor.t()
    elif rule.layout == "interleaved":
        tensor = _regroup(tensor, 3, num_heads)
    return tensor.contiguous().chunk(len(rule.theirs))


def _regroup(tensor: Tensor, outer: int, inner: int) -> Tensor:
    """Change the order of rows from (outer, inner) to (inner, outer)."""
    rows = tensor.shape[0] // (outer * inner)
    return tensor.reshape(outer, inner, rows, -1).transpose(0, 1).reshape(tensor.shape)


def rule_of(config: DecoderConfig | EncoderConfig, ours: str) -> Rule:
    """The rule for one of our parameters, with full names: for `blocks.3.mlp.expand.bias`, `h.3.mlp.c_fc.bias`."""
    family = FAMILIES[config.family]
    module, _, kind = ours.rpartition(".")
    for rule in _head_rules(config, family):
        if rule.ours == module:
            return replace(rule, ours=ours, theirs=(f"{rule.theirs[0]}.{kind}",))
    layer = "".join(re.findall(r"^blocks\.(\d+)\.", module))
    place = family.place(config, int(layer)) if layer else ""
    rule = next(rule for rule in family.rules if rule.ours.replace("#", layer) == module)
    theirs = tuple(f"{family.prefix}{name.replace('#', place)}.{kind}" for name in rule.theirs)
    return replace(rule, ours=ours, theirs=theirs)


def _head_rules(config: DecoderConfig | EncoderConfig, family: Family) -> tuple[Rule, ...]:
    """Rules of the modules whose published names have no prefix."""
    if isinstance(config, DecoderConfig):
        return (Rule("head", (family.head,)),) if config.head == "language-model" else family.head_rules["classifier"]
    rules = family.head_rules
    if config.pooling == "mean":  # not a name that transformers would read as its own classifier
        return rules["mean_classifier"]
    return {
        "none": (),
        "pretraining": (*rules["masked"], *rules["sentence"]),
        "masked": rules["masked"],
        "sentence": rules["sentence"],
        "span": rules["span"],
    }.get(config.head, rules["classifier"])


def copies(config: DecoderConfig | EncoderConfig) -> list[Copy]:
    """Published tensors that are the same as others, such as a tied head."""
    family = FAMILIES[config.family]
    if isinstance(config, EncoderConfig):
        return list(family.copies(config))
    head, embedding = (rule_of(config, f"{module}.weight").theirs[0] for module in ("head", "embedding"))
    return [Copy(head, embedding)] if config.ties_head else []


def old_spellings(found: str) -> bool:
    """Whether a tensor's name is an old one of a layer norm, such as `LayerNorm.gamma`."""
    return found.rpartition(".")[2] in _OLD_NORM


def wrappers(found: str) -> list[str]:
    """The parts of a tensor's name in a file that are names of modules around the model, such as `_orig_mod.`."""
    return _WRAPPED.findall(found)


def canonical_name(family: Family, found: str) -> str | None:
    """The name in `rule_of` of a tensor that a file calls `found`; None for a buffer, which is not a weight."""
    found = _WRAPPED.sub("", found)
    if _BUFFERS.search(found):
        return None
    if family.kind == "decoder" and found in HEADS:
        return f"{family.head}.weight"
    module, _, kind = found.rpartition(".")
    if family.kind == "encoder" and kind in _OLD_NORM:
        found = f"{module}.{_OLD_NORM[kind]}"
    heads = {rule.theirs[0].partition(".")[0] for rules in family.head_rules.values() for rule in rules}
    if found.partition(".")[0] in heads:
        return found
    return found if found.startswith(family.prefix) else family.prefix + found


def published_tensors(
    config: DecoderConfig | EncoderConfig, parameters: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Published names and tensors of `parameters`, which have our names, one at a time; a tied head is left out."""
    same = copies(config)
    unwritten = {copy.name for copy in same if not copy.written}
    repeated: dict[str, list[str]] = {}
    for copy in same:
        if copy.written:
            repeated.setdefault(copy.original, []).append(copy.name)
    for ours, tensor in parameters.items():
        rule = rule_of(config, ours)
        for name, part in zip(rule.theirs, scatter(rule, tensor.detach(), config.num_heads), strict=True):
            if name not in unwritten:
                yield name, part
            for other in repeated.get(name, ()):
                yield other, part.clone()
