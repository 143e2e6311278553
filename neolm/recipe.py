"""A recipe: one YAML file that names everything a run does, its sections the stages in order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from neolm.core.config import Config, load_config
from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.corpus.config import CorpusConfig
from neolm.evaluation.config import EvaluateConfig
from neolm.models.config import ModelConfig
from neolm.tokenizer.config import TokenizerConfig
from neolm.training.pretrain_config import PretrainConfig


class Recipe(Config):
    """From raw text to a measured model."""

    output: Annotated[str, Field(min_length=1)]
    """Directory that the run is built in."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the initial weights, the order of the data and dropout."""
    corpus: CorpusConfig = CorpusConfig()
    """Raw text to documents."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Documents to a vocabulary."""
    model: ModelConfig = ModelConfig()
    """The decoder."""
    pretrain: PretrainConfig
    """Its training."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Its measurement."""


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file `name`, or the built-in one of that name, with `a.b=value` overrides.

    Raises:
        InputError: no such recipe, or it is not valid.
    """
    return load_config(Recipe, _find(name), overrides)


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with NeoLM, by name."""
    folder = Path(str(files("neolm"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, every default spelled out."""
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    builtin = builtin_recipes()
    if name in builtin:
        return builtin[name]
    if Path(name).is_dir():
        raise InputError(f"{name}: this is a directory; a recipe is a .yaml file or one of {', '.join(builtin)}")
    near = difflib.get_close_matches(Path(name).stem, builtin, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"built-in recipes: {', '.join(builtin)}"
    raise InputError(f"{name}: no such recipe file; {hint}")
