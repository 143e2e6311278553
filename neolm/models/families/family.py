"""The value that describes one published model family: all differences between families are data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

MAX_LAYERS = 1000
"""Limit on the blocks of a model: the deepest published transformer has 1,000 (Wang et al. 2022, DeepNet)."""

Layout = Literal["plain", "transposed", "stacked", "interleaved"]
"""How a published tensor holds ours: `neolm.models.hf_names` describes the four layouts."""


@dataclass(frozen=True)
class Preset:
    """One published size of a family."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    parameters: int
    """Parameters with the published vocabulary; a tied head is counted once."""
    vocab_size: int = 50257
    other: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the configuration that differ from the family's defaults."""


@dataclass(frozen=True)
class Key:
    """One key of `config.json`: all of `names` are read, the first is written; `default` is used if none is present."""

    field: str
    names: tuple[str, ...]
    default: Any


@dataclass(frozen=True)
class Rule:
    """One of our modules and the published module (or three of them) with its tensors; `#` is the block's number."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = "plain"

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of each published tensor if our parameter has the shape `ours`."""
        return ours[::-1] if self.layout == "transposed" else (ours[0] // len(self.theirs), *ours[1:])


class Copy(NamedTuple):
    """A published tensor that is the same as another one."""

    name: str
    original: str
    written: bool = False
    """Whether other programs need it in the files."""


@dataclass(frozen=True)
class Family:
    """A published model family. Its configuration is a `DecoderConfig` or, for an encoder, an `EncoderConfig`."""

    name: str
    """Value of the configuration's field `family`."""
    title: str
    """Name in papers."""
    defaults: Mapping[str, Any]
    """Fields of the configuration in which the family differs from the defaults there, and the published context."""
    presets: tuple[Preset, ...]
    initialisation: Callable[[Any], Mapping[str, float]]
    """Standard deviations of new weights, by the first of these parts that a parameter's name contains."""
    model_type: str
    """`model_type` in `config.json`."""
    architecture: str
    """Class name in `architectures` in `config.json`, without its end, which names the head."""
    keys: tuple[Key, ...]
    fixed: Mapping[str, Any]
    """Fields of the configuration that the published format cannot change."""
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
    """(content of `config.json`, fields read by `keys`) to fields that need more than a key. Raises `InputError`."""
    write: Callable[[Any], Mapping[str, Any]]
    """Entries of `config.json` that need more than a key."""
    limits: Callable[[Any], Iterable[tuple[str, str]]]
    """Fields that the published format cannot express, each with the reason."""

    prefix: str
    """Prefix of the published tensor names, all but the head's; files of bare models leave it out."""
    head: str
    """Published name of the language model head."""
    rules: tuple[Rule, ...]
    """Tensors whose published names begin with `prefix`."""
    gguf: str | None = None
    """Name of the architecture in llama.cpp; None: there is none."""
    kind: Literal["decoder", "encoder"] = "decoder"
    language_model: str = "ForCausalLM"
    """End of a decoder's class name with a language model head."""
    truncated: bool = False
    """New weights are drawn from a normal distribution that is truncated at two standard deviations."""
    head_rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Heads without `prefix`: `classifier`; an encoder's also `masked`, `sentence`, `mean_classifier` and `span`."""
    copies: Callable[[Any], Iterable[Copy]] = lambda config: ()
    """Published tensors of an encoder that are the same as others."""
    place: Callable[[Any, int], str] = lambda config, block: str(block)
    """What `#` stands for in the published names of a block, counted from 0."""


DECODER_HEADS = {"classifier": (Rule("head", ("score",)),)}

TOKEN_KEYS = tuple(Key(name, (name,), 50256) for name in ("bos_token_id", "eos_token_id"))  # of GPT-2's tokenizer
