"""A recipe: one YAML file (or a mapping) with everything that a run does. Its sections are the steps, in order."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from neolm.core.config import Config, Overrides, leaves, load_config
from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.yaml_file import read_yaml, to_yaml
from neolm.corpus.config import CorpusConfig
from neolm.evaluation.config import EvaluateConfig
from neolm.finetuning.config import FinetuneConfig
from neolm.models.model_config import ModelConfig
from neolm.study_config import CELL_SECTIONS, SHARED_SECTIONS, StudyConfig, cell_directory
from neolm.tokenizer.config import TokenizerConfig
from neolm.training.pretrain_config import PretrainConfig


class Recipe(Config):
    """What a run does. Every section is optional; a section reads what the sections before it left in `output`."""

    output: Annotated[str, Field(min_length=1)]
    """Directory that the run is built in."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the initial weights, the order of the data and dropout."""
    base: str | None = None
    """Model to start from, with its tokenizer: a model directory or a hub id. Takes the place of `model` and
    `tokenizer`; null: start from random weights."""
    corpus: CorpusConfig | None = None
    """Build documents from raw text."""
    tokenizer: TokenizerConfig | None = None
    """Build a tokenizer from the documents."""
    model: ModelConfig | None = None
    """Architecture of a new model."""
    pretrain: PretrainConfig | None = None
    """Train the model on the documents."""
    finetune: FinetuneConfig | None = None
    """Train the base to do a task, from tables of examples."""
    evaluate: EvaluateConfig | None = None
    """Measure the model. A recipe that trains a model measures it with the default settings if this section is missing,
    and not at all if it is null."""
    study: StudyConfig | None = None
    """Train several models that differ in a few settings, instead of one."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.base is not None and (self.model or self.tokenizer):
            raise ValueError("base brings its own architecture and tokenizer: set model=null tokenizer=null")
        if self.pretrain is not None and self.base is None and self.model is None:
            raise ValueError("pretrain needs a model: model.preset, model.family with its sizes, or base=MODEL")
        if self.finetune is not None and (self.base is None or self.pretrain is not None):
            raise ValueError(
                "finetune needs base=MODEL, and no section pretrain: fine-tune the result of a pretraining"
            )
        if self.study is not None and (self.pretrain is None or self.base is not None):
            raise ValueError("study needs the sections model and pretrain, and no base")
        return self

    def complete(self, tokenizer_exists: bool = False) -> Recipe:
        """The recipe with default settings for the sections that a training needs and the recipe leaves out."""
        changes: dict[str, Any] = {}
        if self.pretrain is not None:
            if self.tokenizer is None and self.base is None and not tokenizer_exists:
                changes["tokenizer"] = TokenizerConfig()
            if "evaluate" not in self.model_fields_set:
                changes["evaluate"] = EvaluateConfig()
        return self.model_copy(update=changes)

    def cell(self, name: str, seed: int) -> Recipe:
        """The recipe of one training of the study, in a directory of its own. It reads the shared stages from there.

        Raises:
            InputError: a setting of the cell is not valid, or not one that a cell may change.
        """
        assert self.study is not None
        common = self.model_dump(mode="json", exclude_unset=True, exclude={"study", *SHARED_SECTIONS})
        common |= {"output": f"{self.output}/{cell_directory(name, seed)}", "seed": seed}
        changes = list(leaves(self.study.cells[name]))
        for key, _ in changes:
            if (section := key.partition(".")[0]) in type(self).model_fields and section not in CELL_SECTIONS:
                raise InputError(
                    f"study.cells.{name}.{key}: {section} is the same in all cells; a cell can change "
                    f"{', '.join(CELL_SECTIONS)}"
                )
        texts = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes]
        try:
            return load_config(Recipe, common, texts, where="")
        except InputError as error:
            raise InputError(f"study.cells.{name}: {error}") from None


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """The recipe in a file, a built-in recipe by its name, or a mapping; with overrides.

    Raises:
        InputError: there is no such recipe, or it or one of its cells is not valid.
    """
    found = source if isinstance(source, Mapping) else _find(str(source))
    recipe = load_config(Recipe, found, overrides)
    for name in recipe.study.cells if recipe.study else ():
        try:
            recipe.cell(name, 0)
        except InputError as error:
            raise InputError(f"{_place(found, name)}{error}") from None
    return recipe


def _place(source: Path | Mapping[str, Any], cell: str) -> str:
    """File and line of a cell, for an error message."""
    line = read_yaml(source)[1].get(f"study.cells.{cell}") if isinstance(source, Path) else None
    return f"{source}:{line}: " if line else ""


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with NeoLM, by name."""
    folder = Path(str(files("neolm"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe with every default spelled out. Sections that the recipe does not have are left out."""
    data = recipe.model_dump(mode="json")
    written = {key: value for key, value in data.items() if value is not None or key in recipe.model_fields_set}
    write_text(path, to_yaml(written))


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
