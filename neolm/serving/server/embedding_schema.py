"""Bodies of requests and responses of `/v1/embeddings`, as in OpenAI's API. Additions are marked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from neolm.serving.server.request_schema import (
    IGNORED,
    NUMBER,
    Flag,
    Ids,
    RequestShape,
    Shape,
    Short,
    Text,
    texts_or_ids,
)

MAX_INPUTS = 2048
"""Texts of one request; the limit of OpenAI's API."""


def _inputs(value: Any) -> list[str | list[int]]:
    texts = texts_or_ids(value, MAX_INPUTS, "input")
    if empty := [index for index, one in enumerate(texts) if one == []]:
        raise ValueError("is an empty list" if len(texts) == 1 else f"has an empty list of token ids, index {empty[0]}")
    return texts


NonEmptyIds = Annotated[Ids, Field(min_length=1)]


class EmbeddingRequest(RequestShape):
    """Turn texts into vectors."""

    model: Annotated[Text, Field(max_length=512)]
    """Name of the model, one of `/v1/models` of the kind embed."""
    input: Annotated[
        list[str | list[int]],
        BeforeValidator(
            _inputs,
            json_schema_input_type=Text
            | NonEmptyIds
            | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
            | Annotated[list[NonEmptyIds], Field(min_length=1, max_length=MAX_INPUTS)],
        ),
    ]
    """A text, a list of token ids, or a list of either. Nothing is added to token ids: they begin with [CLS]."""
    encoding_format: Literal["float", "base64"] | None = None
    """float: a list of numbers; base64: the bytes of little-endian float32. Default: float."""
    dimensions: Annotated[int, Field(ge=1, lt=2**31), NUMBER] | None = None
    """Keep only the first numbers of a vector, for models trained for that (Matryoshka). Default: all."""
    normalize: Flag | None = None
    """Scale vectors to length 1. Default: as the model's files say, else true. (An addition to OpenAI's API.)"""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=2**31), NUMBER] | None = None
    """Read only the first tokens of a longer text, at least 3; -1: as many as the model can. (An addition.)"""
    user: Short | None = IGNORED

    @model_validator(mode="after")
    def _keeps_a_token(self) -> EmbeddingRequest:
        if self.truncate_prompt_tokens in (0, 1, 2):
            raise ValueError("truncate_prompt_tokens must be -1 or at least 3, because it includes [CLS] and [SEP]")
        return self


class Embedding(Shape):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    """Number of the text in `input`."""
    embedding: list[float] | str
    """The vector: numbers, or with `base64` the bytes of little-endian float32."""


class EmbeddingUsage(Shape):
    """Numbers of tokens, special ones included."""

    prompt_tokens: int
    total_tokens: int
    left_out_tokens: int | None = None
    """Tokens that `truncate_prompt_tokens` left out of the texts. (An addition.)"""


class EmbeddingList(Shape):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
