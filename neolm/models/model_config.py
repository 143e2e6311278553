"""The `model` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, Supersedes, Unit
from neolm.core.errors import SettingError
from neolm.models.config import Activation, DecoderConfig, Layers, Probability, Width, decoder_config
from neolm.models.encoder_config import EncoderConfig, Initialisation, Sharing, encoder_config
from neolm.models.families import ENCODERS, FAMILIES, PRESETS, preset
from neolm.models.label_config import Positive

SentenceTask = Literal["none", "nsp", "sop"]


class ModelConfig(Config):
    """The `model` section of a recipe: a published preset, or a family and its sizes."""

    preset: Annotated[str | None, Supersedes()] = None
    """A published model, such as gpt-neo-125m; `neolm config presets` lists them. Other keys override its values. On
    the command line, it replaces all model settings of the recipe."""
    family: Literal["gpt2", "gpt3", "gpt-neo", "gpt-neox", "bert", "albert"] | None = None
    """The family of a model without a preset."""
    hidden_size: Annotated[Width | None, Unit("channels")] = None
    """Width of the residual stream; a multiple of num_heads."""
    num_layers: Annotated[Layers | None, Unit("blocks")] = None
    """Number of blocks."""
    num_heads: Annotated[Width | None, Unit("heads")] = None
    """Attention heads of each block."""
    intermediate_size: Annotated[Positive | None, Unit("channels")] = None
    """Width of the MLP; null: 4 x hidden_size."""
    embedding_size: Annotated[Width | None, Unit("channels")] = None
    """Width of the embeddings (albert); null: 128."""
    groups: Layers | None = None
    """Groups of consecutive layers that share their parameters (albert); null: 1."""
    blocks_per_group: Layers | None = None
    """Blocks of a group, all of which are computed in each of its layers (albert); null: 1."""
    sharing: Sharing | None = None
    """What the layers of a group share (albert): all parameters, only those of attention, only those of the MLP, or
    none; null: all."""
    initializer_range: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of new weights (bert, albert); null: 0.02, which was chosen for 768 channels and more."""
    initialisation: Initialisation | None = None
    """New weights (bert, albert): published, random ones; or informed, where half of the attention heads look at a
    neighbouring token and the output biases are the frequencies of the tokens, which spares a small encoder millions of
    tokens; null: published."""
    vocab_size: Annotated[Positive | None, Unit("tokens")] = None
    """Rows of the embedding; null: the tokenizer's size."""
    max_position_embeddings: Annotated[Positive | None, Unit("tokens")] = None
    """Context length; null: the preset's, or else pretrain.sequence_length."""
    attention_layers: tuple[Literal["global", "local"], ...] | None = None
    """Kinds of attention, repeated over the blocks (gpt-neo)."""
    window_size: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens that a local layer attends to, the token itself included (gpt-neo)."""
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each head's channels that is rotated (gpt-neox)."""
    parallel_residual: bool | None = None
    """Attention and MLP both read the block's input (gpt-neox)."""
    tie_embeddings: bool | None = None
    """The output head is the token embedding."""
    activation: Activation | None = None
    """Non-linearity of the MLP."""
    embedding_dropout: Probability | None = None
    """Dropout after the embeddings."""
    residual_dropout: Probability | None = None
    """Dropout on what attention and MLP add to the residual stream."""
    attention_dropout: Probability | None = None
    """Dropout on attention weights."""

    @property
    def family_name(self) -> str | None:
        """The family, a key of `FAMILIES`; None if it is not given."""
        return PRESETS[self.preset][0] if self.preset in PRESETS else self.family

    @property
    def is_encoder(self) -> bool:
        """Whether the family is one of encoders."""
        return self.family_name in ENCODERS

    def without_effect(self) -> dict[str, str]:
        """Fields that the family makes meaningless, each with the reason."""
        name = self.family_name
        if name is None:
            return {}
        if name in ENCODERS:
            config: type[Config] = EncoderConfig
            missing = {*FAMILIES[name].fixed}
        else:
            config, missing = DecoderConfig, set()
        other = {*type(self).model_fields} - {*config.model_fields} - {"preset"}
        found = dict.fromkeys([*other, *missing], f"{name} has no such part")
        if name in ENCODERS:
            return found
        defaults = FAMILIES[name].defaults
        layers = self.attention_layers or defaults.get("attention_layers", ("global",))
        if "local" not in layers:
            found["window_size"] = "no layer has local attention"
        if defaults.get("position_embedding") != "rotary":
            found["rotary_fraction"] = f"{name} has no rotary positions"
        return found

    def resolve(
        self,
        tokenizer_size: int,
        sequence_length: int,
        tokens: Mapping[str, int | None],
        sentence_task: SentenceTask = "none",
    ) -> DecoderConfig | EncoderConfig:
        """Architecture for a tokenizer of `tokenizer_size` tokens; `sequence_length` is the context if none is given.

        `tokens` has the ids of the special tokens `bos`, `eos` and `pad`. `sentence_task` is that of an encoder.

        Raises:
            SettingError: unknown preset, a missing size, or sizes that do not fit together or the tokenizer.
        """
        given = {k: v for k, v in self.model_dump(exclude={"preset", "family"}).items() if v is not None}
        base: dict[str, Any] = preset(self.preset) if self.preset else {"family": self.family}
        if base["family"] is None:
            raise SettingError("preset", "give a preset, or a family with its sizes")
        if self.preset and self.family not in (None, base["family"]):
            raise SettingError("family", f"{self.preset} is of the family {base['family']}, not {self.family}")
        fields = {**base, "vocab_size": tokenizer_size, **given}
        for key in self.without_effect():
            fields.pop(key, None)
        fields.setdefault("max_position_embeddings", sequence_length)
        for key in ("hidden_size", "num_layers", "num_heads"):
            if key not in fields:
                raise SettingError(key, "must be given if there is no preset")
        fields.update(bos_token_id=tokens.get("bos"), eos_token_id=tokens.get("eos"))
        family = fields.pop("family")
        config = (
            _encoder(family, fields, tokens, sentence_task) if self.is_encoder else decoder_config(family, **fields)
        )
        if config.vocab_size < tokenizer_size:
            raise SettingError(
                "vocab_size", f"{config.vocab_size} is less than the tokenizer's {tokenizer_size} tokens"
            )
        return config


def _encoder(
    family: str, fields: dict[str, Any], tokens: Mapping[str, int | None], sentence_task: SentenceTask
) -> EncoderConfig:
    fields["pad_token_id"] = tokens.get("pad")
    if sentence_task == "none":
        fields |= {"head": "masked", "pooler": False}
    else:
        fields |= {"head": "pretraining", "sentence_task": sentence_task}
    return encoder_config(family, **fields)
