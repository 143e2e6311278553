"""Settings of generation: one definition for the Python functions, the command line, recipes and the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator

from neolm.core.config import Config, Unit, validate

StopString = Annotated[str, Field(min_length=1)]


class GenerationConfig(Config):
    """Length, sampling and stopping of generated text."""

    max_new_tokens: Annotated[int, Field(ge=0), Unit("tokens")] = 128
    """Maximum length of the continuation; a full context ends it earlier."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Divides the logits before the softmax; 0 always takes the likeliest token (greedy)."""
    top_k: Annotated[int, Field(ge=1), Unit("tokens")] | None = None
    """Sample from the k likeliest tokens only; null: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the smallest set of likeliest tokens that has this probability; null: from all."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1 makes tokens of the prompt and the continuation less likely (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that are in the continuation."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens once for each time that they are in the continuation."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """Added to the logits of these token ids: -100 practically bans a token, 100 practically forces it."""
    stop: tuple[StopString, ...] = ()
    """Strings that end the continuation; they are not part of it."""
    ignore_eos: bool = False
    """Continue after the end-of-text token, which itself is never shown."""
    seed: int | None = None
    """Seed of the sampling; null: different every time."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show only the settings that differ from their defaults."""
        default = GenerationConfig.model_construct()
        return ((name, value) for name, value in self if value != getattr(default, name))


def generation_config(**settings: Any) -> GenerationConfig:
    """Return a `GenerationConfig` with `settings`; `stop` may be one string or several.

    Raises:
        InputError: an unknown setting or a value out of range.
    """
    return validate(GenerationConfig, settings, {})
