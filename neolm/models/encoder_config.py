"""The shape of an encoder: BERT (Devlin et al. 2019) and ALBERT (Lan et al. 2020) as data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from neolm.core.config import Unit
from neolm.core.errors import SettingError
from neolm.models.config import Activation, Layers, Probability, Width
from neolm.models.families import FAMILIES
from neolm.models.label_config import LabelConfig, Positive

Head = Literal["none", "pretraining", "masked", "sentence", "sequence", "token", "choice", "span"]
Initialisation = Literal["published", "informed"]
Sharing = Literal["all", "attention", "feed-forward", "none"]
Pooling = Literal["first", "mean"]

POOLED = ("pretraining", "sentence", "sequence", "choice")
"""Heads that read one vector a sequence."""
MEAN_POOLED = ("sequence", "choice")
"""Heads that can read the mean of the hidden states."""


def needs_pooler(head: Head, pooling: Pooling) -> bool:
    """Whether a head reads the pooler."""
    return head in POOLED and pooling == "first"


class EncoderConfig(LabelConfig):
    """Everything that determines an encoder's computation. `encoder_config` fills in a family's defaults."""

    family: Literal["bert", "albert"]
    """Family whose initialisation, tensor names and config.json keys are used."""
    vocab_size: Annotated[Positive, Unit("tokens")]
    """Rows of the embedding; at least the tokenizer's size."""
    hidden_size: Annotated[Width, Unit("channels")]
    """Width of the residual stream; a multiple of num_heads."""
    embedding_size: Annotated[Width | None, Unit("channels")] = None
    """Width of the embeddings, which a linear layer maps to hidden_size; null: hidden_size, without that layer."""
    num_layers: Annotated[Layers, Unit("blocks")]
    """Number of layers that are computed; with shared parameters there are fewer blocks in memory."""
    num_heads: Annotated[Width, Unit("heads")]
    """Attention heads of each block."""
    intermediate_size: Annotated[Positive | None, Unit("channels")] = None
    """Width of the MLP; null: 4 x hidden_size."""
    max_position_embeddings: Annotated[Positive, Unit("tokens")] = 512
    """Longest sequence."""
    type_vocab_size: Positive = 2
    """Number of token types: the first and the second segment."""
    groups: Layers | None = None
    """Groups of consecutive layers that share their parameters; null: every layer has its own."""
    blocks_per_group: Layers = 1
    """Blocks of a group, all of which are computed in each of its layers."""
    sharing: Sharing = "all"
    """Parameters that the layers of a group share. Not "all": there is one group, of which only the attention or only
    the feed-forward part is shared; "none" is the same as no groups."""
    activation: Activation = "gelu"
    """Non-linearity of the MLP and of the masked language model head."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-12
    """Epsilon of the layer norms."""
    residual_dropout: Probability = 0.0
    """Dropout after the embeddings and on what attention and MLP add to the residual stream."""
    attention_dropout: Probability = 0.0
    """Dropout on attention weights."""
    classifier_dropout: Probability | None = None
    """Dropout before a head that classifies; null: residual_dropout."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of new weights, drawn from a normal distribution that is truncated at twice that."""
    initialisation: Initialisation = "published"
    """New weights: random, as published; or informed, where half of the attention heads look at a neighbouring token
    and a pretraining sets the output biases to the frequencies of the tokens."""
    pad_token_id: int | None = 0
    """Token that fills up a batch."""
    bos_token_id: int | None = None
    """Token that begins a text."""
    eos_token_id: int | None = None
    """Token that ends a text."""
    head: Head = "pretraining"
    """What reads the hidden states: masked language model and sentence task (pretraining), one of them, a classifier of
    sequences, of tokens or of choices, or of the begin and end of a span."""
    pooler: bool = True
    """A linear layer with tanh on the first token."""
    pooling: Pooling = "first"
    """What a classifier of sequences or of choices reads: the pooler at the first token, or the mean of the hidden
    states of all tokens, [CLS] and [SEP] included, without a pooler. A sentence encoder's pooler was never trained."""
    sentence_task: Literal["nsp", "sop"] | None = None
    """Meaning of the sentence head's label 1: the second segment is from another document (nsp, next sentence
    prediction) or the segments are swapped (sop, sentence order prediction); null: there is no such head."""

    @model_validator(mode="after")
    def _consistent(self) -> EncoderConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size: {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.embedding_size is not None and self.embedding_size > self.hidden_size:
            raise ValueError(
                f"embedding_size: {self.embedding_size} is more than hidden_size {self.hidden_size}; factorised "
                "embeddings are narrower"
            )
        if self.groups is not None and self.groups > self.num_layers:
            raise ValueError(f"groups: {self.groups} is more than num_layers {self.num_layers}")
        if self.sharing in ("attention", "feed-forward") and (self.groups != 1 or self.blocks_per_group != 1):
            raise ValueError(f"sharing: '{self.sharing}' needs groups 1 and blocks_per_group 1")
        if self.initialisation == "informed" and min(self.head_size, self.embedding_width) < 2:
            raise ValueError("initialisation: 'informed' needs heads and embeddings of at least 2 channels")
        if self.pooling == "mean" and self.head not in MEAN_POOLED:
            raise ValueError(f"pooling: 'mean' is for the heads {' and '.join(MEAN_POOLED)}, not for '{self.head}'")
        if needs_pooler(self.head, self.pooling) and not self.pooler:
            raise ValueError(f"pooler: the head '{self.head}' needs it")
        if self.pooling == "mean" and self.pooler:
            raise ValueError("pooler: the pooling 'mean' has none; set it to false")
        return self

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_size(self) -> int:
        """Width of the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def shares(self) -> bool:
        """Whether layers share parameters."""
        return self.groups is not None and self.sharing != "none"

    @property
    def stored_blocks(self) -> int:
        """Number of blocks with parameters of their own, at least in part."""
        shared = self.groups is not None and self.sharing == "all"
        return (self.groups or 0) * self.blocks_per_group if shared else self.num_layers * self.blocks_per_group

    def blocks_of(self, layer: int) -> range:
        """Blocks that are computed in `layer` (from 0): those of group int(layer x groups / layers), as published."""
        groups = self.groups if self.groups is not None and self.sharing == "all" else self.num_layers
        first = int(layer / (self.num_layers / groups)) * self.blocks_per_group
        return range(first, first + self.blocks_per_group)

    def flops_per_token(self, sequence_length: int, predictions: float = 0.15) -> float:
        """Training FLOPs per token: 6 per matrix weight that is computed, and 12 x channels x keys (PaLM, appendix B).

        The masked language model head counts for the share `predictions` of the tokens.
        """
        h, blocks, E = self.hidden_size, self.num_layers * self.blocks_per_group, self.embedding_width
        weights = blocks * (4 * h * h + 2 * h * self.mlp_size) + (E * h if self.embedding_size else 0)
        head = (h * E + E * self.vocab_size) * predictions if self.head in ("pretraining", "masked") else 0.0
        return 6.0 * (weights + head) + 12.0 * h * blocks * sequence_length


def encoder_config(family: str, **fields: Any) -> EncoderConfig:
    """An `EncoderConfig` of `family`, a key of `FAMILIES`. Raises `SettingError` if the fields do not fit together."""
    given = {key: value for key, value in fields.items() if value is not None}
    try:
        return EncoderConfig(**{"family": FAMILIES[family].name, **FAMILIES[family].defaults, **given})
    except ValidationError as error:
        first = error.errors()[0]
        message = ": ".join([*map(str, first["loc"][:1]), first["msg"].removeprefix("Value error, ")])
        raise SettingError(*message.split(": ", 1)) from None
