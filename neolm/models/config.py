"""The shape of a decoder."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from neolm.core.config import Unit
from neolm.core.errors import SettingError
from neolm.models.families import FAMILIES
from neolm.models.families.family import MAX_LAYERS
from neolm.models.label_config import LabelConfig, Positive

Activation = Literal[
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh"
]
# The limits keep products of sizes within 64 bits, and loops over blocks and heads short.
Width = Annotated[int, Field(gt=0, le=2**20)]
Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Probability = Annotated[float, Field(ge=0, lt=1)]
DecoderHead = Literal["language-model", "sequence"]


class DecoderConfig(LabelConfig):
    """Everything that determines a decoder's computation. `decoder_config` fills in a family's defaults."""

    family: Literal["gpt2", "gpt-neo", "gpt-neox"]
    """Family whose initialisation, tensor names and config.json keys are used."""
    vocab_size: Annotated[Positive, Unit("tokens")]
    """Rows of the embedding; at least the tokenizer's size."""
    hidden_size: Annotated[Width, Unit("channels")]
    """Width of the residual stream; a multiple of num_heads."""
    num_layers: Annotated[Layers, Unit("blocks")]
    """Number of blocks."""
    num_heads: Annotated[Width, Unit("heads")]
    """Attention heads of each block."""
    intermediate_size: Annotated[Positive | None, Unit("channels")] = None
    """Width of the MLP; null: 4 x hidden_size."""
    max_position_embeddings: Annotated[Positive, Unit("tokens")]
    """Context length."""
    attention_layers: tuple[Literal["global", "local"], ...] = ("global",)
    """Kinds of attention, repeated over the blocks."""
    window_size: Annotated[Positive, Unit("tokens")] = 256
    """Tokens that a local layer attends to, the token itself included."""
    position_embedding: Literal["learned", "rotary"] = "learned"
    """Learned absolute positions, or rotary ones inside attention."""
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of each head's channels that is rotated."""
    rotary_base: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary wavelengths."""
    parallel_residual: bool = False
    """Attention and MLP both read the block's input (x + attn(norm1 x) + mlp(norm2 x))."""
    qkv_bias: bool = True
    """Bias on the query, key and value projections."""
    output_bias: bool = True
    """Bias on the attention output projection."""
    tie_embeddings: bool = True
    """The output head is the token embedding."""
    activation: Activation = "gelu_new"
    """Non-linearity of the MLP."""
    attention_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on query-key products; null: 1/sqrt(head size)."""
    scale_attention_by_layer: bool = False
    """Divide the factor by the block's number, counted from 1 (an option of GPT-2's format)."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Epsilon of the layer norms."""
    embedding_dropout: Probability = 0.0
    """Dropout after the embeddings."""
    residual_dropout: Probability = 0.0
    """Dropout on what attention and MLP add to the residual stream."""
    attention_dropout: Probability = 0.0
    """Dropout on attention weights."""
    bos_token_id: int | None = None
    """Token that begins a text."""
    eos_token_id: int | tuple[int, ...] | None = None
    """Token that ends a text, or several."""
    end_token_ids: tuple[int, ...] | None = None
    """Tokens that end a generated text, if they are not those of eos_token_id (`generation_config.json`)."""
    pad_token_id: int | None = None
    """Token that fills up a batch in other programs, which find the end of a text by it; here attention masks do."""
    head: DecoderHead = "language-model"
    """What reads the hidden states: a language model, or a classifier of sequences, at the last token of a text."""

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `end_token_ids` where it says nothing: settings of older trainings, which lack it, stay equal."""
        fields: dict[str, Any] = serialize(self)
        return fields if self.end_token_ids is not None else {k: v for k, v in fields.items() if k != "end_token_ids"}

    @model_validator(mode="after")
    def _consistent(self) -> DecoderConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size: {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if not self.attention_layers:
            raise ValueError("attention_layers: at least one kind must be given")
        # For an odd number transformers rotates the last half pair too, so it needs one channel more.
        if self.position_embedding == "rotary" and not 1 <= self.rotary_size <= self.head_size // 2 * 2:
            raise ValueError(
                f"rotary_fraction: {self.rotary_fraction} of a head of {self.head_size} rotates {self.rotary_size} "
                f"channels; it must be 1 to {self.head_size // 2 * 2}"
            )
        return self

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a generated text; the tokenizer's own end of text is another."""
        if self.end_token_ids is not None:
            return self.end_token_ids
        ids = self.eos_token_id
        return ids if isinstance(ids, tuple) else () if ids is None else (ids,)

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_size(self) -> int:
        """Width of the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def rotary_size(self) -> int:
        """Channels of each head that are rotated."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def windows(self) -> set[int | None]:
        """The different windows of the blocks; None stands for global attention."""
        return {self.window(layer) for layer in range(self.num_layers)}

    @property
    def ties_head(self) -> bool:
        """Whether the head's weight is the embedding."""
        return self.tie_embeddings and self.head == "language-model"

    @property
    def has_standard_scale(self) -> bool:
        """Whether query-key products are multiplied by 1/sqrt(head size)."""
        return self.attention_scale is None or math.isclose(self.attention_scale, self.head_size**-0.5)

    def window(self, layer: int) -> int | None:
        """Window of block `layer` (from 0) in tokens; None for global attention."""
        kind = self.attention_layers[layer % len(self.attention_layers)]
        return self.window_size if kind == "local" else None

    def scale(self, layer: int) -> float:
        """Factor on query-key products in block `layer` (from 0)."""
        scale = self.attention_scale if self.attention_scale is not None else self.head_size**-0.5
        return scale / (layer + 1) if self.scale_attention_by_layer else scale

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs per token: 6 per matrix weight, and 12 x heads x head size x keys (PaLM, appendix B).

        As in PaLM, the causal mask does not halve the number and recomputation is not counted. Only the keys within its
        window count for a local layer; the embedding look-up does not count.
        """
        h, L = self.hidden_size, self.num_layers
        outputs = self.vocab_size if self.head == "language-model" else 0  # a classifier computes one token a text
        weights = L * (4 * h * h + 2 * h * self.mlp_size) + h * outputs
        keys = sum(min(self.window(layer) or sequence_length, sequence_length) for layer in range(L))
        return 6.0 * weights + 12.0 * h * keys


def decoder_config(family: str, **fields: Any) -> DecoderConfig:
    """A `DecoderConfig` of `family`, a key of `FAMILIES`. Raises `SettingError` if the fields do not fit together."""
    given = {key: value for key, value in fields.items() if value is not None}
    try:
        return DecoderConfig(family=FAMILIES[family].name, **{**FAMILIES[family].defaults, **given})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        message = ": ".join([*map(str, first["loc"][:1]), first["msg"].removeprefix("Value error, ")])
        raise SettingError(*message.split(": ", 1)) from None
