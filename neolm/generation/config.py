"""How to continue a prompt: one definition for the Python functions, the command line, recipes and the server."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from neolm.core.config import Config, Unit, validate

StopString = Annotated[str, Field(min_length=1)]


class GenerationConfig(Config):
    """Length, sampling and stopping of generated text."""

    max_new_tokens: Annotated[int, Field(ge=0), Unit("tokens")] = 128
    """Longest continuation; the model's context ends it earlier where it is full."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Divides the logits before the softmax; 0 always takes the likeliest token (greedy)."""
    top_k: Annotated[int, Field(ge=1), Unit("tokens")] | None = None
    """Draw from the k likeliest tokens only; null: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the smallest set of likeliest tokens that has this probability; null: from all."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Makes tokens that the prompt or the continuation already has less likely where above 1 (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the continuation already has."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens for each time that the continuation already has them."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """Added to the logits of these token ids: -100 as good as bans one, 100 as good as forces it."""
    stop: tuple[StopString, ...] = ()
    """Texts that end the continuation; they are not part of it."""
    ignore_eos: bool = False
    """Go on after the end-of-text token, which itself is never shown."""
    seed: int | None = None
    """Fixes the draws of a temperature above 0; null: different every time."""


def generation_config(**fields: Any) -> GenerationConfig:
    """A `GenerationConfig` of `fields`; `stop` may be one string or several.

    Raises:
        InputError: an unknown key or a value out of range.
    """
    stop = fields.get("stop")
    if isinstance(stop, str):
        fields["stop"] = (stop,)
    elif stop is not None:
        fields["stop"] = tuple(stop)
    return validate(GenerationConfig, fields, {})
