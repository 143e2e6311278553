"""A moderation policy: a YAML file with classifiers, categories, thresholds, actions and canary examples.

OpenAI's categories are those of its moderation API of 2024, the attributes those of the Perspective API.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from neolm.core.config import Config, Unit, load_config

Action = Literal["allow", "flag", "block"]
"""From the mildest to the strictest."""
Side = Literal["prompt", "answer"]
Mode = Literal["observe", "flag", "block"]
OpenAICategory = Literal[
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
]
Attribute = Literal["TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT"]
OPENAI_CATEGORIES: tuple[str, ...] = typing.get_args(OpenAICategory)
ACTIONS: tuple[Action, ...] = typing.get_args(Action)
Some = Annotated[str, Field(min_length=1)]


class Category(Config):
    """What is judged: labels of a classifier, and what happens to a text that has one of them."""

    model: str
    """One of `models`."""
    labels: Annotated[tuple[Some, ...], Field(min_length=1)]
    """Labels of the model that count: the sum of their probabilities if a text has one label, else the highest."""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """The probability from which a text is in the category; null: the model's own, 0.5 if it has stored none."""
    prompt: Action
    """What happens to a prompt in the category."""
    answer: Action
    """What happens to an answer in the category."""
    openai: OpenAICategory | None = None
    """The category of OpenAI's moderation API that it is reported as."""
    perspective: Attribute | None = None
    """The attribute of the Perspective API that it is reported as."""


class Canary(Config):
    """A text whose decision is known. A policy that decides otherwise is not used."""

    text: Some
    category: str
    """One of `categories`."""
    expected: bool
    """Whether the text is in the category."""


class Policy(Config):
    """What a policy file holds."""

    version: str | int
    """Chosen by its author; reported with each decision."""
    mode: Mode
    """observe: decisions are counted only; flag: they are reported too, and nothing is blocked; block: as written."""
    models: Annotated[Mapping[str, Some], Field(min_length=1)]
    """Names of classifiers with their directories, relative to the policy file, or hub ids."""
    categories: Annotated[Mapping[str, Category], Field(min_length=1)]
    """Categories by name."""
    canaries: tuple[Canary, ...] = ()
    """Examples that are judged whenever the policy is loaded."""
    languages: Annotated[tuple[Some, ...], Field(min_length=1)] = ("en",)
    """Languages that the classifiers read; requests that name others are refused."""
    window_tokens: Annotated[int, Field(ge=8), Unit("tokens")] | None = None
    """Longest part in which a text is read, special tokens included; null: the model's own. In a long window, a short
    harmful sentence has little weight."""
    part_characters: Annotated[int, Field(ge=20, le=10_000), Unit("characters")] = 200
    """An answer is judged in parts of about this length, which a stream sends when they have been judged."""

    @model_validator(mode="after")
    def _names_exist(self) -> Policy:
        for name, category in self.categories.items():
            if category.model not in self.models:
                raise ValueError(
                    f"categories.{name}.model: no model {category.model!r}; there are {_list(self.models)}"
                )
        for number, canary in enumerate(self.canaries):
            if canary.category not in self.categories:
                known = _list(self.categories)
                raise ValueError(f"canaries.{number}.category: no category {canary.category!r}; there are {known}")
        if unused := {*self.models} - {category.model for category in self.categories.values()}:
            raise ValueError(f"models.{min(unused)}: no category uses this model")
        return self

    def models_in(self, folder: Path) -> dict[str, str]:
        """The place of each model, for a policy file in `folder`."""
        places = {name: folder / given for name, given in self.models.items()}
        return {name: str(path if path.exists() else self.models[name]) for name, path in places.items()}


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file.

    Raises:
        InputError: the file cannot be read, or a key is unknown, missing, given twice or has a wrong value.
    """
    return load_config(Policy, path)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(names)
